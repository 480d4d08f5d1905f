"""Pareto fronts: quality against evaluations, FLOPs of a sample and of training."""

from __future__ import annotations

from fdm.report.pareto import pareto_figure
from fdm.report.section import Canvas, Section

ORDER = 12


def build(canvas: Canvas) -> Section | None:
    """None for a single method, which no front needs."""
    if len(canvas.results.methods) < 2:
        return None
    drawing = canvas.draw(
        "pareto",
        "Quality against what it costs",
        "One mark per method: mean over seeds with the 95 % t-interval of its quality; lower left is better. The line joins the "
        "methods that no other beats in both means (intervals are not weighed); the others are grey, with a name where there is "
        "room. A cost of which all methods have one or two values has no panel. FLOPs of training leave out the pretraining of an "
        "autoencoder.",
        "Scatter plots of distance against cost with their Pareto fronts",
        pareto_figure(canvas.results, canvas.looks),
    )
    return Section("pareto", "What quality costs", (drawing,))
