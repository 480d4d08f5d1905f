"""Quality and cost of all methods, a row for each."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fdm.report.labels import LETTER, SIZE
from fdm.report.numbers import scale
from fdm.report.results import Results
from fdm.report.style import MUTED, Look, belongs
from fdm.report.tables import BASELINE, SAMPLE_COSTS, Column, network_title, score_source, summary

WIDTH, ROW = 8.6, 0.21  # inches
MOST_FOR_NAMES = 0.42  # of the width


def ranking(results: Results, looks: Mapping[str, Look]) -> Figure:
    """Every distance and the FLOPs beside each other; methods from the least to the largest distance by the first network."""
    columns = [*_distances(results), SAMPLE_COSTS[0]]
    cells = {m.name: [summary(m, column.value, column.error) for column in columns] for m in results.methods}
    firsts = {name: line[0].mean if line[0] else float("inf") for name, line in cells.items()}
    methods = sorted(results.methods, key=lambda method: firsts[method.name])
    height = ROW * len(methods) + 0.7
    figure = Figure(figsize=(WIDTH, height))
    grid = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    names = (LETTER * max(len(method.title) for method in methods) / 72 + 0.15) / WIDTH
    figure.subplots_adjust(
        left=min(names, MOST_FOR_NAMES), right=0.985, top=1 - 0.1 / height, bottom=0.55 / height, wspace=0.1
    )
    for j, (axes, column) in enumerate(zip(grid, columns, strict=True)):
        baseline = cells.get(BASELINE, [None] * len(columns))[j]
        if baseline:
            belongs(BASELINE, axes.axvline(baseline.mean, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0))
        for row, method in enumerate(methods):
            value, look = cells[method.name][j], looks[method.name]
            if value:
                drawn = axes.errorbar(
                    value.mean,
                    row,
                    xerr=value.half,
                    color=look.light,
                    marker=look.marker,
                    markersize=4.5,
                    markerfacecolor=look.light if len(method.runs) > 1 else "none",
                    elinewidth=1.2,
                )
                belongs(method.name, *drawn.get_children())
        present = [value for line in cells.values() if (value := line[j])]
        how = scale([value.mean for value in present], column.kind)
        # Costs start at zero, so that ratios show; distances do not, so that intervals do.
        start = min(value.low for value in present) if column.kind == "score" else 0.0
        end = max(value.high for value in present)
        spare = 0.06 * (end - start) or 1.0
        axes.set_xlim(start - spare if start else 0.0, end + spare)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _, how=how: f"{value / how.divisor:g}"))
        axes.set_xlabel(f"{column.label} ({how.unit})" if how.unit else column.label, fontsize=SIZE)
        axes.tick_params(axis="y", length=0)
    grid[0].set_yticks(range(len(methods)), [method.title for method in methods], fontsize=SIZE)
    grid[0].set_ylim(len(methods) - 0.5, -0.5)
    for method, name in zip(methods, grid[0].get_yticklabels(), strict=True):
        belongs(method.name, name)
    return figure


def _distances(results: Results) -> list[Column]:
    found = []
    for network in dict.fromkeys(network for run in results.runs for network in run.metrics.features):
        fid = any("fid" in run.metrics.features.get(network, {}) for run in results.runs)
        score, name = ("fid", "FID") if fid else ("frechet_distance", "Fréchet distance")
        label = f"{name} ({network_title(network)})"
        error = score_source(network, f"{score}_se")
        found.append(Column(score, label, "score", score_source(network, score), error=error))
    return found
