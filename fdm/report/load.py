"""Results on disk → checked dataclasses.

Everything the report says comes through here, so here is where a file that does not belong is refused: a record of
another run, a manifest in the wrong folder, a number that is not finite. The rest of the room can then trust its input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from fdm.config import explain
from fdm.errors import UserError
from fdm.grids import Ablation
from fdm.plain import BROKEN, map_array
from fdm.report.plan import Plan
from fdm.store import sealed, sha256

CURVE = ("step", "images", "stage", "loss")
KINDS = ("train", "sample", "evaluate")
DRAWN = ("vary", "interpolate")
SAMPLES = ("samples.npy", "grid.png")
"""Where a run's first samples are: all of them, or the first 64 as a picture (published results have only that)."""
DRAWN_FROM: Mapping[str, Sequence[str]] = {
    "samples": SAMPLES,
    "reverse process": ("trajectory.npz",),
    "training curve": ("training.csv",),
    "forward process": ("forward.npz",),
}
"""Files behind pictures and curves, one of which is enough. Tables do without them, and a partial report may."""


class File(BaseModel):
    """A JSON file of the contract; later versions may add keys, so unknown ones are kept, not refused."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class Reference(File):
    """The images that scores compare with."""

    dataset: str
    split: str
    count: int
    digest: str


class Metrics(File):
    """``metrics.json``."""

    samples: int
    reference: Reference
    features: dict[str, dict[str, float]]


class TrainingCost(File):
    """What training took."""

    images: int
    steps: int
    seconds: float
    images_per_second: float
    flops: float


class Cost(File):
    """``cost.json``."""

    parameters: int
    evaluations_per_sample: float
    flops_per_evaluation: dict[str, float]
    flops_per_sample: float
    seconds_per_sample: float
    peak_memory_bytes: float | None
    device: str
    training: TrainingCost


class Record(File):
    """``train.json``, ``sample.json`` and their copies in the manifest.

    Attributes:
        files: SHA-256 of the files that the run made.
        classes: of a class-conditional ``sample.json``: sample i has class ``classes[i mod len(classes)]``.
    """

    identity: str
    classes: tuple[int, ...] | None = None
    files: dict[str, str] = {}


class Manifest(File):
    """``manifest.json``."""

    experiment: dict[str, Any]
    seed: int
    identities: dict[str, str]
    data: dict[str, Any]
    records: dict[str, Record]


class Interval(File):
    """A mean over images and its 95 % interval."""

    mean: float
    low: float
    high: float


class Task(File):
    """Restorations from one signal: scores by way to restore."""

    stage: int
    task: str
    measurement: tuple[int, ...]
    scores: dict[str, dict[str, Interval]]


class RestoredImages(File):
    """What was measured."""

    source: str
    count: int
    shape: tuple[int, ...]


class Conditional(File):
    """A record of what was made with a finished training, apart from its samples."""

    train: str
    files: dict[str, str] = {}


class Drawn(Conditional):
    """``vary.json`` or ``interpolate.json``; ``shape`` is (rows, columns, C, H, W)."""

    shape: tuple[int, int, int, int, int]


class Restored(Conditional):
    """``restore.json``."""

    images: RestoredImages
    rounded: bool
    lpips: str | None
    tasks: tuple[Task, ...]


Given = TypeVar("Given", bound=Conditional)


@dataclass(frozen=True)
class Trajectory:
    """The reverse process of a few samples, from noise to data."""

    t: np.ndarray
    stage: np.ndarray
    z: list[np.ndarray]
    x: list[np.ndarray]


@dataclass(frozen=True)
class Run:
    """One experiment under one seed; ``drawn`` holds variations and interpolations by the verb that made them."""

    folder: Path
    seed: int
    manifest: Manifest
    metrics: Metrics
    cost: Cost
    restored: Restored | None = None
    drawn: Mapping[str, Drawn] = field(default_factory=dict)

    def has(self, files: Sequence[str]) -> bool:
        """Whether one of these files is here."""
        return any((self.folder / name).is_file() for name in files)

    @cached_property
    def curve(self) -> pd.DataFrame:
        """``training.csv``, checked; read when it is first needed, as tables do without it."""
        return read_curve(self.folder, "training.csv", CURVE, "train")

    def content(self, file: str) -> File | None:
        """What was read of one of the run's JSON files; None where the run has no such file."""
        known = {"manifest.json": self.manifest, "metrics.json": self.metrics, "cost.json": self.cost}
        return self.restored if file == "restore.json" else known[file]

    def samples(self, count: int) -> np.ndarray:
        """The first ``count`` samples, uint8 (count, C, H, W)."""
        path = self.folder / "samples.npy"
        try:
            stored = map_array(path)
        except (OSError, ValueError):
            raise UserError(f"{path}: missing or damaged; {again(self.folder, 'sample')}") from None
        if stored.ndim != 4 or stored.dtype != np.uint8 or len(stored) != self.metrics.samples:
            raise UserError(
                f"{path}: holds {stored.dtype} {stored.shape}, but metrics.json was computed on {self.metrics.samples} "
                f"uint8 images; {again(self.folder, 'evaluate')}"
            )
        return np.array(stored[:count])

    def trajectory(self) -> Trajectory:
        """Frames of the reverse process."""
        path = self.folder / "trajectory.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                t, stage = stored["t"], stored["stage"]
                z, x = ([stored[f"{kind}_{j}"].astype(np.float32) for j in range(len(t))] for kind in "zx")
        except (OSError, *BROKEN):
            raise UserError(f"{path}: missing or damaged; {again(self.folder, 'sample')}") from None
        if len(t) == 0 or len(stage) != len(t) or not all(np.isfinite(frame).all() for frame in [t, *z, *x]):
            raise UserError(f"{path}: empty, uneven or with values that are not finite; {again(self.folder, 'sample')}")
        return Trajectory(t, stage, z, x)


@dataclass(frozen=True)
class Method:
    """One experiment and its runs, one per seed."""

    name: str
    title: str
    config: Mapping[str, Any]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Results:
    """A suite's results in the order of the suite; ``partial`` ones may lack runs, and runs files that tables do without."""

    suite: str
    title: str
    methods: tuple[Method, ...]
    warnings: tuple[str, ...]
    ablations: Mapping[str, Ablation] = field(default_factory=dict)
    partial: bool = False

    def having(self, *files: str) -> Results:
        """Of partial results the runs with one of these files, and methods with such a run; else all: a file that lacks is an error."""
        if not self.partial:
            return self
        kept = [(m, tuple(run for run in m.runs if run.has(files))) for m in self.methods]
        return replace(self, methods=tuple(replace(method, runs=runs) for method, runs in kept if runs))

    @property
    def timed_alike(self) -> bool:
        """Whether all runs sampled on devices of one name; else their seconds do not compare."""
        return len({run.cost.device for run in self.runs}) == 1

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of the methods."""
        return [run for method in self.methods for run in method.runs]


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


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resolved experiment its scores depend on; of the rest a manifest holds what was asked when they were made."""
    apart = ("name", "title", "restoration", "exploration")
    return {key: value for key, value in config.items() if key not in apart}


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
    # The contract gives scores and costs no identity of their own; where one is given, it must be this run's.
    for file, content in (("metrics.json", metrics), ("cost.json", cost)):
        own = (content.model_extra or {}).get("identity", manifest.identities["evaluate"])
        if own != manifest.identities["evaluate"]:
            raise UserError(
                f"{folder / file}: its identity is not the one in manifest.json; {again(folder, 'evaluate')}"
            )
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


def read_curve(folder: Path, name: str, columns: Sequence[str], kind: str) -> pd.DataFrame:
    """A log of losses, checked: it has these columns, and they hold finite numbers."""
    path = folder / name
    try:
        curve = pd.read_csv(path)
    except (OSError, ValueError):
        raise UserError(f"{path}: missing or damaged; {again(folder, kind)}") from None
    if absent := [column for column in columns if column not in curve]:
        raise UserError(f"{path}: has no column {absent[0]!r}; {again(folder, kind)}")
    try:
        values = curve[list(columns)].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise UserError(f"{path}: holds something that is not a number; {again(folder, kind)}") from None
    if not len(curve) or not np.isfinite(values).all():
        raise UserError(f"{path}: empty, or a value is not finite; {again(folder, kind)}")
    return curve


Content = TypeVar("Content", bound=File)


def read_json(path: Path, model: type[Content], kind: str) -> Content:
    """A JSON file of a run, checked; ``kind`` is the verb that makes it."""

    def refuse(text: str) -> float:
        raise ValueError(f"{text} is not a finite number")

    try:
        raw = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError:
        raise UserError(f"{path}: missing or unreadable; {again(path.parent, kind)}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); {again(path.parent, kind)}") from None
    if isinstance(raw, dict) and "digest" in raw and sealed(raw) != raw:
        raise UserError(f"{path}: damaged (it does not match its own digest); {again(path.parent, kind)}")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise explain(error, str(path), [model]) from None


def again(folder: Path, verb: str) -> str:
    """What to do about a bad file of a run."""
    return f"run `fdm {verb}` for {folder.parent.name} with --seed {folder.name[4:]} again"
