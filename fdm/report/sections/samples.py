"""The first samples of every method, side by side."""

from __future__ import annotations

from fdm.report import style
from fdm.report.numbers import scale
from fdm.report.paired import quality, quality_name
from fdm.report.results import SAMPLES, Run
from fdm.report.samples import COLUMNS, ROWS, encode, grid, shown, side_by_side
from fdm.report.section import Canvas, Gallery, Picture, Section

ORDER = 20


def build(canvas: Canvas) -> Section | None:
    """One grid per method; the figure file holds all of them. None where partial results hold no samples."""
    results = canvas.results.having(*SAMPLES)
    if not results.methods:
        return None
    selections = {method.name: shown(method.runs[0]) for method in results.methods}
    grids = {method.name: grid(method.runs[0], selections[method.name], results.partial) for method in results.methods}
    style.save(side_by_side(results, grids), canvas.folder, "samples")
    seeds = {method.runs[0].seed for method in results.methods}
    pictures = []
    for method in results.methods:
        media, content = encode(grids[method.name])
        height, width = grids[method.name].shape[:2]
        alt = f"Grid of samples of {method.title}, seed {method.runs[0].seed}"
        caption = " · ".join(filter(None, (_of_this_run(method.runs[0]), selections[method.name].caption)))
        pictures.append(
            Picture(f"samples-{method.name}", method.title, caption, alt, media, content, width, height, (method.name,))
        )
    first = results.runs[0]
    caption = (
        f"The first {min(COLUMNS * ROWS, first.metrics.samples)} samples of each method under "
        f"{f'seed {first.seed}' if len(seeds) == 1 else 'the first seed whose samples are here'}, not "
        "selected. Under one seed, sample i uses the same stream of noise in every method."
    )
    if any(run.manifest.records["sample"].classes for run in results.runs):
        caption += " Where a method knows classes, each row shows the first samples of one class."
    return Section("samples", "Samples", (Gallery(tuple(pictures), "samples"),), caption)


def _of_this_run(run: Run) -> str:
    """Its seed, and the distance of all its samples."""
    value = quality(run)
    return f"Seed {run.seed}" + (
        "" if value is None else f" · {quality_name(run)} {scale([value], 'score').text(value)}"
    )
