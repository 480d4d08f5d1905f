"""Variations and interpolations of samples; absent where no experiment asks for them."""

from __future__ import annotations

from dataclasses import replace

from fdm.report.section import Canvas, Gallery, Picture, Section
from fdm.report.sheets import sheet

ORDER = 36
WORDS = {
    "vary": (
        "Variations",
        "the images of a row share the state at the start of the named stage, from where the reverse process jumps to finer signals, and "
        "differ in all noise drawn after it; the first is the sample itself.",
    ),
    "interpolate": (
        "Interpolations",
        "a row leads along the great circle between the noise from which two samples start. Solvers that draw noise would forget it and are "
        "replaced by deterministic ddim; jumps draw noise, the same for the whole row.",
    ),
}


def build(canvas: Canvas) -> Section | None:
    """A gallery for each kind, with the picture of each experiment's first seed that has one."""
    found = {kind: pictures for kind in WORDS if (pictures := _pictures(canvas, kind))}
    if not found:
        return None
    caption = " ".join(f"{WORDS[kind][0]}: {WORDS[kind][1]}" for kind in found)
    galleries = tuple(Gallery(tuple(pictures)) for pictures in found.values())
    return Section("exploration", "Variations and interpolations", galleries, caption)


def _pictures(canvas: Canvas, kind: str) -> list[Picture]:
    what, found = WORDS[kind][0], []
    for method in canvas.results.having(f"{kind}.png").methods:
        run = next((run for run in method.runs if kind in run.drawn), None)
        if run:
            caption = f"{what} of the first samples, not selected; seed {run.seed}."
            picture = sheet(method, run, kind, what, caption, canvas.folder)
            found.append(replace(picture, title=f"{method.title}: {what.lower()}"))
    return found
