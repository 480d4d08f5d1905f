"""Every run on its own, with its manifest."""

from __future__ import annotations

from fdm.report.section import Canvas, Manifests, Section
from fdm.report.tables import runs_table

ORDER = 90


def build(canvas: Canvas) -> Section:
    """The numbers behind the means, and the manifests that all numbers link to."""
    return Section("runs", "Runs", (runs_table(canvas.results), Manifests()))
