"""Things that make runs of one suite hard to compare; they are said on the page, not hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fdm.report.results import Method, Results, Run

MOST_NAMES, MOST_GROUPS = 6, 4
"""Methods that are named one by one, of more the number of runs is said (the largest group is all others); groups that are named."""


def revision(run: Run, kind: str) -> str:
    """Code revision that made one step of a run."""
    return str(_provenance(run, kind).get("revision") or "unknown")


def packages(run: Run, kind: str) -> dict[str, str]:
    """Package versions that one step of a run used."""
    return {str(name): str(version) for name, version in (_provenance(run, kind).get("packages") or {}).items()}


def revisions(results: Results) -> list[str]:
    """All code revisions, in the order in which they are met."""
    return _distinct(revision(run, kind) for run in results.runs for kind in run.manifest.records)


def warnings(results: Results) -> list[str]:
    """One sentence per thing that a reader should know before comparing rows."""
    found = list(results.warnings)
    found += _code(results)
    everything = revisions(results)
    if any(name.endswith("+changes") for name in everything):
        found.append("Some runs were made by code with changes that no commit holds (revision ends in +changes).")
    if "unknown" in everything:
        found.append("Some runs do not know the code revision that made them (they ran outside a git checkout).")
    found += _differ(
        results,
        "Package versions differ between runs",
        lambda run: ", ".join(f"{name} {version}" for name, version in sorted(packages(run, "train").items())),
    )
    found += _differ(
        results,
        "Times do not compare: devices differ",
        lambda run: ", then ".join(dict.fromkeys((run.manifest.records["train"].device, run.cost.device))),
    )
    found += _differ(
        results, "Scores do not compare: numbers of samples differ", lambda run: f"{run.metrics.samples:,} samples"
    )
    found += _differ(results, "Scores do not compare: reference images differ", _reference)
    found += _differ(
        results, "Scores do not compare: feature networks differ", lambda run: ", ".join(sorted(run.metrics.features))
    )
    found += _differ(results, "Training budgets differ", lambda run: f"{run.cost.training.images:,} images")
    found += _differ(
        results, "Training data differs between runs", lambda run: str(run.manifest.data.get("digest"))[:12]
    )
    seeds = {method.name: [run.seed for run in method.runs] for method in results.methods}
    if len({tuple(value) for value in seeds.values()}) > 1:
        found.append(
            "Numbers of seeds differ between methods, and with them the widths (with one seed also the kind) of intervals."
        )
    return found


def _code(results: Results) -> list[str]:
    """Which code made the runs, where that is not one revision for all; digests of the code tell whether it matters."""
    everything = revisions(results)
    if len(everything) < 2:
        return []
    trained = {(method.name, run.manifest.sources.get("train")) for method in results.methods for run in method.runs}
    rest = {(kind, run.manifest.sources.get(kind)) for run in results.runs for kind in ("sample", "evaluate")}
    told = all(version for _, version in trained | rest)
    if told and len(trained) == len(results.methods) and len(rest) == 2:
        return [
            f"Runs were made at {len(everything)} code revisions, which manifests name. By the digests of the code that they ran, training "
            "is the same for all seeds of a method, sampling and evaluation for all runs."
        ]
    found = _differ(results, "Code revisions differ between runs", lambda run: revision(run, "train")[:12])
    inside = [run for run in results.runs if len({revision(run, kind) for kind in run.manifest.records}) > 1]
    if inside:
        names = [f"{run.folder.parent.name} seed {run.seed}" for run in inside]
        said = ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} of {len(results.runs)} runs"
        found.append(f"Training, sampling and evaluation used different code revisions: {said}.")
    return found


def _provenance(run: Run, kind: str) -> dict[str, Any]:
    extra = run.manifest.records[kind].model_extra or {}
    inner = extra.get("provenance")
    return inner if isinstance(inner, dict) else {}


def _reference(run: Run) -> str:
    reference = run.metrics.reference
    return f"{reference.dataset} {reference.split}, {reference.count:,} images ({reference.digest[:12]})"


def _differ(results: Results, what: str, value: Callable[[Run], str]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for method in results.methods:
        for name in _distinct(value(run) for run in method.runs):
            groups.setdefault(name, []).append(_label(method, name, value))
    if len(groups) < 2:
        return []
    if len(groups) > MOST_GROUPS:
        return [f"{what}: there are {len(groups)}, which manifests name."]
    most = max(groups, key=lambda name: len(groups[name]))
    for name, who in groups.items():
        if len(who) > MOST_NAMES:
            count = sum(value(run) == name for run in results.runs)
            groups[name] = ["all others" if name == most else f"{count} runs"]
    said = "; ".join(f"{name} ({', '.join(who)})" for name, who in groups.items())
    return [f"{what}: {said}."]


def _label(method: Method, name: str, value: Callable[[Run], str]) -> str:
    seeds = [str(run.seed) for run in method.runs if value(run) == name]
    return method.name if len(seeds) == len(method.runs) else f"{method.name} seed {', '.join(seeds)}"


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(values))
