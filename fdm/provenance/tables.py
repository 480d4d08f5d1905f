"""Does a report say what the results give: the whole report, or its tables where some files of the results are not here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fdm.errors import UserError
from fdm.provenance.finding import Finding
from fdm.provenance.folder import under_dvc
from fdm.report import check as check_report
from fdm.report.audit import RECORD, altered, is_partial
from fdm.report.load import load
from fdm.report.plan import read_plan
from fdm.report.sections import build_tables
from fdm.report.write import as_csv


def check_tables(suite: str, results: Path, report: Path, complete: bool, unfinished: bool) -> Iterator[Finding]:
    """Compare a report with the results that it is of.

    Args:
        complete: all files of the results are here and as recorded, so that a whole report can be built.
        unfinished: runs are in the making, so that only a partial report can be one of these results.
    """
    if not (report / RECORD).is_file():
        if report.is_dir() and any(report.iterdir()) and not under_dvc(report / RECORD):
            yield Finding(suite, "report", "bad", str(report / RECORD), "missing")
            return
        yield Finding(
            suite, "report", "absent", str(report), f"no report here (fdm report {suite}, or dvc pull from a remote)"
        )
        return
    if unfinished and not is_partial(report):
        yield Finding(
            suite, "report", "note", str(report), "of finished results, and there are runs that are not finished"
        )
        return
    try:
        found = check_report(suite, results, report) if complete else list(_tables(suite, results, report))
    except UserError as error:
        found = [str(error)]
    for said in found:
        yield Finding(suite, "report", "bad", str(report), said)
    if not found:
        said = "" if complete else "tables and digests only: its pictures need files that are not here"
        yield Finding(suite, "report", "good", str(report), said)


def _tables(suite: str, results: Path, report: Path) -> Iterator[str]:
    """Files of the report that were changed since it was built, and tables that the results give differently."""
    yield from altered(report, under_dvc)
    for name, table in build_tables(load(suite, results, read_plan(suite), is_partial(report))).found.items():
        path = report / "tables" / f"{name}.csv"
        if path.is_file() and path.read_text(encoding="utf-8") != as_csv(table):
            yield f"tables/{name}.csv: not what the results give"
