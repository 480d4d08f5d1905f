"""Verbs about finished results: report, trace, publish, check, gc."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fdm.cli.base import Device, Threads, say, set_threads
from fdm.errors import UserError


def report(
    suite: Annotated[str | None, typer.Argument(help="Suite whose results are reported.")] = None,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: results/SUITE.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: reports/SUITE.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Report what is finished so far; the page says what is missing.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Build nothing: list every cell and file that differs from what the results give."
        ),
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="BEFORE AFTER", help="Build nothing: print what differs between two folders results/SUITE."
        ),
    ] = None,
) -> None:
    """Build the report of a suite from its result files alone.

    Example: fdm report digits · fdm report digits --check · fdm report --compare old/results/digits results/digits
    """
    if compare:
        _compare(*compare, to)
        return
    if suite is None:
        raise UserError("name a suite, for example digits, or give --compare BEFORE AFTER")
    from fdm.experiment import suite_file
    from fdm.report import build
    from fdm.report import check as check_report

    name = suite_file(suite).stem
    results, to = results or Path("results") / name, to or Path("reports") / name
    if not check:
        say(f"report: {build(suite, results, to, partial)}")
        return
    found = check_report(suite, results, to)
    for line in found:
        print(line)
    if found:
        raise UserError(f"{to}: {len(found)} differences from {results}; `fdm report {suite}` writes it again")
    say(f"report: {to} says what {results} says")


def trace(
    suite: Annotated[str, typer.Argument(help="Suite, for example digits.")],
    table: Annotated[str | None, typer.Argument(help="Table of its report: name or title. Without it: a list.")] = None,
    row: Annotated[str | None, typer.Argument(help="Row: experiment or title. Without it: a list.")] = None,
    column: Annotated[str | None, typer.Argument(help="Column: key or heading. Without it: all of the row.")] = None,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: results/SUITE.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the whole configuration.")] = False,
) -> None:
    """From a number in a table to what made it: files, runs, settings, data, code, seeds, machine, logs, commands.

    Names may be abbreviated as long as they are unambiguous.

    Example: fdm trace digits main fdm-ds-3 frechet
    """
    from fdm.provenance.trace import find_column, find_rows, find_table, tables_of
    from fdm.provenance.trace import trace as trace_cells
    from fdm.provenance.tree import print_rows, print_tables, print_trace

    found, tables = tables_of(suite, results)
    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    if table is None:
        print_tables(found.suite, tables, console)
        return
    chosen = find_table(tables, table)
    if row is None:
        print_rows(found.suite, chosen, console)
        return
    place = None if column is None else find_column(chosen, column)
    traced = trace_cells(found, chosen, find_rows(chosen, row), place)
    if as_json:
        print(json.dumps(traced.as_dict(), indent=2, ensure_ascii=False))
    else:
        print_trace(traced, console)


def publish(
    suite: Annotated[str, typer.Argument(help="Suite with finished runs in results/.")],
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: results/SUITE.")] = None,
    report: Annotated[bool, typer.Option(help="Also make the report of all published runs of the suite.")] = True,
    pictures: Annotated[
        bool, typer.Option(help="Also copy what pictures need (curves, sample grids), not only what tables need.")
    ] = True,
) -> None:
    """Copy what git holds of finished runs to published/ (records, scores, curves, pictures), and make the report of all that is there.

    Example: fdm publish cifar10-cpu --no-report && make tables && git add published README.md docs
    """
    from fdm.provenance.publish import publish as copy

    runs = copy(suite, results or Path("results") / suite, report=report, pictures=pictures)
    print(f"published/results/{suite}: {runs} {'run' if runs == 1 else 'runs'} copied")
    if report:
        print(f"published/reports/{suite}: made of all runs there")


def check(
    suites: Annotated[list[str] | None, typer.Argument(metavar="[SUITE]...", help="Default: all.")] = None,
    metrics: Annotated[
        int, typer.Option(min=0, help="Runs per suite whose scores are recomputed, if their samples are here.")
    ] = 1,
    results: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the suites' results. Default: results and published/results."),
    ] = None,
    reports: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the suites' reports. Default: beside the results.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Is everything as it was made? Files, records, identities, data and tables are compared, some scores recomputed.

    Scores can be recomputed only of runs whose samples are here; what is in published/ has none.

    Example: fdm check · fdm check digits --metrics 3
    """
    from fdm.provenance.check import check_everything
    from fdm.provenance.verdict import print_findings

    set_threads(threads)
    findings = check_everything(suites or [], results, reports, metrics, device)
    print_findings(findings, Console(width=None if sys.stdout.isatty() else 140, highlight=False))
    bad = sum(finding.status == "bad" for finding in findings)
    if bad:
        raise UserError(f"check: {bad} {'thing is' if bad == 1 else 'things are'} not as made; see above")


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Remove them. Default: only list them.")] = False,
    dropped: Annotated[
        bool,
        typer.Option("--dropped", help="Include results of experiments and seeds that their suite no longer names."),
    ] = False,
    days: Annotated[
        float, typer.Option(metavar="DAYS", min=0, help="Keep runs that changed within this many days.")
    ] = 7,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="Results that count: name all that use this store. Repeatable. Default: results."
        ),
    ] = None,
) -> None:
    """List, or remove, runs of the store (work/, or $FDM_WORK) that no result refers to (docs/dvc.md).

    A run made by hand without --to is in no result: it can go once it is older than --days.

    Example: fdm gc, then fdm gc --delete
    """
    from fdm.gc import collect

    for line in collect(results or [Path("results")], days, dropped, delete):
        print(line)


def _compare(before: Path, after: Path, to: Path | None) -> None:
    """Print what changed as Markdown; with ``to`` also write the tables there in all formats."""
    from fdm.report.compare import compare
    from fdm.report.write import as_markdown, write_table

    for table in compare(before, after):
        print(f"## {table.title}\n\n{as_markdown(table)}")
        if to:
            to.mkdir(parents=True, exist_ok=True)
            write_table(table, to)
