"""Super-resolution and deblurring with models that were not trained for it; absent where no experiment asks for them."""

from __future__ import annotations

from fdm.report.restoration import restoration_table
from fdm.report.results import Results
from fdm.report.section import Canvas, Gallery, Section
from fdm.report.sheets import sheet
from fdm.report.table import Table

ORDER = 35


def tables(results: Results) -> tuple[Table, ...]:
    """Scores of every way to restore; none where nothing was restored."""
    table = restoration_table(results)
    return (table,) if table else ()


def build(canvas: Canvas) -> Section | None:
    """The scores, and the first images of each experiment's first seed that has some."""
    found = tables(canvas.results)
    if not found:
        return None
    pictures = []
    for method in canvas.results.having("restore.png").methods:
        run = next((run for run in method.runs if run.restored), None)
        if run:
            caption = f"Seed {run.seed}, the first images, not selected."
            pictures.append(sheet(method, run, "restore", "Restorations", caption, canvas.folder))
    return Section("restoration", "Restoration", (*found, Gallery(tuple(pictures))))
