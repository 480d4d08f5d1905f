"""Every run on its own, with its manifest."""

from __future__ import annotations

from fdm.report.results import Results
from fdm.report.section import Canvas, Manifests, Section
from fdm.report.table import Table
from fdm.report.tables import runs_table

ORDER = 90


def tables(results: Results) -> tuple[Table, ...]:
    """The table of runs."""
    return (runs_table(results),)


def build(canvas: Canvas) -> Section:
    """The numbers behind the means, and the manifests that all numbers link to."""
    return Section("runs", "Runs", (*tables(canvas.results), Manifests()))
