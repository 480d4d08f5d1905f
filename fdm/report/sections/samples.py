"""The first samples of every method, side by side."""

from __future__ import annotations

from fdm.report import style
from fdm.report.samples import COLUMNS, ROWS, encode, grid, side_by_side
from fdm.report.section import Canvas, Gallery, Picture, Section
from fdm.report.settings import describe

ORDER = 20


def build(canvas: Canvas) -> Section:
    """One grid per method; the figure file holds all of them."""
    results = canvas.results
    grids = {method.name: grid(method.runs[0].samples(COLUMNS * ROWS)) for method in results.methods}
    style.save(side_by_side(results, grids), canvas.folder, "samples")
    pictures = []
    for method in results.methods:
        media, content = encode(grids[method.name])
        height, width = grids[method.name].shape[:2]
        alt = f"Grid of samples of {method.title}, seed {method.runs[0].seed}"
        caption = describe(method, results)
        pictures.append(
            Picture(f"samples-{method.name}", method.title, caption, alt, media, content, width, height, (method.name,))
        )
    first = results.runs[0]
    caption = (
        f"The first {min(COLUMNS * ROWS, first.metrics.samples)} samples of each method under seed {first.seed}, not "
        "selected. Sample i uses the same stream of noise in every method."
    )
    return Section("samples", "Samples", (Gallery(tuple(pictures), "samples"),), caption)
