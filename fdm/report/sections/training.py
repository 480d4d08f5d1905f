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
        "Mean of the logged losses over windows of 1/40 of the budget and over seeds (band: lowest to highest "
        "seed). Losses of different methods are not comparable: they differ in target, in weighting and in "
        "the signal that is to be predicted, and a method with stages averages over stages of different "
        "difficulty. Read each line for its own trend; the panels show the same losses for the steps of one "
        "stage.",
        "Training loss against images seen, one line per method, for all steps and for the steps of each stage",
        training_curves(drawn, canvas.looks),
    )
    return Section("training", "Training", (curves, *tables(canvas.results)))
