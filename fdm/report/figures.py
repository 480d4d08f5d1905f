"""Training curves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fdm.report.axes import plain_log
from fdm.report.labels import SIZE
from fdm.report.numbers import scale
from fdm.report.results import Method, Results
from fdm.report.style import Look, belongs, stage_colour

WINDOWS = 40
COLUMNS, ROW, WRAP = 4, 1.45, 26  # panels of curves: in a row, inches of height, letters in a line of a title


def training_curves(results: Results, looks: Mapping[str, Look]) -> Figure:
    """Loss against images seen, a panel for each method and in it a line for each stage."""
    methods = results.methods
    lines = math.ceil(len(methods) / COLUMNS)
    height = ROW * lines + 0.75
    figure = Figure(figsize=(8.6, height))
    grid = figure.subplots(lines, COLUMNS, squeeze=False)
    figure.subplots_adjust(
        left=0.07, right=0.985, top=1 - 0.35 / height, bottom=0.75 / height, wspace=0.36, hspace=0.62
    )
    most = max(int(run.curve["images"].max()) for run in results.runs)
    how = scale([most], "count")
    used: set[int] = set()
    for i, (axes, method) in enumerate(zip(grid.flat, methods, strict=False)):
        stages = sorted({int(stage) for run in method.runs for stage in run.curve["stage"].unique()})
        for stage in stages:
            _curve(axes, method, stage, most)
        used |= set(stages)
        axes.set_yscale("log")
        plain_log(axes, 3)
        name = axes.set_title(textwrap.fill(method.title, WRAP), fontsize=SIZE, color=looks[method.name].light)
        axes.set_xlim(0, most)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value / how.divisor:g}{how.unit if value else ''}")
        )
        axes.tick_params(labelsize=6.5, pad=2, length=2)
        axes.set_xlabel("images seen" if i + COLUMNS >= len(methods) else "", fontsize=SIZE)
        axes.set_ylabel("" if i % COLUMNS else "loss", fontsize=SIZE)
        belongs(method.name, axes, name)
    for axes in grid.flat[len(methods) :]:
        axes.set_visible(False)
    if len(used) > 1:
        handles = [Line2D([], [], color=stage_colour(stage), linewidth=1.6) for stage in sorted(used)]
        names = [f"stage {stage}" + (" (finest)" if stage == 0 else "") for stage in sorted(used)]
        figure.legend(handles, names, loc="lower center", ncols=len(names), fontsize=SIZE)
    return figure


def windows(curves: Iterable[pd.DataFrame], term: str, most: int) -> pd.DataFrame:
    """Means of a term of the loss over equal windows of the images seen: a column for each curve, rows by the window's number.

    Args:
        most: images at the end of the last window. Window n, from 1 to ``WINDOWS``, ends at n / ``WINDOWS`` of them, which belong to it;
            one without any step has no row.
    """
    means = [curve[term].groupby(np.ceil(curve["images"] * WINDOWS / most).astype(int)).mean() for curve in curves]
    return pd.concat(means, axis=1).sort_index()


def _curve(axes: Axes, method: Method, stage: int, most: int) -> None:
    """Mean over windows of images seen and over seeds; a band from the lowest to the highest seed."""
    table = windows((run.curve[run.curve["stage"] == stage] for run in method.runs), "loss", most)
    x, colour = (table.index.to_numpy() - 0.5) * most / WINDOWS, stage_colour(stage)
    axes.plot(x, table.mean(axis=1), color=colour, linewidth=1.3)
    if table.shape[1] > 1:
        axes.fill_between(x, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.15, linewidth=0)
