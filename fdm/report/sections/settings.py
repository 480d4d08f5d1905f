"""What differs between the methods."""

from __future__ import annotations

from fdm.report.results import Results
from fdm.report.section import Canvas, Section
from fdm.report.settings import settings_table
from fdm.report.table import Table

ORDER = 80


def tables(results: Results) -> tuple[Table, ...]:
    """The table of settings."""
    return (settings_table(results),)


def build(canvas: Canvas) -> Section:
    """Settings whose value is not the same everywhere."""
    return Section("settings", "Settings", tables(canvas.results))
