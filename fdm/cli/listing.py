"""`fdm show` without an experiment: what there is to show."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fdm.experiment import PARAMS, Suite, outlines


def print_suites(console: Console) -> None:
    """One row per suite, and the names of the building blocks."""
    rows = [
        (found.name, found.title, found.dataset, found.network, str(found.experiments), str(found.runs))
        for found in outlines()
    ]
    _print("Suites", ("suite", "title", "dataset", "network"), ("experiments", "runs"), rows, console)
    for kind in ("datasets", "networks", "methods", "autoencoders"):
        names = sorted(path.stem for path in (PARAMS / kind).glob("*.yaml"))
        console.print(Text.assemble((f"{kind}: ", "bold"), ", ".join(names)))
    console.print("then: fdm show SUITE · fdm show SUITE:EXPERIMENT", style="dim", markup=False, highlight=False)


def print_suite(suite: Suite, console: Console) -> None:
    """One row per experiment."""
    rows = [
        (
            name,
            e.title,
            e.method.model_dump()["process"],
            e.sampling.solver,
            str(e.sampling.steps * e.sampling.passes),
            f"{e.sampling.count:,}",
            f"{e.training.images:,}",
            " ".join(map(str, suite.seeds[name])),
        )
        for name, e in suite.experiments.items()
    ]
    words = ("experiment", "title", "process", "solver")
    numbers = ("evaluations", "samples", "images seen", "seeds")
    datasets = ", ".join(sorted({e.dataset.name for e in suite.experiments.values()}))
    _print(f"{suite.name}: {suite.title} (data: {datasets})", words, numbers, rows, console)
    first, runs = next(iter(suite.experiments)), f"snakemake --config suite={suite.name}"
    then = f"then: fdm show {suite.name}:{first} · fdm show --cost {suite.name} · {runs}"
    console.print(then, style="dim", markup=False, highlight=False)


def _print(
    title: str, words: Sequence[str], numbers: Sequence[str], rows: Sequence[tuple[str, ...]], console: Console
) -> None:
    table = Table(title=Text(title, "bold"), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        table.add_row(Text(row[0], "cyan"), *map(Text, row[1:]))
    console.print(table)
