"""Training of the denoisers: loss curves, and what training took."""

from __future__ import annotations

from fdm.report.figures import training_curves
from fdm.report.results import Results
from fdm.report.section import Canvas, Section
from fdm.report.table import Table
from fdm.report.tables import stage_table, training_table

ORDER = 40


def tables(results: Results) -> tuple[Table, ...]:
    """The cost of training, and FLOPs by stage."""
    return training_table(results), stage_table(results)


def build(canvas: Canvas) -> Section:
    """The curves, the cost of training, and FLOPs by stage."""
    drawn = canvas.results.having("training.csv")
    if not drawn.methods:
        return Section("training", "Training", tables(canvas.results))
    curves = canvas.draw(
        "training",
        "Loss against images seen",
        "A panel for each method with an axis of its own, a line for the steps of each of its stages: mean of the logged losses over "
        "windows of 1/40 of the budget and over seeds (band: lowest to highest seed). Losses of different methods and stages are not "
        "comparable, as target, weighting and the signal that is to be predicted differ. Read each line for its own trend.",
        "Training loss against images seen, one panel per method, one line per stage",
        training_curves(drawn, canvas.looks),
    )
    return Section("training", "Training", (curves, *tables(canvas.results)))
