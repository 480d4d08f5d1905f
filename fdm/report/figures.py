"""Training curves, and quality against what a sample costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fdm.report.axes import log_if_wide, plain_log
from fdm.report.labels import Mark, label_marks, legend_below, legend_rows
from fdm.report.numbers import Kind, estimate, scale
from fdm.report.pareto import Point
from fdm.report.results import Method, Results, Run
from fdm.report.style import Look, belongs
from fdm.report.tables import network_title

WINDOWS = 40
MOST_NAMES = 8  # beside marks; of more methods they would cover each other and the axes


def training_curves(results: Results, looks: Mapping[str, Look]) -> Figure:
    """Loss against images seen: all steps, then one panel per stage if any method has more than one."""
    stages = sorted({int(stage) for run in results.runs for stage in run.curve["stage"].unique()})
    panels: list[int | None] = [None, *stages] if len(stages) > 1 else [None]
    columns = min(len(panels), 2)
    lines = math.ceil(len(panels) / columns)
    rows = legend_rows(len(results.methods))
    height = 2.5 * lines + 0.22 * rows + 0.35
    figure = Figure(figsize=(8.6, height), layout=None)
    grid = figure.subplots(lines, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.085, right=0.985, top=1 - 0.3 / height, bottom=(0.22 * rows + 0.75) / height, wspace=0.2, hspace=0.42
    )
    most = max(int(run.curve["images"].max()) for run in results.runs)
    how = scale([most], "count")
    for axes, stage in zip(grid.flat, panels, strict=False):
        for method in results.methods:
            _curve(axes, method, stage, most, looks[method.name])
        axes.set_yscale("log")
        plain_log(axes)
        axes.set_title(
            "All steps" if stage is None else f"Steps of stage {stage}" + (" (finest)" if stage == 0 else "")
        )
        axes.set_ylabel("loss")
        axes.set_xlim(0, most)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / how.divisor:g}{how.unit}"))
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for column in range(columns):
        grid[(len(panels) - 1 - column) // columns if column < len(panels) else 0][column].set_xlabel("images seen")
    legend_below(figure, results.methods, looks, lines=True)
    return figure


def quality_against_cost(results: Results, looks: Mapping[str, Look]) -> Figure:
    """Fréchet distance (or FID) of every feature network against FLOPs and, where devices do not differ, seconds per sample.

    Names stand beside marks, so it is meant for at most ``MOST_NAMES`` methods; ``ranking`` takes any number.
    """
    networks = list(dict.fromkeys(network for run in results.runs for network in run.metrics.features))
    costs: list[tuple[str, Kind, Callable[[Run], float]]] = [
        ("FLOPs per sample", "flops", lambda run: run.cost.flops_per_sample),
        ("time per sample", "seconds", lambda run: run.cost.seconds_per_sample),
    ]
    if not results.timed_alike:
        del costs[1]
    height = 3.5 * len(networks) + 0.1
    figure = Figure(figsize=(8.6, height))
    grid = figure.subplots(len(networks), len(costs), squeeze=False, sharey="row")
    figure.subplots_adjust(left=0.085, right=0.985, top=1 - 0.12 / height, bottom=0.55 / height, wspace=0.1, hspace=0.3)
    marks: list[tuple[Axes, list[Point]]] = []
    for line, network in zip(grid, networks, strict=True):
        for axes, (label, kind, cost) in zip(line, costs, strict=True):
            marks.append((axes, _scatter(axes, results, looks, network, cost, label, kind)))
        name = "FID" if network == "inception-v3" else "Fréchet distance"
        line[0].set_ylabel(f"{name} ({network_title(network)})")
    figure.draw_without_rendering()  # settles the limits, which the places of names depend on
    for axes, points in marks:
        label_marks(axes, [Mark(point.method.name, point.method.title, point.cost, point.quality) for point in points])
    return figure


def _curve(axes: Axes, method: Method, stage: int | None, most: int, look: Look) -> None:
    """Mean over windows of images seen and over seeds; a band from the lowest to the highest seed."""
    lines = []
    for run in method.runs:
        curve = run.curve if stage is None else run.curve[run.curve["stage"] == stage]
        window = np.minimum((curve["images"] * WINDOWS / most).astype(int), WINDOWS - 1)
        lines.append(curve["loss"].groupby(window).mean())
    table = pd.concat(lines, axis=1).sort_index()
    if not len(table):
        return
    x = (table.index.to_numpy() + 0.5) * most / WINDOWS
    drawn: list[Artist] = [*axes.plot(x, table.mean(axis=1), color=look.light, linestyle=look.dash, linewidth=1.5)]
    if len(lines) > 1:
        drawn.append(
            axes.fill_between(x, table.min(axis=1), table.max(axis=1), color=look.light, alpha=0.15, linewidth=0)
        )
    belongs(method.name, *drawn)


def _scatter(
    axes: Axes,
    results: Results,
    looks: Mapping[str, Look],
    network: str,
    cost: Callable[[Run], float],
    label: str,
    kind: Kind,
) -> list[Point]:
    points = []
    for method in results.methods:
        runs = [run for run in method.runs if _distance(run, network) is not None]
        if not runs:
            continue
        x, y = estimate([cost(run) for run in runs]), estimate([_distance(run, network) or 0.0 for run in runs])
        look = looks[method.name]
        drawn = axes.errorbar(
            x.mean, y.mean, xerr=x.half, yerr=y.half, color=look.light, marker=look.marker, markersize=7, elinewidth=1.2
        )
        belongs(method.name, *drawn.get_children())
        points.append(Point(method, x, y))
    values = [point.cost.mean for point in points]
    how = scale(values, kind)
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, max(values, default=1.0) * 1.12)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.margins(y=0.18)
    distances = [point.quality.mean for point in points]
    log_if_wide(axes, distances)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / how.divisor:g}"))
    axes.set_xlabel(f"{label} ({how.unit})")
    return points


def _distance(run: Run, network: str) -> float | None:
    scores = run.metrics.features.get(network, {})
    return scores.get("fid", scores.get("frechet_distance"))
