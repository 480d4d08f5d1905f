"""Scores of all methods, and quality against what a sample costs."""

from __future__ import annotations

from fdm.report.figures import MOST_NAMES, quality_against_cost
from fdm.report.ranking import ranking
from fdm.report.results import Results
from fdm.report.section import Canvas, Section
from fdm.report.table import Table
from fdm.report.tables import BASELINE, main_table

ORDER = 10


def tables(results: Results) -> tuple[Table, ...]:
    """The main table."""
    return (main_table(results),)


def build(canvas: Canvas) -> Section:
    """The main table, and scatter plots of few methods or rows of many."""
    results = canvas.results
    alike = results.timed_alike
    counted = "FLOPs are counted" + (
        ", time was measured on the device named above." if alike else "; times of different devices do not compare."
    )
    if len(results.methods) <= MOST_NAMES:
        quality = canvas.draw(
            "quality",
            "Quality against the cost of a sample",
            "One mark per method: mean over seeds, bars are 95 % t-intervals where there are at least two seeds. "
            f"Towards the lower left: better for less. {counted}",
            f"Scatter plots of distance to the reference images against FLOPs{' and against time' if alike else ''} per sample, "
            "one mark per method",
            quality_against_cost(results, canvas.looks),
        )
    else:
        base = next((f"Dashed: {method.title}. " for method in results.methods if method.name == BASELINE), "")
        quality = canvas.draw(
            "quality",
            "Quality and the cost of a sample",
            "Best first, by the first distance. Filled marks: mean over seeds with its 95 % t-interval; open marks: one seed, with the "
            f"95 % interval over its samples, where it was computed, which leaves out what another training would change. "
            f"{base}{counted}",
            f"One row per method: distance to the reference images, FLOPs{' and time' if alike else ''} per sample",
            ranking(results, canvas.looks),
        )
    return Section("scores", "Scores and cost", (*tables(results), quality))
