"""Scores of all methods, and quality against what a sample costs."""

from __future__ import annotations

from fdm.report.figures import quality_against_cost
from fdm.report.results import Results
from fdm.report.section import Canvas, Section
from fdm.report.table import Table
from fdm.report.tables import main_table

ORDER = 10


def tables(results: Results) -> tuple[Table, ...]:
    """The main table."""
    return (main_table(results),)


def build(canvas: Canvas) -> Section:
    """The main table and the scatter plots."""
    alike = canvas.results.timed_alike
    quality = canvas.draw(
        "quality",
        "Quality against the cost of a sample",
        "One mark per method: mean over seeds, bars are 95 % t-intervals where there are at least two seeds. "
        "Towards the lower left: better for less. FLOPs are counted"
        + (
            ", time was measured on the device named above."
            if alike
            else "; times of different devices do not compare."
        ),
        f"Scatter plots of distance to the reference images against FLOPs{' and against time' if alike else ''} per sample, one "
        "mark per method",
        quality_against_cost(canvas.results, canvas.looks),
    )
    return Section("scores", "Scores and cost", (*tables(canvas.results), quality))
