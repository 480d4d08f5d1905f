"""Build a report beside its place, then put it there in one step."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fdm.errors import UserError
from fdm.report import style
from fdm.report.load import Results, load
from fdm.report.page import render
from fdm.report.plan import read_plan
from fdm.report.section import Canvas
from fdm.report.sections import build_sections
from fdm.report.table import Table
from fdm.report.write import write_table

OURS = {"index.html", "tables", "figures"}


def build(suite: str, results: Path, target: Path) -> Path:
    """Read the results of a suite and write its report.

    Args:
        suite: its name; ``params/suites/<suite>.yaml`` gives order, title and seeds (or a path to such a file).
        results: the suite's folder, ``results/<suite>``, with ``<experiment>/seed<k>/`` in it.
        target: folder of the report, ``reports/<suite>``; replaced as a whole when the new one is complete.

    Returns:
        Path of the page, ``<target>/index.html``.

    Raises:
        UserError: a file is missing, damaged or of another run, or the report cannot be written. The old report stays.
    """
    _refuse_foreign(target)
    found = load(Path(suite).stem if suite.endswith((".yaml", ".yml")) else suite, results, read_plan(suite))
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(part, ignore_errors=True)
        (part / "tables").mkdir(parents=True)
        (part / "figures").mkdir()
        (part / "index.html").write_text(_write(found, part), encoding="utf-8", newline="\n")
        _swap(part, target)
    except OSError as error:
        raise UserError(f"{target}: cannot write the report: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target / "index.html"


def _write(results: Results, part: Path) -> str:
    looks = style.looks(results)
    with style.drawing():
        sections = build_sections(Canvas(results, looks, part / "figures"))
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, Table):
            write_table(block, part / "tables")
    return render(results, looks, sections)


def _refuse_foreign(target: Path) -> None:
    """The old report is removed as a whole, so a folder with anything else in it is not taken for one."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target}: is a file; the report needs a folder of this name, move the file away")
    foreign = sorted(path.name for path in target.iterdir() if path.name not in OURS and not path.name.startswith("."))
    if foreign:
        raise UserError(f"{target}: holds {foreign[0]!r}, which no report wrote; move it away or name another folder")


def _swap(part: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(part, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
