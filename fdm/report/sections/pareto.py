"""Pareto fronts: quality against evaluations, FLOPs, time and training."""

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
        f"Quality against evaluations, FLOPs{', time' if canvas.results.timed_alike else ''} and training",
        "One mark per method: mean over seeds with the 95 % t-interval of its quality; lower left is better. The line joins the "
        "methods that no other beats in both means (intervals are not weighed); the others are grey. FLOPs of training leave "
        "out the pretraining of an autoencoder."
        + ("" if canvas.results.timed_alike else " Times of different devices do not compare."),
        "Scatter plots of distance against cost with their Pareto fronts",
        pareto_figure(canvas.results, canvas.looks),
    )
    return Section("pareto", "What quality costs", (drawing,))
