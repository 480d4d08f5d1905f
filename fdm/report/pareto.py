"""Quality against what it costs, with the methods that no other beats in both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fdm.report.axes import log_if_wide
from fdm.report.labels import Mark, label_marks
from fdm.report.numbers import Estimate, Kind, scale
from fdm.report.paired import quality, quality_name, quality_source
from fdm.report.results import Method, Results, Run
from fdm.report.style import GREY, MUTED, Look, belongs
from fdm.report.tables import summary

COSTS: tuple[tuple[str, Kind, Callable[[Run], float]], ...] = (
    ("network evaluations per sample", "count", lambda run: run.cost.evaluations_per_sample),
    ("FLOPs per sample", "flops", lambda run: run.cost.flops_per_sample),
    ("FLOPs of training", "flops", lambda run: run.cost.training.flops),
)


@dataclass(frozen=True)
class Point:
    """A method's mean cost and quality."""

    method: Method
    cost: Estimate
    quality: Estimate


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other equals or beats in both means, from cheap to dear."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost.mean, p.quality.mean)):
        if not found or point.quality.mean < found[-1].quality.mean:
            found.append(point)
    return found


def pareto_figure(results: Results, looks: Mapping[str, Look]) -> Figure:
    """A panel for each cost in which methods differ; those on its front in their own colours with their names, the others grey."""
    panels = [(label, kind, _points(results, cost)) for label, kind, cost in COSTS]
    # Of two values of a cost the table tells as much as a front.
    panels = [panel for panel in panels if len({point.cost.mean for point in panel[2]}) > 2] or [panels[1]]
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    height = 3.6 * lines
    figure = Figure(figsize=(8.6, height))
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    figure.subplots_adjust(left=0.085, right=0.985, top=1 - 0.1 / height, bottom=0.5 / height, wspace=0.08, hspace=0.28)
    for axes, (label, kind, points) in zip(grid.flat, panels, strict=False):
        _panel(axes, points, looks, kind, label)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(next(quality_name(run) for run in results.runs if quality_source(run)))
    figure.draw_without_rendering()  # settles the limits, which the places of names depend on
    for axes, (_, _, points) in zip(grid.flat, panels, strict=False):
        line = front(points)
        named = [_mark(point, looks[point.method.name].light) for point in line]
        label_marks(axes, named, [_mark(point, GREY[0]) for point in points if point not in line], _steps(line))
    return figure


def _steps(line: Sequence[Point]) -> list[tuple[float, float]]:
    """Corners of a front: each distance is what the next cost improves on."""
    means = [(point.cost.mean, point.quality.mean) for point in line]
    between = [(after, before) for (_, before), (after, _) in itertools.pairwise(means)]
    return [corner for pair in itertools.zip_longest(means, between) for corner in pair if corner]


def _mark(point: Point, colour: str) -> Mark:
    return Mark(point.method.name, point.method.title, point.cost, point.quality, colour)


def _points(results: Results, cost: Callable[[Run], float]) -> list[Point]:
    found = []
    for method in results.methods:
        own, paid = summary(method, quality), summary(method, cost)
        if own and paid:
            found.append(Point(method, paid, own))
    return found


def _panel(axes: Axes, points: Sequence[Point], looks: Mapping[str, Look], kind: Kind, label: str) -> None:
    line = front(points)
    for point in points:
        look, best = looks[point.method.name], point in line
        drawn = axes.errorbar(
            point.cost.mean,
            point.quality.mean,
            yerr=point.quality.half,
            color=look.light if best else GREY[0],
            alpha=1.0 if best else 0.45,
            marker=look.marker,
            markersize=6 if best else 4,
            elinewidth=1.0,
            zorder=3 if best else 2,
        )
        belongs(point.method.name, *drawn.get_children())
    axes.plot(*zip(*_steps(line), strict=True), color=MUTED, linewidth=1)
    axes.margins(x=0.08, y=0.1)
    log_if_wide(axes, [point.quality.mean for point in points])
    values = [point.cost.mean for point in points]
    how = scale(values, kind)
    if values and max(values) > 5 * min(values) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / how.divisor:g}"))
    axes.set_xlabel(f"{label} ({how.unit})" if how.unit else label)
