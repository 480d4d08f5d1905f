"""Results on disk → checked dataclasses.

Everything the report says comes through here, so here is where a file that does not belong is refused: a record of
another run, a manifest in the wrong folder, a number that is not finite. The rest of the room can then trust its input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fdm.errors import UserError
from fdm.report.files import Conditional, Cost, Drawn, Manifest, Metrics, Record, Restored, again, read_json
from fdm.report.plan import Plan
from fdm.report.results import SAMPLES, Method, Results, Run, settings_of
from fdm.store import sha256

KINDS = ("train", "sample", "evaluate")
DRAWN = ("vary", "interpolate")
DRAWN_FROM: Mapping[str, Sequence[str]] = {
    "samples": SAMPLES,
    "reverse process": ("trajectory.npz",),
    "training curve": ("training.csv",),
    "forward process": ("forward.npz",),
}
"""Files behind pictures and curves, one of which is enough. Tables do without them, and a partial report may."""

Given = TypeVar("Given", bound=Conditional)


def load(suite: str, results: Path, plan: Plan, partial: bool = False) -> Results:
    """Read and check every run of ``plan`` below ``results``.

    Args:
        partial: leave runs that are not finished out, experiments without any, and pictures whose files are not here, with warnings.

    Raises:
        UserError: nothing there, an experiment without any run, a missing or damaged file, or one of another run.
    """
    if not results.is_dir():
        raise UserError(f"{results}: no such folder; make the results of suite {suite!r} first")
    present = sorted(path.name for path in results.iterdir() if path.is_dir() and list(path.glob("seed*")))
    if not present:
        raise UserError(f"{results}: no finished run (<experiment>/seed<k>/) here; make the results of {suite!r} first")
    warnings: list[str] = []
    methods = []
    for name in plan.experiments or present:
        folders = _seed_folders(results / name)
        runs = [_run(folder) for folder in folders if not partial or (folder / "manifest.json").is_file()]
        if not runs and partial:
            warnings.append(f"{name}: no run yet.")
            continue
        if not runs:
            raise UserError(
                f"{results / name}: experiment {name!r} of suite {suite!r} has no run; "
                "train, sample and evaluate it first"
            )
        missing = sorted(set(plan.seeds.get(name, ())) - {run.seed for run in runs})
        if missing:
            warnings.append(f"{name}: no run for seed {', '.join(map(str, missing))}.")
        config = runs[0].manifest.experiment
        for run in runs[1:]:
            if _settings(run) != _settings(runs[0]):
                raise UserError(
                    f"{run.folder / 'manifest.json'}: describes another experiment than "
                    f"{runs[0].folder}; rerun one of them"
                )
        # The run store knows a run by its settings; its manifest keeps the name under which it was first made.
        if others := sorted({str(run.manifest.experiment.get("name")) for run in runs} - {name}):
            warnings.append(f"{name}: its manifest names it {', '.join(others)} (equal settings under another name).")
        title = plan.experiments.get(name) or str(config.get("title") or name)
        methods.append(Method(name, title, config, tuple(runs)))
    if not methods:
        raise UserError(f"{results}: no finished run of an experiment that suite {suite!r} names")
    for identity, names in _twins(methods).items():
        warnings.append(f"{' and '.join(names)} are the same run ({identity}).")
    if plan.experiments and (extra := sorted(set(present) - set(plan.experiments))):
        warnings.append(f"Left out, because the suite does not name them: {', '.join(extra)}.")
    if not plan.experiments:
        warnings.append(
            "No suite file was found: experiments stand in alphabetical order, and missing runs go unnoticed."
        )
    if partial:
        warnings += _undrawn(methods)
    found = {method.name for method in methods}
    ablations = {name: a for name, a in plan.ablations.items() if not partial or {a.baseline, *a.experiments} <= found}
    return Results(suite, plan.title or suite, tuple(methods), tuple(warnings), ablations, partial)


def _undrawn(methods: Sequence[Method]) -> list[str]:
    """Of which methods no run has the files that some picture needs: a sentence for each set of such methods."""
    missing: dict[tuple[str, ...], list[str]] = {}
    for what, files in DRAWN_FROM.items():
        if bare := tuple(method.title for method in methods if not any(run.has(files) for run in method.runs)):
            missing.setdefault(bare, []).append(what)
    return [f"No {', '.join(whats)} here of: {'; '.join(bare)}." for bare, whats in missing.items()]


def _seed_folders(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("seed*") if path.is_dir() and path.name[4:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[4:]))


def _settings(run: Run) -> dict[str, Any]:
    return settings_of(run.manifest.experiment)


def _twins(methods: list[Method]) -> dict[str, list[str]]:
    """Names of experiments that share a run, by its identity."""
    owners: dict[str, list[str]] = {}
    for method in methods:
        for run in method.runs:
            owners.setdefault(run.manifest.identities["evaluate"], []).append(method.name)
    return {identity: names for identity, names in owners.items() if len(names) > 1}


def _run(folder: Path) -> Run:
    manifest = read_json(folder / "manifest.json", Manifest, "evaluate")
    metrics = read_json(folder / "metrics.json", Metrics, "evaluate")
    cost = read_json(folder / "cost.json", Cost, "evaluate")
    where = folder / "manifest.json"
    seed = int(folder.name[4:])
    if manifest.seed != seed:
        raise UserError(f"{where}: is of seed {manifest.seed}, not of this folder's; {again(folder, 'evaluate')}")
    for kind in KINDS:
        if kind not in manifest.identities or kind not in manifest.records:
            raise UserError(f"{where}: says nothing about {kind!r}; {again(folder, 'evaluate')}")
        if manifest.records[kind].identity != manifest.identities[kind]:
            raise UserError(f"{where}: its {kind} record is of another run; {again(folder, kind)}")
    for kind in ("train", "sample"):
        path = folder / f"{kind}.json"
        if read_json(path, Record, kind).identity != manifest.identities[kind]:
            raise UserError(f"{path}: its identity is not the one in manifest.json; {again(folder, 'evaluate')}")
    for kind, record in manifest.records.items():
        _require(folder, kind, record.files)
    if not metrics.features:
        raise UserError(f"{folder / 'metrics.json'}: holds no score; {again(folder, 'evaluate')}")
    drawn = {kind: _conditional(folder, manifest, kind, Drawn) for kind in DRAWN}
    present = {kind: record for kind, record in drawn.items() if record}
    return Run(folder, seed, manifest, metrics, cost, _conditional(folder, manifest, "restore", Restored), present)


def _conditional(folder: Path, manifest: Manifest, kind: str, model: type[Given]) -> Given | None:
    """``<kind>.json`` where there is one, checked; ``kind`` is the verb that makes it."""
    path = folder / f"{kind}.json"
    if not path.exists():
        return None
    found = read_json(path, model, kind)
    if found.train != manifest.identities["train"]:
        raise UserError(f"{path}: is of another training than manifest.json; {again(folder, kind)}")
    _require(folder, kind, found.files)
    return found


def _require(folder: Path, kind: str, files: Mapping[str, str]) -> None:
    """Refuse files that are not those of the record. What is missing is named by who reads it; nobody reads weights."""
    for name, digest in files.items():
        path = folder / name
        if path.suffix != ".safetensors" and path.is_file() and sha256(path) != digest:
            raise UserError(f"{path}: missing or damaged (not the file that its record lists); {again(folder, kind)}")
