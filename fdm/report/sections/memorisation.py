"""Memorisation and failures: samples beside their nearest training images."""

from __future__ import annotations

from fdm.report.extras import neighbours
from fdm.report.memorisation import memorisation_picture, memorisation_table
from fdm.report.results import Results
from fdm.report.section import Canvas, Gallery, Section
from fdm.report.table import Table

ORDER = 24


def tables(results: Results) -> tuple[Table, ...]:
    """Distances; none where the results hold no neighbours."""
    found = neighbours(results)
    return (memorisation_table(found),) if found else ()


def build(canvas: Canvas) -> Section | None:
    """None where the results hold no neighbours."""
    found = neighbours(canvas.results)
    if not found:
        return None
    drawn = neighbours(canvas.results.having("samples.npy"))
    if not drawn:
        return Section("memorisation", "Memorisation", (memorisation_table(found),))
    pictures = tuple(memorisation_picture(method, item) for method, item in drawn)
    return Section(
        "memorisation",
        "Memorisation and failures",
        (memorisation_table(found), Gallery(pictures)),
        "For each method, from the top: the samples nearest to a training image, those training images, the samples farthest from any "
        "training image (where failures are), and the training images nearest to them.",
    )
