"""The tables of a suite that hold numbers: which columns, and how runs become cells."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Literal, TypeVar

from fdm.report.names import slug
from fdm.report.numbers import Estimate, Kind, Scale, estimate_present, scale
from fdm.report.origin import Origin, Source
from fdm.report.results import Method, Results, Run
from fdm.report.table import SAMPLES_ONLY, Cell, Header, Row, Table, printed

BASELINE = "ddpm"
MEAN = "mean over seeds"
Z95 = 1.96
NO_TIMES = "Times are left out, as devices differ."
TIMES = "Times are as measured; no record says what else ran on the machine."
SPREADS = ("kid_std", "_se")
"""Ends of the names of scores that are the spread of another, over samples of one run."""
NETWORKS = {"inception-v3": "Inception-v3", "efficientnet-lite0": "EfficientNet-Lite0"}
Better = Literal["low", "high"]
Value = Callable[[Run], float | None]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Column:
    """One quantity: its name in the CSV, its header, and where it stands in the files of a run (a run may have none)."""

    key: str
    label: str
    kind: Kind
    value: Source
    group: str = ""
    better: Better | None = None
    relative: bool = False
    error: Source | None = None
    """Standard error over the samples of one run; it gives an interval where there is one seed."""


SAMPLE_COSTS = (
    Column("flops_per_sample", "FLOPs per sample", "flops", Source("cost.json", "flops_per_sample")),
    Column("seconds_per_sample", "Time per sample", "seconds", Source("cost.json", "seconds_per_sample")),
)
RUN_COSTS = (
    Column("training_seconds", "Training", "seconds", Source("cost.json", "training", "seconds")),
    Column("peak_memory_bytes", "Peak memory", "bytes", Source("cost.json", "peak_memory_bytes")),
)


SCORES: Mapping[str, tuple[str, Kind, Better]] = {
    "fid": ("FID", "score", "low"),
    "fid_clean": ("FID (clean-fid)", "score", "low"),
    "frechet_distance": ("Fréchet distance", "score", "low"),
    "kid_mean": ("KID", "thousandth", "low"),
    "precision": ("Precision", "score", "high"),
    "recall": ("Recall", "score", "high"),
}
"""Name, unit and better end of every score, in the order of the tables."""


def network_title(network: str) -> str:
    """A feature network's proper name."""
    return NETWORKS.get(network, network)


def summary(method: Method, value: Value, error: Value | None = None) -> Estimate | None:
    """Mean and interval over seeds; with one seed over its samples, if ``error`` gives their standard error."""
    found = estimate_present(value(run) for run in method.runs)
    spread = error(method.runs[0]) if error and len(method.runs) == 1 else None
    return replace(found, half=Z95 * spread) if found and spread is not None else found


def score_source(network: str, score: str) -> Source:
    """Where a score stands."""
    return Source("metrics.json", "features", network, score)


def score_columns(results: Results) -> list[Column]:
    """Every score that some run has, network by network. Only Inception-v3 features make a Fréchet distance an FID."""
    order = list(SCORES)
    columns = []
    for network in _union(run.metrics.features for run in results.runs):
        present = _union(run.metrics.features.get(network, {}) for run in results.runs)
        # A score of a later version has no entry above; it is shown under its own name, without a claim of direction.
        for score in sorted(present, key=lambda name: order.index(name) if name in SCORES else len(order)):
            if score.endswith(SPREADS):  # not over seeds; they stand in the table of runs
                continue
            error = f"{score}_se" if f"{score}_se" in present else None
            unknown: tuple[str, Kind, Better | None] = (score, "score", None)
            label, kind, better = SCORES.get(score, unknown)
            columns.append(
                Column(
                    f"{network}/{score}",
                    label,
                    kind,
                    score_source(network, score),
                    f"{network_title(network)} features",
                    better,
                    error=score_source(network, error) if error else None,
                )
            )
    return columns


def main_table(results: Results) -> Table:
    """One row per experiment: scores and what a sample costs."""
    scores = score_columns(results)
    cost = [
        Column("parameters", "Parameters", "count", Source("cost.json", "parameters"), "network"),
        Column(
            "evaluations_per_sample",
            "Evaluations",
            "count",
            Source("cost.json", "evaluations_per_sample"),
            "per sample",
        ),
        Column("flops_per_sample", "FLOPs", "flops", Source("cost.json", "flops_per_sample"), "per sample", "low"),
        Column("seconds_per_sample", "Time", "seconds", Source("cost.json", "seconds_per_sample"), "per sample"),
        *_relative(results, "flops_per_sample", "FLOPs", Source("cost.json", "flops_per_sample")),
        Column("training_seconds", "Training", "seconds", Source("cost.json", "training", "seconds"), "per run"),
        Column("peak_memory_bytes", "Peak memory", "bytes", Source("cost.json", "peak_memory_bytes"), "per run", "low"),
    ]
    samples = " or ".join(f"{count:,}" for count in _union([run.metrics.samples] for run in results.runs))
    references = " or ".join(
        _union(
            [f"{r.count:,} images of {r.dataset} ({r.split} split)"]
            for run in results.runs
            for r in [run.metrics.reference]
        )
    )
    return _build(
        results,
        "main",
        "Quality and cost",
        f"Scores of {samples} samples per run against {references}. {_seeds_sentence(results)}{_error_sentence(results, scores)} Lower is better for "
        "distances and KID (mean over random subsets), higher for precision and recall. FLOPs count a "
        "multiply-add as two and cover all network evaluations of one sample, and the decoding of a latent. Peak memory while sampling: the "
        "device's on a GPU, the whole process's elsewhere." + _relative_sentence(results),
        scores + cost,
    )


def training_table(results: Results) -> Table:
    """What training took."""
    return _build(
        results,
        "training",
        "Cost of training",
        f"{_seeds_sentence(results)} A training step works at one resolution, that of the stage drawn for it, so "
        "methods with coarse stages see the same number of images for fewer FLOPs. The backward pass counts as "
        "two forward passes. Time leaves out pauses." + _relative_sentence(results),
        [
            Column("training_images", "Images seen", "count", Source("cost.json", "training", "images")),
            Column("training_steps", "Steps", "count", Source("cost.json", "training", "steps")),
            Column("training_seconds", "Time", "seconds", Source("cost.json", "training", "seconds")),
            Column(
                "training_images_per_second",
                "Images per second",
                "rate",
                Source("cost.json", "training", "images_per_second"),
            ),
            Column("training_flops", "FLOPs", "flops", Source("cost.json", "training", "flops"), better="low"),
            *_relative(results, "training_flops", "FLOPs", Source("cost.json", "training", "flops")),
        ],
    )


def stage_table(results: Results) -> Table:
    """What one network evaluation costs at each stage."""
    stages = sorted(_union(run.cost.flops_per_evaluation for run in results.runs), key=_natural)
    return _build(
        results,
        "stages",
        "FLOPs of one network evaluation, by stage",
        "Stage 0 is the finest. A multiply-add counts as two. A dash: the method has no such stage.",
        [
            Column(
                f"flops_stage_{stage}", f"Stage {stage}", "flops", Source("cost.json", "flops_per_evaluation", stage)
            )
            for stage in stages
        ],
    )


def runs_table(results: Results) -> Table:
    """Every run on its own: the numbers behind the means, as they stand in its files."""
    columns = [
        Column(
            f"{network}/{score}",
            *SCORES.get(score, (score, "score", ""))[:2],
            score_source(network, score),
            f"{network_title(network)} features",
        )
        for network in _union(run.metrics.features for run in results.runs)
        for score in _union(run.metrics.features.get(network, {}) for run in results.runs)
    ]
    columns += [*SAMPLE_COSTS, *RUN_COSTS]
    devices: dict[tuple[str, str], Callable[[Run], str]] = {
        ("training_device", "Trained on"): lambda run: run.manifest.records["train"].device,
        ("sampling_device", "Sampled on"): lambda run: run.cost.device,
    }
    devices = {header: read for header, read in devices.items() if len({read(run) for run in results.runs}) > 1}
    met = _union([read(run) for read in devices.values()] for run in results.runs)
    letters = dict(zip(met, _letters(), strict=False))
    rows = []
    scales = [scale(_present(column.value(run) for run in results.runs), column.kind) for column in columns]
    for method in results.methods:
        for run in method.runs:
            cells = [
                printed(estimate_present([column.value(run)]), how, Origin((column.value,), "as it stands in the file"))
                for column, how in zip(columns, scales, strict=True)
            ]
            anchor = f"run-{slug(method.name)}-seed{run.seed}"
            if devices:
                names = [read(run) for read in devices.values()]
                used = ", then ".join(dict.fromkeys(letters[own] for own in names))
                cells += [Cell(used, used), *(Cell(own, own) for own in names)]
            line = (Cell(str(run.seed), str(run.seed)), *cells)
            rows.append(Row(method.name, method.title, 1, line, anchor=anchor, seed=run.seed))
    headers = [Header("seed", "Seed"), *(_header(column, how) for column, how in zip(columns, scales, strict=True))]
    headers = [replace(header, only="csv" if header.key.endswith(SPREADS) else "") for header in headers]
    if devices:
        headers.append(Header("device", "Device", numeric=False, only="print"))
        headers += [Header(key, label, numeric=False, only="csv") for key, label in devices]
    caption = "One row per run, with the numbers of its own files; the CSV also has standard errors, and the spread of KID over its subsets."
    if devices:
        caption += f" Devices: {'; '.join(f'{letter}: {name}' for name, letter in letters.items())}. Times of different devices do not compare."
    return Table("runs", "Single runs", caption, tuple(headers), tuple(rows))


def _build(results: Results, name: str, title: str, caption: str, columns: Sequence[Column]) -> Table:
    wanted, columns = columns, [column for column in columns if results.compares(column.value)]
    if len(columns) < len(wanted):
        caption += f" {NO_TIMES}"
    elif any(column.value.timed for column in columns):
        caption += f" {TIMES}"
    estimates = [[summary(method, column.value, column.error) for column in columns] for method in results.methods]
    base = next(
        (line[:] for method, line in zip(results.methods, estimates, strict=True) if method.name == BASELINE), None
    )
    for line in estimates:
        for j, column in enumerate(columns):
            if column.relative:
                value, reference = line[j], base[j] if base else None
                line[j] = (
                    Estimate(value.mean / reference.mean, None, 1) if value and reference and reference.mean else None
                )
    headers, cells = [], []
    for j, column in enumerate(columns):
        own = [line[j] for line in estimates]
        how = scale([value.mean for value in own if value], column.kind)
        winner = _winner(own, column.better)
        origin = Origin((column.value,), MEAN)
        if column.error and any(value and value.count == 1 and value.half for value in own):
            origin = Origin(
                (column.value, column.error), f"{MEAN}; ± with one seed: {Z95:.2f} standard errors over samples"
            )
        if column.relative:
            origin = Origin((column.value,), f"ratio of the means over seeds to that of {BASELINE}", BASELINE)
        headers.append(_header(column, how))
        cells.append([printed(value, how, origin, i == winner) for i, value in enumerate(own)])
    rows = [
        Row(method.name, method.title, len(method.runs), tuple(column[i] for column in cells))
        for i, method in enumerate(results.methods)
    ]
    return Table(name, title, caption, tuple(headers), tuple(rows))


def _winner(values: Sequence[Estimate | None], better: Better | None) -> int | None:
    """Row whose whole interval lies beyond all others; None if seeds do not support one."""
    present = [value for value in values if value is not None]
    if better is None or len(present) < 2 or any(value.half is None or value.count == 1 for value in present):
        return None
    sign = 1 if better == "low" else -1
    best = min(present, key=lambda value: sign * value.mean)
    others = [value for value in present if value is not best]
    apart = all(best.high < other.low if better == "low" else best.low > other.high for other in others)
    return list(values).index(best) if apart else None


def _header(column: Column, how: Scale) -> Header:
    return Header(column.key, column.label, how.unit, column.group)


def _relative(results: Results, key: str, label: str, value: Source) -> list[Column]:
    if all(method.name != BASELINE for method in results.methods):
        return []
    return [Column(f"{key}_relative", label, "ratio", value, f"relative to {BASELINE}", relative=True)]


def _relative_sentence(results: Results) -> str:
    here = any(method.name == BASELINE for method in results.methods)
    return f" Relative to {BASELINE}: the ratio of the means." if here else ""


def _error_sentence(results: Results, columns: Iterable[Column]) -> str:
    single = [method.runs[0] for method in results.methods if len(method.runs) == 1]
    if not any(column.error and column.error(run) is not None for column in columns for run in single):
        return ""
    return f" {SAMPLES_ONLY}: one seed, 95 % interval over draws of its samples; what another training would change is not in it."


def _seeds_sentence(results: Results) -> str:
    counts = sorted({len(method.runs) for method in results.methods})
    if counts == [1]:
        return "One seed per method: no interval over trainings can be given, and small differences mean nothing."
    if counts[0] == 1:
        return f"Means over up to {counts[-1]} seeds, with 95 % t-intervals where there are more than one."
    said = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"Means over {said} seeds with 95 % t-intervals; a value is in bold only if its interval lies clear of all "
        "others."
    )


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _union(groups: Iterable[Iterable[Item]]) -> list[Item]:
    return list(dict.fromkeys(item for group in groups for item in group))


def _letters() -> Iterator[str]:
    """A, B, …, Z, AA, …"""
    return ("".join(word) for size in itertools.count(1) for word in itertools.product(ascii_uppercase, repeat=size))


def _natural(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdigit() else (10**6, text)
