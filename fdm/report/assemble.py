"""Build a report beside its place, then put it there in one step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fdm.errors import UserError
from fdm.experiment import suite_file
from fdm.report import style
from fdm.report.audit import RECORD, differences, is_partial, record
from fdm.report.load import load
from fdm.report.page import render
from fdm.report.plan import read_plan
from fdm.report.results import Results
from fdm.report.section import Canvas
from fdm.report.sections import build_sections
from fdm.report.table import Table
from fdm.report.tracked import FILES as TRACKED
from fdm.report.tracked import write_tracked
from fdm.report.write import write_table
from fdm.store import locked, put_in_place

OURS = {"index.html", RECORD, "tables", "figures"} | TRACKED


def build(suite: str, results: Path, target: Path, partial: bool = False) -> Path:
    """Read the results of a suite and write its report.

    Args:
        suite: its name; ``params/suites/<suite>.yaml`` gives order, title and seeds (or a path to such a file).
        results: the suite's folder, ``results/<suite>``, with ``<experiment>/seed<k>/`` in it.
        target: folder of the report, ``reports/<suite>``; replaced as a whole when the new one is complete.
        partial: leave out what is not finished, and say so on the page, instead of refusing.

    Returns:
        Path of the page, ``<target>/index.html``.

    Raises:
        UserError: a file is missing, damaged or of another run, or the report cannot be written. The old report stays.
    """
    _refuse_foreign(target)
    with _built(suite, results, target, partial) as part:
        put_in_place(part, target)
    return target / "index.html"


def check(suite: str, results: Path, target: Path) -> list[str]:
    """What in the report at ``target`` is not as the results give it, one line each; empty if everything is.

    Builds a fresh report beside it and compares: cells of tables one by one, other files by their bytes.

    Raises:
        UserError: there is no report, or the results cannot be read.
    """
    if not (target / RECORD).is_file():
        raise UserError(f"{target}: no report with a {RECORD} here; run `fdm report {suite}` first")
    with _built(suite, results, target, is_partial(target)) as part:
        return list(differences(target, part))


@contextmanager
def _built(suite: str, results: Path, target: Path, partial: bool) -> Iterator[Path]:
    """A complete new report in a folder beside ``target``, removed afterwards unless it was moved."""
    name = suite_file(suite).stem
    found = load(name, results, read_plan(suite), partial)
    # Fixed names, because the lock keeps others out: what a killed process left is cleared by the next one.
    part = target.with_name(f".{target.name}.part")
    try:
        with locked(target.parent, f".{target.name}", wait=True):
            try:
                shutil.rmtree(part, ignore_errors=True)
                (part / "tables").mkdir(parents=True)
                (part / "figures").mkdir()
                _write(found, part, partial)
                yield part
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{target}: cannot write the report: {error.strerror or error}") from None


def _write(results: Results, part: Path, partial: bool) -> None:
    looks = style.looks(results)
    with style.drawing():
        sections = build_sections(Canvas(results, looks, part / "figures"))
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, Table):
            write_table(block, part / "tables")
    write_tracked(results, part)
    _save(part / "index.html", render(results, looks, sections))
    _save(part / RECORD, json.dumps(record(results, part, partial), indent=2, ensure_ascii=False) + "\n")


def _save(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _refuse_foreign(target: Path) -> None:
    """The old report is removed as a whole, so a folder with anything else in it is not taken for one."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target}: is a file; the report needs a folder of this name, move the file away")
    foreign = sorted(path.name for path in target.iterdir() if path.name not in OURS and not path.name.startswith("."))
    if foreign:
        raise UserError(f"{target}: holds {foreign[0]!r}, which no report wrote; move it away or name another folder")
