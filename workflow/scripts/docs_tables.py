"""Tables of published results inside README.md and docs/: written here, so that no number in them is typed by hand.

A table stands between two comments, the first of which says what it shows: suite, table of its report, columns by their keys in the
CSV (and `seeds`), and the experiments if not all of them.

    <!-- published cifar10-cpu main: seeds inception-v3/fid flops_per_sample · ddpm fdm-ds-3 -->
    ...
    <!-- /published -->

`make tables` writes them all anew, in the root of the repository.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

from fdm.provenance.folder import PUBLISHED
from fdm.report.load import load
from fdm.report.plan import read_plan
from fdm.report.sections import build_tables
from fdm.report.table import Cell, Header, Row, Table
from fdm.report.write import as_markdown, heading

PLACE = re.compile(
    r"(<!-- published (\S+) (\S+): ([^·>]+?)(?: · ([^>]+?))? -->\n)(.*?)(<!-- /published -->)", re.DOTALL
)


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [Path("README.md"), *sorted(Path("docs").glob("*.md"))]


def renewed(text: str) -> str:
    """A page with its tables as the published results give them.

    Raises:
        KeyError: there is no such table, column or experiment.
    """

    def write(place: re.Match[str]) -> str:
        start, suite, name, columns, rows, _, end = place.groups()
        table = chosen(_tables(suite)[name], columns.split(), rows.split() if rows else None)
        lines = as_markdown(table).partition("\n\n")[0]
        # Without padding a row changes only where its own numbers do.
        return f"{start}\n{re.sub('-{3,}', '---', re.sub(' +', ' ', lines))}\n\n{end}"

    return PLACE.sub(write, text)


def chosen(table: Table, columns: list[str], experiments: list[str] | None) -> Table:
    """Some columns and rows of a table, in the order in which they are named."""
    places = {header.key: place for place, header in enumerate(table.headers)}
    rows = {row.name: row for row in table.rows}

    def cell(row: Row, key: str) -> Cell:
        return Cell(str(row.seeds)) if key == "seeds" else row.cells[places[key]]

    headers = [
        Header("seeds", "Seeds") if key == "seeds" else _named(table, table.headers[places[key]]) for key in columns
    ]
    kept = [rows[name] for name in experiments] if experiments else table.rows
    return replace(
        table,
        headers=tuple(headers),
        rows=tuple(replace(row, cells=tuple(cell(row, key) for key in columns)) for row in kept),
    )


def _named(table: Table, header: Header) -> Header:
    """A header that says alone what it says in its table."""
    return replace(header, label=heading(table, header), unit="", group="")


@cache
def _tables(suite: str) -> dict[str, Table]:
    return build_tables(load(suite, PUBLISHED / "results" / suite, read_plan(suite), partial=True)).found


if __name__ == "__main__":
    for page in pages():
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
