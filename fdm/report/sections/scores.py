"""Scores of all methods, and what a sample costs."""

from __future__ import annotations

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
    """The main table, and a row of marks for each method."""
    results = canvas.results
    base = next((f"Dashed: {method.title}. " for method in results.methods if method.name == BASELINE), "")
    quality = canvas.draw(
        "quality",
        "Quality and the cost of a sample",
        "Best first, by the first distance. Filled marks: mean over seeds with its 95 % t-interval; open marks: one seed, with the "
        f"95 % interval over its samples, where it was computed, which leaves out what another training would change. {base}FLOPs are "
        "counted.",
        "One row per method: distance to the reference images and FLOPs per sample",
        ranking(results, canvas.looks),
    )
    return Section("scores", "Scores and cost", (*tables(results), quality))
