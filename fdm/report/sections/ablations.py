"""Every ablation of the suite: a table and a figure."""

from __future__ import annotations

from fdm.report.ablations import ablation_figure, ablation_table
from fdm.report.results import Results
from fdm.report.section import Block, Canvas, Section
from fdm.report.table import Table

ORDER = 14


def tables(results: Results) -> tuple[Table, ...]:
    """One for each ablation of the suite."""
    return tuple(ablation_table(name, ablation, results) for name, ablation in results.ablations.items())


def build(canvas: Canvas) -> Section | None:
    """None where the suite has no ablations."""
    blocks: list[Block] = []
    for table, (name, ablation) in zip(tables(canvas.results), canvas.results.ablations.items(), strict=True):
        blocks.append(table)
        blocks.append(
            canvas.draw(
                f"ablation-{name}",
                "",
                "Left: the mean over seeds with its 95 % t-interval; small strokes are single seeds. Right: the paired difference "
                "to the baseline (first row), whose interval decides the word. Lines against evaluations: means with intervals.",
                f"{ablation.title}: quality of each variant with intervals over seeds",
                ablation_figure(ablation, canvas.results, canvas.looks),
            )
        )
    if not blocks:
        return None
    return Section(
        "ablations",
        "Ablations",
        tuple(blocks),
        "Each asks one question of the suite's experiments. A difference inside its interval is called none.",
    )
