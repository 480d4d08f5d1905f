"""The figures of `fdm benchmark` as a picture: what an image costs, and what the time goes into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fdm.benchmark.table import Line
from fdm.report.style import PALETTE


def benchmark_figure(lines: Sequence[Line], machine: str) -> Figure:
    """Milliseconds for one image, in training and in sampling, one bar a line, from the parts that they are made of."""
    figure = Figure(figsize=(8.6, 1.1 + 0.3 * len(lines)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, [_training_parts(line) for line in lines], f"Training on {machine}: ms for an image")
    _bars(right, [_sampling_parts(line) for line in lines], "Sampling: ms for an image")
    left.set_yticks(range(len(lines)), [line.label for line in lines])
    left.invert_yaxis()
    return figure


def _training_parts(line: Line) -> dict[str, float]:
    """Expected milliseconds for an image, as stages are drawn."""
    stages = line.training.stages
    return {
        name: sum(1e3 * stage.share * getattr(stage, name).median / stage.batch for stage in stages)
        for name in ("passes", "update", "prepare")
    }


def _sampling_parts(line: Line) -> dict[str, float]:
    sampling = line.sampling
    return {
        name: 1e3 * getattr(sampling, name).median / sampling.batch
        for name in ("network", "autoencoder", "noise", "arithmetic", "transfer")
    }


def _bars(axes: Axes, lines: Sequence[dict[str, float]], title: str) -> None:
    start = np.zeros(len(lines))
    for (colour, _), name in zip(PALETTE, lines[0], strict=False):
        values = np.array([parts[name] for parts in lines])
        if values.any():
            axes.barh(range(len(lines)), values, left=start, color=colour, label=name, height=0.7)
        start += values
    axes.set_title(title)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(lines[0]), handlelength=1)
