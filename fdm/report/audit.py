"""Does a report say what the results say? What it was built from, and which cells of it differ from a fresh one."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fdm.errors import UserError
from fdm.report.files import File
from fdm.report.results import Results, Run
from fdm.store import sha256

RECORD = "manifest.json"
Grid = list[list[str]]


class RecordedRun(File):
    """A run that a report was built from: its identities by step, SHA-256 of its files by name."""

    identities: dict[str, str]
    files: dict[str, str]


class ReportRecord(File):
    """A report's ``manifest.json``; ``files`` are those of the report, by path relative to it."""

    partial: bool = False
    runs: dict[str, RecordedRun]
    files: dict[str, str]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a report but its record and hidden files, by path relative to ``folder``."""
    # Snakemake leaves a hidden file in each folder that it made.
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: sha256(path) for name, path in names.items() if name != RECORD}


def record(results: Results, folder: Path, partial: bool) -> dict[str, Any]:
    """Content of a report's ``manifest.json``: the runs with their identities and files, and the digest of every file."""
    return {
        "suite": results.suite,
        "title": results.title,
        "partial": partial,
        "runs": {
            f"{method.name}/seed{run.seed}": {"identities": run.manifest.identities, "files": _sources(run)}
            for method in results.methods
            for run in method.runs
        },
        "files": digests(folder),
    }


def differences(report: Path, fresh: Path) -> Iterator[str]:
    """One line for every cell, figure or file of ``report`` that is not as in ``fresh``, which was just built.

    Raises:
        UserError: ``report`` has no readable record, so it is not (or no longer) a report.
    """
    then, now = _read(report), _read(fresh)
    for run in sorted(then.runs.keys() | now.runs.keys()):
        yield from _run(run, then.runs.get(run), now.runs.get(run))
    have, want = digests(report), digests(fresh)
    for name in sorted(have.keys() | want.keys() | then.files.keys()):
        if name not in have:
            yield f"{name}: missing"
        elif name not in want:
            yield f"{name}: the results give no such file"
        elif have[name] != want[name]:
            edited = have[name] != then.files.get(name)
            cause = "changed since it was built" if edited else "the results or the code have changed since"
            cells = list(_cells(name, report / name, fresh / name))
            yield from cells or [f"{name}: not what the results give ({cause})"]
        elif have[name] != then.files.get(name):
            yield f"{RECORD}: its digest of {name} is not that of the file"


def is_partial(report: Path) -> bool:
    """Was this report built of the runs that were finished then, and not of a whole suite?

    Raises:
        UserError: it has no readable record.
    """
    return _read(report).partial


def altered(report: Path, excused: Callable[[Path], bool]) -> Iterator[str]:
    """One line for every file of a report that is not as it was built; no results are needed for that.

    Args:
        excused: whether a file may be missing.

    Raises:
        UserError: ``report`` has no readable record.
    """
    have, recorded = digests(report), _read(report).files
    for name in sorted(have.keys() | recorded.keys()):
        if name not in have:
            if not excused(report / name):
                yield f"{name}: missing"
        elif name not in recorded:
            yield f"{name}: no report wrote it"
        elif have[name] != recorded[name]:
            yield f"{name}: changed since it was built"


def _run(name: str, then: RecordedRun | None, now: RecordedRun | None) -> Iterator[str]:
    if then is None or now is None:
        yield f"run {name}: {'not in the report' if then is None else 'no longer among the results'}"
        return
    if then.identities != now.identities:
        yield f"run {name}: the results hold another run than the report was built from"
    for file in sorted(then.files.keys() | now.files.keys()):
        if then.files.get(file) != now.files.get(file):
            yield f"run {name}: {file} is not the file that the report was built from"


def _cells(name: str, report: Path, fresh: Path) -> Iterator[str]:
    """Cells that differ, in tables of any format; nothing for other files."""
    parse = {".csv": _csv, ".md": _markdown, ".tex": _latex, ".html": _html}.get(report.suffix)
    if parse is None:
        return
    old, new = (parse(path.read_text(encoding="utf-8", errors="replace")) for path in (report, fresh))
    for table in sorted(old.keys() | new.keys()):
        where = f"{name}, {table}" if table else name
        have, want = old.get(table, []), new.get(table, [])
        if [len(row) for row in have] != [len(row) for row in want]:
            yield f"{where}: has other rows or columns than the results give"
            continue
        for line, (before, after) in enumerate(zip(have, want, strict=True)):
            for column, (said, true) in enumerate(zip(before, after, strict=True)):
                if said != true:
                    row, heading = want[line][0] if line else "heading", want[0][column] if want[0] else ""
                    yield f"{where}: {row or f'row {line}'}, {heading or f'column {column}'}: says {said!r}, results give {true!r}"


def _csv(text: str) -> dict[str, Grid]:
    return {"": list(csv.reader(io.StringIO(text)))}


def _markdown(text: str) -> dict[str, Grid]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return {"": [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]}


def _latex(text: str) -> dict[str, Grid]:
    lines = [
        line.removesuffix(r"\\") for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line
    ]
    return {"": [[cell.strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines]}


def _html(text: str) -> dict[str, Grid]:
    page = _Page()
    page.feed(text)
    return page.tables


class _Page(HTMLParser):
    """Texts of the cells of all tables of a page, by the id of their figure; the last row of a head is row 0."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, Grid] = {}
        self._table: Grid | None = None
        self._name = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "figure":
            self._name = dict(attrs).get("id") or ""
        elif tag == "table":
            self._table = self.tables.setdefault(self._name, [])
        elif self._table is not None and tag == "tbody":
            del self._table[:-1]
        elif self._table is not None and tag == "tr":
            self._table.append([])
        elif self._table is not None and tag in ("td", "th"):
            self._table[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False
        elif tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        if self._inside and self._table:
            self._table[-1][-1] = " ".join(f"{self._table[-1][-1]} {data}".split())


def _sources(run: Run) -> dict[str, str]:
    """Digests of the files of a run, but for weights, which no report reads."""
    files = (path for path in sorted(run.folder.iterdir()) if path.is_file() and path.suffix != ".safetensors")
    return {path.name: sha256(path) for path in files}


def _read(folder: Path) -> ReportRecord:
    path = folder / RECORD
    try:
        return ReportRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise UserError(f"{path}: missing or damaged, so there is no report to check; run `fdm report` first") from None
