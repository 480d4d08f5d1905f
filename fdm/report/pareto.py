"""Quality against what it costs, with the methods that no other beats in both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fdm.report.axes import log_if_wide
from fdm.report.labels import legend_below, legend_rows
from fdm.report.numbers import Estimate, Kind, scale
from fdm.report.paired import quality, value_of
from fdm.report.results import Method, Results, Run
from fdm.report.style import GREY, MUTED, Look

TIME = "time per sample"
COSTS: tuple[tuple[str, Kind, Callable[[Run], float]], ...] = (
    ("network evaluations per sample", "count", lambda run: run.cost.evaluations_per_sample),
    ("FLOPs per sample", "flops", lambda run: run.cost.flops_per_sample),
    (TIME, "seconds", lambda run: run.cost.seconds_per_sample),
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
    """A panel for each cost, without time where devices differ; methods on some front in their own colour, the others grey."""
    costs = [cost for cost in COSTS if cost[0] != TIME or results.timed_alike]
    panels = [(label, kind, _points(results, cost)) for label, kind, cost in costs]
    fronts = [front(points) for _, _, points in panels]
    named = [m for m in results.methods if any(m is point.method for line in fronts for point in line)]
    rows = legend_rows(len(named))
    lines, columns = (2, 2) if len(panels) == 4 else (1, len(panels))
    height = 3.1 * lines + 0.2 * rows
    figure = Figure(figsize=(8.6, height))
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.085, right=0.985, top=0.98, bottom=(0.6 + 0.22 * rows) / height, wspace=0.08, hspace=0.28
    )
    for axes, (label, kind, points), line in zip(grid.flat, panels, fronts, strict=True):
        _panel(axes, points, line, named, looks, kind, label)
    for axes in grid[:, 0]:
        axes.set_ylabel("Fréchet distance")
    legend_below(figure, named, looks)
    return figure


def _points(results: Results, cost: Callable[[Run], float]) -> list[Point]:
    found = []
    for method in results.methods:
        own, paid = value_of(method, quality), value_of(method, cost)
        if own and paid:
            found.append(Point(method, paid, own))
    return found


def _panel(
    axes: Axes,
    points: Sequence[Point],
    line: Sequence[Point],
    named: Sequence[Method],
    looks: Mapping[str, Look],
    kind: Kind,
    label: str,
) -> None:
    for point in points:
        look = looks[point.method.name]
        shown = any(point.method is method for method in named)
        axes.errorbar(
            point.cost.mean,
            point.quality.mean,
            yerr=point.quality.half,
            color=look.light if shown else GREY[0],
            alpha=1.0 if shown else 0.45,
            marker=look.marker,
            markersize=6 if shown else 4,
            elinewidth=1.0,
        )
    axes.step([p.cost.mean for p in line], [p.quality.mean for p in line], where="post", color=MUTED, linewidth=1)
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
