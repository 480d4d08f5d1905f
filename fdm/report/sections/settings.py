"""What differs between the methods."""

from __future__ import annotations

from fdm.report.section import Canvas, Section
from fdm.report.settings import settings_table

ORDER = 80


def build(canvas: Canvas) -> Section:
    """Settings whose value is not the same everywhere."""
    return Section("settings", "Settings", (settings_table(canvas.results),))
