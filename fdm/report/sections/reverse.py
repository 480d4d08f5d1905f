"""The reverse process of every method, frame by frame."""

from __future__ import annotations

from fdm.report.names import slug
from fdm.report.reverse import reverse_process
from fdm.report.section import Canvas, Section

ORDER = 30


def build(canvas: Canvas) -> Section | None:
    """One figure per method, of its first seed; None where partial results hold no trajectory."""
    results = canvas.results.having("trajectory.npz")
    if not results.methods:
        return None
    drawings = [
        canvas.draw(
            f"reverse-{slug(method.name)}",
            method.title,
            f"Seed {method.runs[0].seed}.",
            f"Frames of the reverse process of {method.title}: noisy state and denoised signal from noise to data",
            reverse_process(method.runs[0].trajectory()),
            method.name,
        )
        for method in results.methods
    ]
    caption = (
        "From noise (left) to data (right), one sample per method: above the noisy state z, below the signal "
        "x that the network makes of it. Every frame has the pixels of its own resolution, so coarse stages "
        "show large squares (frames above 64×64 are averaged down); coloured bars mark the stages, a gap a "
        "jump between them. z is scaled to the range of its own values (to the 99 % quantile), x to [−1, 1]."
    )
    return Section("reverse", "Reverse process", tuple(drawings), caption)
