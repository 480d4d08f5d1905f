"""The figures of `fdm benchmark` as a picture: what an image costs, and what the time goes into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fdm.benchmark.table import Line
from fdm.report.style import PALETTE

PARTS = ("network", "update", "prepare", "autoencoder", "noise", "arithmetic", "transfer")
COLOURS = dict(zip(PARTS, (light for light, _ in PALETTE), strict=False))


def benchmark_figure(lines: Sequence[Line], machine: str) -> Figure:
    """Milliseconds for one image, in training and in sampling, one bar a line, from the parts that they are made of."""
    figure = Figure(figsize=(8.6, 1.5 + 0.26 * len(lines)), layout="constrained")
    figure.suptitle(machine, fontsize=9, x=0.01, ha="left")
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, [_training_parts(line) for line in lines], "Training")
    _bars(right, [_sampling_parts(line) for line in lines], "Sampling")
    left.set_yticks(range(len(lines)), [line.label for line in lines])
    left.set_ylim(len(lines) - 0.5, -0.5)
    figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in COLOURS.items()],
        loc="outside lower center",
        ncols=len(PARTS),
        handlelength=1,
    )
    return figure


def _training_parts(line: Line) -> dict[str, float]:
    """Expected milliseconds for an image, as stages are drawn."""

    def expected(part: str) -> float:
        return sum(1e3 * s.share * getattr(s, part).median / s.batch for s in line.training.stages)

    return {"network": expected("passes"), "update": expected("update"), "prepare": expected("prepare")}


def _sampling_parts(line: Line) -> dict[str, float]:
    sampling = line.sampling
    return {
        name: 1e3 * getattr(sampling, name).median / sampling.batch
        for name in ("network", "autoencoder", "noise", "arithmetic", "transfer")
    }


def _bars(axes: Axes, lines: Sequence[dict[str, float]], title: str) -> None:
    start = np.zeros(len(lines))
    for name in lines[0]:
        values = np.array([parts[name] for parts in lines])
        axes.barh(range(len(lines)), values, left=start, color=COLOURS[name], height=0.7, linewidth=0)
        start += values
    axes.set_title(title)
    axes.set_xlabel("milliseconds for an image")
    axes.grid(axis="y", visible=False)
