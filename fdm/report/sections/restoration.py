"""Super-resolution and deblurring with models that were not trained for it; absent where no experiment asks for them."""

from __future__ import annotations

from fdm.report.restoration import restoration_table
from fdm.report.section import Canvas, Gallery, Section
from fdm.report.sheets import sheet

ORDER = 35


def build(canvas: Canvas) -> Section | None:
    """Scores of every way to restore, and the first images of each experiment's first seed that has some."""
    table = restoration_table(canvas.results)
    if table is None:
        return None
    pictures = []
    for method in canvas.results.methods:
        run = next((run for run in method.runs if run.restored), None)
        if run:
            caption = f"Seed {run.seed}, the first images, not selected."
            pictures.append(sheet(method, run, "restore", "Restorations", caption, canvas.folder))
    return Section("restoration", "Restoration", (table, Gallery(tuple(pictures))))
