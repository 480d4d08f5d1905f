"""A trace as a tree for people, and the lists of what can be traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from rich.tree import Tree

from fdm.provenance.trace import CellTrace, RunTrace, Step, Trace
from fdm.report.settings import flatten
from fdm.report.table import Table

BLOCKS = ("dataset", "network", "method", "training", "sampling", "evaluation", "conditioning")
GOOD = ("as recorded", "the same here")


def print_trace(trace: Trace, console: Console) -> None:
    """Cells with their values first, then each run."""
    root = Tree(Text.assemble((trace.row, "bold"), f" · {trace.title} ({trace.table}) · {trace.suite}"))
    for cell in trace.cells:
        _add_cell(root, cell)
    shown: dict[str, str] = {}
    for run in trace.runs:
        same = next((before for before, config in shown.items() if config == str(run.config)), None)
        shown.setdefault(run.run, str(run.config))
        _add_run(root, run, same)
    console.print(root)


def print_tables(suite: str, tables: Mapping[str, Table], console: Console) -> None:
    """The tables of a suite."""
    _list(f"Tables of {suite}", ("table", "title", "rows", "columns"), [
        (table.name, table.title, str(len(table.rows)), str(len(table.headers))) for table in tables.values()
    ], console)  # fmt: skip
    console.print(f"[dim]then: fdm trace {suite} TABLE[/]")


def print_rows(suite: str, table: Table, console: Console) -> None:
    """The rows and the columns of a table."""
    rows = dict.fromkeys((row.name, row.title) for row in table.rows)
    _list(f"Rows of {table.name}", ("row", "title"), list(rows), console)
    columns = [(header.key, ", ".join(filter(None, (header.label, header.group)))) for header in table.headers]
    _list("Columns", ("column", "heading"), columns, console)
    console.print(f"[dim]then: fdm trace {suite} {table.name} ROW \\[COLUMN][/]")


def _list(title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]], console: Console) -> None:
    table = RichTable(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _add_cell(root: Tree, cell: CellTrace) -> None:
    head = Text.assemble((cell.printed, "bold cyan"), f"  {cell.label} ", (cell.column, "dim"))
    branch = root.add(head)
    if isinstance(cell.exact, float | int):
        ends = f", 95 % interval {cell.interval[0]!r} to {cell.interval[1]!r}" if cell.interval else ""
        branch.add(Text(f"exactly {cell.exact!r}{ends}: {cell.how}"))
    else:
        branch.add(Text(cell.how))
    for value in cell.values:
        line = Text.assemble(f"{value.run}: ", (f"{value.value}", "cyan"), f"  {value.file}: {value.key}  ")
        branch.add(line.append_text(_state(value.state)))


def _add_run(root: Tree, run: RunTrace, same: str | None) -> None:
    """One run; its configuration only where it is not that of the run ``same``."""
    branch = root.add(Text.assemble((f"{run.title}, seed {run.seed}", "bold"), f"  {run.folder}"))
    data = Text(f"data      {run.data['name']}, digest {run.data['digest']}  ")
    branch.add(data.append_text(_state(run.data["here"])))
    config = branch.add(Text(f"config    that of {same}" if same else "config"))
    for name in BLOCKS:
        block = None if same else run.config.get(name)
        if block:
            config.add(Text(f"{name}: " + ", ".join(f"{key} {value}" for key, value in flatten(block).items())))
    for step in run.steps:
        _add_step(branch, step)
    makers = {step.step: _maker(step) for step in run.steps}
    for maker in dict.fromkeys(makers.values()):
        steps = [step for step, own in makers.items() if own == maker]
        which = "" if len(steps) == len(makers) else f" ({', '.join(steps)})"
        branch.add(Text(f"made by   {maker}{which}"))
    if run.baseline:
        branch.add(Text(f"baseline  {run.baseline['experiment']}, training {run.baseline['train']}"))
    branch.add(Text(run.now, style="green" if run.same_now else "yellow"))
    again = branch.add(Text("to make it again"))
    for command in run.commands:
        again.add(Text(command))


def _add_step(branch: Tree, step: Step) -> None:
    parts = [
        step.identity,
        _duration(step.seconds) if step.seconds is not None else "",
        f"code version {step.source}" if step.source else "",
        step.log or "log not here",
    ]
    node = branch.add(Text(f"{step.step:<9} {' · '.join(filter(None, parts))}"))
    for name, digest in step.files.items():
        node.add(Text(f"{name}  sha256 {digest}"))


def _maker(step: Step) -> str:
    """Code, machine and packages of a step."""
    commit, _, changes = (step.revision or "").partition("+")
    code = (
        f"commit {commit}{' with changes that no commit holds' if changes else ''}" if commit else "an unknown commit"
    )
    threads = f", {step.threads} thread{'' if step.threads == 1 else 's'}" if step.threads else ""
    packages = ", ".join(f"{name} {version}" for name, version in step.packages.items())
    return f"{code} · {step.device}{threads} · Python {step.python}, {packages}"


def _state(state: str) -> Text:
    return Text(f"✓ {state}", style="green") if state in GOOD else Text(f"! {state}", style="yellow")


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds:.1f} s"
