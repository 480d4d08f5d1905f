"""From a cell of a table to everything behind it: values in files, runs, identities, data, code, machine, logs, commands."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fdm.config import nearest
from fdm.data import open_store
from fdm.errors import UserError
from fdm.experiment import suite_file
from fdm.provenance.again import commands, same_now
from fdm.provenance.folder import RunFolder, read_folder, record_name, results_of
from fdm.provenance.pick import pick
from fdm.report.load import load
from fdm.report.numbers import Estimate
from fdm.report.origin import Origin, Source
from fdm.report.plan import read_plan
from fdm.report.results import Method, Results, Run
from fdm.report.sections import build_tables
from fdm.report.table import Cell, Header, Row, Table

CHAIN = ("pretrain", "train", "sample", "evaluate")


@dataclass(frozen=True)
class Value:
    """A number as it stands in a file of a run; ``state`` says whether the file is the one that was made."""

    run: str
    file: str
    key: str
    value: Any
    state: str


@dataclass(frozen=True)
class CellTrace:
    """A printed cell: what it says, with the exact number behind it, how that was made, and of which values."""

    row: str
    column: str
    label: str
    printed: str
    exact: float | str | None
    interval: tuple[float, float] | None
    how: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Step:
    """One step of a run: what it was made by. ``files``: recorded SHA-256 by name; ``log``: None where it is not here."""

    step: str
    identity: str
    source: str | None
    revision: str | None
    python: str | None
    packages: Mapping[str, str]
    device: str | None
    threads: int | None
    seconds: float | None
    files: Mapping[str, str]
    log: str | None


@dataclass(frozen=True)
class RunTrace:
    """A run behind a cell. ``now`` says whether the code that is here makes the same run."""

    run: str
    title: str
    seed: int
    folder: str
    data: Mapping[str, str]
    config: Mapping[str, Any]
    steps: tuple[Step, ...]
    baseline: Mapping[str, str] | None
    same_now: bool
    now: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Trace:
    """Cells of one row (or of several rows of one name), and the runs behind them, each once."""

    suite: str
    table: str
    title: str
    row: str
    cells: tuple[CellTrace, ...]
    runs: tuple[RunTrace, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain content, for JSON."""
        return asdict(self)


def tables_of(suite: str, folder: Path | None = None) -> tuple[Results, dict[str, Table]]:
    """A suite's results and the tables that can be made of them, by name.

    Args:
        suite: its name, or a path to its file.
        folder: of its results; None: ``results/<suite>``, or the published ones where there are no such.

    Raises:
        UserError: no such results, damaged ones, or none of which a table can be made.
    """
    name = suite_file(suite).stem
    folder = folder or results_of(name)
    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.glob("*/")) if folder.parent.is_dir() else []
        raise UserError(f"{folder}: no results here{nearest(name, there)}; there are: {', '.join(there) or 'none'}")
    results = load(name, folder, read_plan(suite), partial=True)
    tables = build_tables(results)
    for error in tables.lacking:
        print(f"left out: {error}", file=sys.stderr)
    return results, tables.found


def find_table(tables: Mapping[str, Table], wanted: str) -> Table:
    """The table of this name or title.

    Raises:
        UserError: there is none, or there are several.
    """
    return pick(wanted, list(tables.values()), lambda table: (table.name, table.title), "table")[0]


def find_rows(table: Table, wanted: str) -> list[Row]:
    """The rows of an experiment (or claim, or autoencoder) of this name or title; ``NAME/seed<k>`` in the table of runs."""
    if "/seed" in wanted:
        name, _, seed = wanted.rpartition("/seed")
        found = [row for row in find_rows(table, name) if str(row.seed) == seed]
        if found:
            return found
    return pick(wanted, list(table.rows), lambda row: (row.name, row.title), "row")


def find_column(table: Table, wanted: str) -> int:
    """Position of the column of this key or heading."""

    def names(place: int) -> list[str]:
        header = table.headers[place]
        return [header.key, header.label, f"{header.label}, {header.group}", header.key.rsplit("/", 1)[-1]]

    return pick(wanted, range(len(table.headers)), names, "column")[0]


def trace(results: Results, table: Table, rows: Sequence[Row], column: int | None) -> Trace:
    """Everything behind the cells of ``rows`` in one column, or in all (None).

    Raises:
        UserError: these cells hold nothing that was read from a run.
    """
    methods = {method.name: method for method in results.methods}
    cells: list[CellTrace] = []
    behind: dict[str, tuple[Method, Run]] = {}
    steps: dict[str, set[str]] = {}
    for row in rows:
        for place, (header, cell) in enumerate(zip(table.headers, row.cells, strict=True)):
            if cell.origin is None or column not in (None, place):
                continue
            runs = _runs(row, cell.origin, methods)
            for method, run in runs:
                behind[_name(run)] = (method, run)
                steps.setdefault(_name(run), set()).update(source.file for source in cell.origin.sources)
            cells.append(_cell(row, header, cell, cell.origin, [run for _, run in runs]))
    if not cells:
        where = f"column {table.headers[column].key}" if column is not None else "the row"
        raise UserError(f"table {table.name}, row {rows[0].name}: {where} holds nothing that was read from a run")
    traced = tuple(_run(results.suite, *behind[name], steps[name]) for name in behind)
    return Trace(results.suite, table.name, table.title, rows[0].title, tuple(cells), traced)


def _runs(row: Row, origin: Origin, methods: Mapping[str, Method]) -> list[tuple[Method, Run]]:
    """Runs behind a cell. Experiments with the same autoencoder have the same file of it: then the first of them stands for all."""
    names = dict.fromkeys([*row.experiments, *([origin.against] if origin.against else [])])
    found: list[tuple[Method, Run]] = []
    seen: set[str] = set()
    for method in (methods[name] for name in names):
        for run in method.runs:
            if row.seed not in (None, run.seed):
                continue
            if all(source.file == record_name("pretrain") for source in origin.sources):
                own = run.manifest.identities.get("pretrain", "")
                if own in seen:
                    continue
                seen.add(own)
            found.append((method, run))
    return found


def _cell(row: Row, header: Header, cell: Cell, origin: Origin, runs: Iterable[Run]) -> CellTrace:
    raw = cell.raw
    number = isinstance(raw, Estimate)
    interval = (raw.low, raw.high) if isinstance(raw, Estimate) and raw.half is not None else None
    unit = f" {header.unit}" if header.unit else ""
    label = ", ".join(filter(None, (header.label, header.group)))
    printed = f"{cell.text}{f' {cell.spread}' if cell.spread else ''}{unit if number else ''}"
    values = tuple(_value(read_folder(run.folder), run, source) for run in runs for source in origin.sources)
    name = f"{row.name}/seed{row.seed}" if row.seed is not None else row.name
    exact = raw.mean if isinstance(raw, Estimate) else raw
    return CellTrace(name, header.key, label, printed, exact, interval, origin.how, values)


def _value(folder: RunFolder, run: Run, source: Source) -> Value:
    """Read from the file anew, not taken from what the table was made of."""
    path = run.folder / source.file
    value: Any = None
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                value = f"{arrays[source.path[0]].size:,} values"
        elif path.is_file():
            value = source.read(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); `fdm check` says what else is damaged") from None
    return Value(_name(run), str(path), ".".join(source.path), value, folder.state(source.file))


def _run(suite: str, method: Method, run: Run, files: set[str]) -> RunTrace:
    folder = read_folder(run.folder)
    # Not the checked model: it may have gained fields, and the identities cover what was written.
    manifest = json.loads((run.folder / "manifest.json").read_text(encoding="utf-8"))
    records = dict(manifest["records"])
    extra = [step for step in ("restore", "vary", "interpolate") if record_name(step) in files]
    records |= {step: folder.records[record_name(step)] for step in extra if record_name(step) in folder.records}
    logs = Path("logs") / suite / method.name / run.folder.name
    same, now = same_now(manifest, str(run.folder / "manifest.json"))
    steps = [_step(step, records[step], manifest, logs) for step in (*CHAIN, *extra) if step in records]
    return RunTrace(
        _name(run),
        method.title,
        run.seed,
        str(run.folder),
        _data(manifest),
        manifest["experiment"],
        tuple(steps),
        records.get("restore", {}).get("baseline"),
        same,
        now,
        tuple(commands(suite, method.name, manifest)),
    )


def _step(step: str, record: Mapping[str, Any], manifest: Mapping[str, Any], logs: Path) -> Step:
    made = record.get("provenance") or {}
    log = logs / f"{step}.log"
    return Step(
        step,
        record["identity"],
        manifest.get("sources", {}).get(step),
        made.get("revision"),
        made.get("python"),
        made.get("packages") or {},
        record.get("device"),
        record.get("threads"),
        record.get("seconds"),
        record.get("files") or {},
        str(log) if log.is_file() else None,
    )


def _data(manifest: Mapping[str, Any]) -> dict[str, str]:
    data = manifest["data"]
    name, digest = str(data.get("name")), str(data.get("digest"))
    here = Path("data") / name
    if not here.is_dir():
        state = f"not here (fdm data {name}, or dvc pull from a remote)"
    else:
        try:
            state = "the same here" if open_store(here).digest == digest else f"{here} holds other data"
        except UserError as error:
            state = str(error)
    return {"name": name, "digest": digest, "here": state}


def _name(run: Run) -> str:
    return f"{run.folder.parent.name}/{run.folder.name}"
