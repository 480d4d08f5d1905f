"""Super-resolution and deblurring with models that were not trained for it; absent where no experiment asks for them."""

from __future__ import annotations

from fdm.report.restoration import restoration_table, sheets
from fdm.report.section import Canvas, Gallery, Section

ORDER = 35


def build(canvas: Canvas) -> Section | None:
    """Scores of every way to restore, and the first images."""
    table = restoration_table(canvas.results)
    if table is None:
        return None
    return Section("restoration", "Restoration", (table, Gallery(tuple(sheets(canvas.results, canvas.folder)))))
