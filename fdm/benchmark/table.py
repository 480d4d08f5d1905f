"""The figures of `fdm benchmark` as printed tables and as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from fdm.benchmark.ceiling import Ceiling
from fdm.benchmark.clock import Timing
from fdm.benchmark.sampling import Sampling
from fdm.benchmark.training import Training
from fdm.evaluation.estimate import aligned


@dataclass(frozen=True)
class Line:
    """What was measured of one experiment.

    Attributes:
        label: its name, and the setting that was varied.
        precision: of training.
    """

    label: str
    resolution: int
    precision: str
    sampling_precision: str
    parameters: int
    training: Training
    sampling: Sampling


def print_ceilings(ceilings: Sequence[Ceiling], machine: str, console: Console) -> None:
    """What the machine reaches with nothing around it."""
    table = aligned(f"Ceilings of {machine}", "precision", "convolution GFLOP/s", "matrix product GFLOP/s")
    for ceiling in ceilings:
        table.add_row(ceiling.precision, f"{ceiling.convolution / 1e9:,.0f}", f"{ceiling.matrix / 1e9:,.0f}")
    console.print(table)


def print_training(lines: Sequence[Line], ceilings: Sequence[Ceiling], console: Console) -> None:
    """One row per stage."""
    peak = {ceiling.precision: ceiling.convolution for ceiling in ceilings}
    table = aligned(
        "Training",
        "experiment",
        "stage",
        "state",
        "share",
        "ms / step",
        "img/s",
        "passes",
        "update",
        "prepare",
        "of ceiling",
        "data headroom",
        "peak MiB",
    )
    for line in lines:
        for stage in line.training.stages:
            table.add_row(
                line.label if stage.stage == 0 else "",
                str(stage.stage),
                "×".join(map(str, stage.shape)),
                f"{stage.share:.0%}",
                _milliseconds(stage.total),
                f"{stage.images_per_second:,.1f}",
                f"{stage.passes.over(stage.total).median:.1%}",
                f"{stage.update.over(stage.total).median:.1%}",
                f"{stage.overhead:.1%}",
                f"{stage.rate / peak[line.precision]:.0%}",
                f"{stage.headroom.median:,.0f}×",
                f"{line.training.peak_memory_bytes / 2**20:,.0f}" if stage.stage == 0 else "",
            )
        if len(line.training.stages) > 1:
            expected = line.training.seconds_per_step
            rate = f"{line.training.stages[0].batch / expected:,.1f}"
            overhead = f"{line.training.overhead:.1%}"
            table.add_row("", "all", "", "", f"{expected * 1e3:,.1f}", rate, "", "", overhead, "", "", "")
    console.print(table)


def print_sampling(lines: Sequence[Line], ceilings: Sequence[Ceiling], console: Console) -> None:
    """One row per experiment."""
    peak = {ceiling.precision: ceiling.convolution for ceiling in ceilings}
    table = aligned(
        "Sampling",
        "experiment",
        "evaluations",
        "GFLOP / image",
        "× first",
        "ms / image",
        "× first",
        "network",
        "autoencoder",
        "noise",
        "arithmetic",
        "transfer",
        "of ceiling",
    )
    first = lines[0].sampling
    for line in lines:
        sampling = line.sampling
        total = sampling.total
        ratio = sampling.per_image.over(first.per_image)
        low, high = ratio.quartiles

        def share(part: Timing, total: Timing = total) -> str:
            return f"{part.over(total).median:.1%}"

        table.add_row(
            line.label,
            str(sampling.evaluations),
            f"{sampling.flops / 1e9:,.2f}",
            f"{sampling.flops / first.flops:.3f}",
            f"{sampling.seconds_per_image * 1e3:,.1f}",
            f"{ratio.median:.3f} [{low:.3f}, {high:.3f}]",
            share(sampling.network),
            share(sampling.autoencoder),
            share(sampling.noise),
            share(sampling.arithmetic),
            share(sampling.transfer),
            f"{sampling.rate / peak[line.sampling_precision]:.0%}",
        )
    console.print(table)


def print_evaluation(features: Mapping[str, Timing], console: Console) -> None:
    """One row per feature network; nothing where none was timed."""
    if not features:
        return
    table = aligned("Evaluation", "features of", "ms / image", "img/s")
    for name, timing in features.items():
        table.add_row(name, _milliseconds(timing), f"{1 / timing.median:,.1f}")
    console.print(table)


def as_dict(
    lines: Sequence[Line], ceilings: Sequence[Ceiling], features: Mapping[str, Timing], machine: dict[str, Any]
) -> dict[str, Any]:
    """Everything that was measured, for JSON."""
    return {
        "machine": machine,
        "ceilings": [vars(ceiling) for ceiling in ceilings],
        "evaluation": {name: {"seconds_per_image": timing.as_dict()} for name, timing in features.items()},
        "experiments": [
            {
                "label": line.label,
                "resolution": line.resolution,
                "precision": line.precision,
                "sampling_precision": line.sampling_precision,
                "parameters": line.parameters,
                "training": {
                    "peak_memory_bytes": line.training.peak_memory_bytes,
                    "seconds_per_step": line.training.seconds_per_step,
                    "overhead": line.training.overhead,
                    "stages": [_plain(stage) for stage in line.training.stages],
                },
                "sampling": {
                    **_plain(line.sampling),
                    "seconds_per_image": line.sampling.seconds_per_image,
                    "overhead": line.sampling.overhead,
                },
            }
            for line in lines
        ],
    }


def _plain(measured: Any) -> dict[str, Any]:
    return {name: value.as_dict() if isinstance(value, Timing) else value for name, value in vars(measured).items()}


def _milliseconds(timing: Timing) -> str:
    low, high = timing.quartiles
    return f"{timing.median * 1e3:,.1f} [{low * 1e3:,.1f}, {high * 1e3:,.1f}]"
