"""The tables of a suite that hold numbers: which columns, and how runs become cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from fdm.report.load import Results, Run
from fdm.report.names import slug
from fdm.report.numbers import Estimate, Kind, Scale, estimate, scale
from fdm.report.table import Cell, Header, Row, Table

BASELINE = "ddpm"
NETWORKS = {"inception-v3": "Inception-v3", "efficientnet-lite0": "EfficientNet-Lite0"}
Better = Literal["low", "high"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Column:
    """One quantity: its name in the CSV, its header, and how to read it off a run (None: this run has none)."""

    key: str
    label: str
    kind: Kind
    value: Callable[[Run], float | None]
    group: str = ""
    better: Better | None = None
    relative: bool = False


def network_title(network: str) -> str:
    """A feature network's proper name."""
    return NETWORKS.get(network, network)


def score_columns(results: Results) -> list[Column]:
    """Every score that some run has, network by network. Only Inception-v3 features make a Fréchet distance an FID."""
    known: dict[str, tuple[str, Kind, Better | None]] = {
        "fid": ("FID", "score", "low"),
        "fid_clean": ("FID (clean-fid)", "score", "low"),
        "frechet_distance": ("Fréchet distance", "score", "low"),
        "kid_mean": ("KID", "thousandth", "low"),
        "precision": ("Precision", "score", "high"),
        "recall": ("Recall", "score", "high"),
    }
    columns = []
    for network in _union(run.metrics.features for run in results.runs):
        present = _union(run.metrics.features.get(network, {}) for run in results.runs)
        # A score of a later version has no entry above; it is shown under its own name, without a claim of direction.
        for score in sorted(present, key=lambda name: list(known).index(name) if name in known else len(known)):
            if score == "kid_std":  # spread over subsets, not over seeds; it stands in the table of runs
                continue
            label, kind, better = known.get(score, (score, "score", None))
            if score == "frechet_distance":
                label = f"Fréchet distance ({network_title(network)})"
            columns.append(
                Column(
                    f"{network}/{score}",
                    label,
                    kind,
                    _score(network, score),
                    f"{network_title(network)} features",
                    better,
                )
            )
    return columns


def main_table(results: Results) -> Table:
    """One row per experiment: scores and what a sample costs."""
    cost = [
        Column("parameters", "Parameters", "count", lambda run: run.cost.parameters, "network"),
        Column(
            "evaluations_per_sample", "Evaluations", "count", lambda run: run.cost.evaluations_per_sample, "per sample"
        ),
        Column("flops_per_sample", "FLOPs", "flops", lambda run: run.cost.flops_per_sample, "per sample", "low"),
        Column("seconds_per_sample", "Time", "seconds", lambda run: run.cost.seconds_per_sample, "per sample", "low"),
        *_relative(results, "flops_per_sample", "FLOPs", lambda run: run.cost.flops_per_sample),
        *_relative(results, "seconds_per_sample", "Time", lambda run: run.cost.seconds_per_sample),
        Column("training_seconds", "Training", "seconds", lambda run: run.cost.training.seconds, "per run", "low"),
        Column("peak_memory_bytes", "Peak memory", "bytes", lambda run: run.cost.peak_memory_bytes, "per run", "low"),
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
        f"Scores of {samples} samples per run against {references}. {_seeds_sentence(results)} Lower is better for "
        "distances and KID (mean over random subsets), higher for precision and recall. FLOPs count a "
        "multiply-add as two and cover all network evaluations of one sample, and the decoding of a latent. Peak memory while sampling: the "
        "device's on a GPU, the whole process's elsewhere." + _relative_sentence(results),
        score_columns(results) + cost,
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
            Column("training_images", "Images seen", "count", lambda run: run.cost.training.images),
            Column("training_steps", "Steps", "count", lambda run: run.cost.training.steps),
            Column("training_seconds", "Time", "seconds", lambda run: run.cost.training.seconds, better="low"),
            Column(
                "training_images_per_second",
                "Images per second",
                "rate",
                lambda run: run.cost.training.images_per_second,
                better="high",
            ),
            Column("training_flops", "FLOPs", "flops", lambda run: run.cost.training.flops, better="low"),
            *_relative(results, "training_flops", "FLOPs", lambda run: run.cost.training.flops),
            *_relative(results, "training_seconds", "Time", lambda run: run.cost.training.seconds),
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
        [Column(f"flops_stage_{stage}", f"Stage {stage}", "flops", _stage_flops(stage)) for stage in stages],
    )


def runs_table(results: Results) -> Table:
    """Every run on its own: the numbers behind the means, as they stand in its files."""
    columns = [
        Column(f"{network}/{score}", f"{score} ({network_title(network)})", "score", _score(network, score))
        for network in _union(run.metrics.features for run in results.runs)
        for score in _union(run.metrics.features.get(network, {}) for run in results.runs)
    ]
    columns += [
        Column("flops_per_sample", "FLOPs per sample", "flops", lambda run: run.cost.flops_per_sample),
        Column("seconds_per_sample", "Time per sample", "seconds", lambda run: run.cost.seconds_per_sample),
        Column("training_seconds", "Training", "seconds", lambda run: run.cost.training.seconds),
        Column("peak_memory_bytes", "Peak memory", "bytes", lambda run: run.cost.peak_memory_bytes),
    ]
    rows = []
    scales = [scale(_present(column.value(run) for run in results.runs), column.kind) for column in columns]
    for method in results.methods:
        for run in method.runs:
            cells = [_cell([column.value(run)], how) for column, how in zip(columns, scales, strict=True)]
            anchor = f"run-{slug(method.name)}-seed{run.seed}"
            rows.append(Row(method.name, method.title, 1, (Cell(str(run.seed), str(run.seed)), *cells), anchor=anchor))
    headers = [Header("seed", "Seed"), *(_header(column, how) for column, how in zip(columns, scales, strict=True))]
    caption = (
        "One row per run, with the numbers of its own files. The spread of KID is over its subsets, not over seeds."
    )
    return Table("runs", "Single runs", caption, tuple(headers), tuple(rows))


def _build(results: Results, name: str, title: str, caption: str, columns: Sequence[Column]) -> Table:
    grid = [[_present(column.value(run) for run in method.runs) for column in columns] for method in results.methods]
    base = next((row for method, row in zip(results.methods, grid, strict=True) if method.name == BASELINE), None)
    estimates: list[list[Estimate | None]] = []
    for values in grid:
        line: list[Estimate | None] = []
        for j, column in enumerate(columns):
            if column.relative and base is not None and values[j] and base[j]:
                line.append(Estimate(estimate(values[j]).mean / estimate(base[j]).mean, None, 1))
            else:
                line.append(estimate(values[j]) if values[j] and not column.relative else None)
        estimates.append(line)
    headers, cells = [], []
    for j, column in enumerate(columns):
        own = [line[j] for line in estimates]
        how = scale([value.mean for value in own if value], column.kind)
        winner = _winner(own, column.better)
        headers.append(_header(column, how))
        cells.append([_printed(value, how, i == winner) for i, value in enumerate(own)])
    rows = [
        Row(method.name, method.title, len(method.runs), tuple(column[i] for column in cells))
        for i, method in enumerate(results.methods)
    ]
    return Table(name, title, caption, tuple(headers), tuple(rows))


def _winner(values: Sequence[Estimate | None], better: Better | None) -> int | None:
    """Row whose whole interval lies beyond all others; None if seeds do not support one."""
    present = [value for value in values if value is not None]
    if better is None or len(present) < 2 or any(value.half is None for value in present):
        return None
    sign = 1 if better == "low" else -1
    best = min(present, key=lambda value: sign * value.mean)
    others = [value for value in present if value is not best]
    apart = all(best.high < other.low if better == "low" else best.low > other.high for other in others)
    return list(values).index(best) if apart else None


def _printed(value: Estimate | None, how: Scale, best: bool) -> Cell:
    if value is None:
        return Cell("–")
    spread = how.text(value.half) if value.half else ""
    if spread and not spread.strip("0."):
        spread = "<" + how.text(how.divisor * 10.0**-how.decimals)
    return Cell(how.text(value.mean), value, f"± {spread}" if spread else "", best)


def _cell(values: Iterable[float | None], how: Scale) -> Cell:
    present = _present(values)
    return _printed(estimate(present) if present else None, how, False)


def _header(column: Column, how: Scale) -> Header:
    return Header(column.key, column.label, how.unit, column.group)


def _relative(results: Results, key: str, label: str, value: Callable[[Run], float | None]) -> list[Column]:
    if all(method.name != BASELINE for method in results.methods):
        return []
    return [Column(f"{key}_relative", label, "ratio", value, f"relative to {BASELINE}", relative=True)]


def _relative_sentence(results: Results) -> str:
    here = any(method.name == BASELINE for method in results.methods)
    return f" Relative to {BASELINE}: the ratio of the means." if here else ""


def _seeds_sentence(results: Results) -> str:
    counts = sorted({len(method.runs) for method in results.methods})
    if counts == [1]:
        return "One seed per method: no interval can be given, and small differences mean nothing."
    said = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"Means over {said} seeds with 95 % t-intervals; a value is in bold only if its interval lies clear of all "
        "others."
    )


def _score(network: str, score: str) -> Callable[[Run], float | None]:
    return lambda run: run.metrics.features.get(network, {}).get(score)


def _stage_flops(stage: str) -> Callable[[Run], float | None]:
    return lambda run: run.cost.flops_per_evaluation.get(stage)


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _union(groups: Iterable[Iterable[Item]]) -> list[Item]:
    return list(dict.fromkeys(item for group in groups for item in group))


def _natural(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdigit() else (10**6, text)
