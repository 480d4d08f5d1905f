"""What a table is, apart from how it is written to a file or the page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fdm.report.numbers import Estimate, Scale
from fdm.report.origin import Origin

DASH = "–"
"""Stands where there is no value."""
SAMPLES_ONLY = "†"
"""Marks an interval over the samples of one run, which leaves out what another training would change."""


@dataclass(frozen=True)
class Cell:
    """A printed value; ``raw`` is None where there is none, ``best`` marks a difference that seeds support.

    ``origin`` says where it comes from; None for what is not read from a file of a run.
    """

    text: str
    raw: Estimate | str | None = None
    spread: str = ""
    best: bool = False
    origin: Origin | None = None


def printed(value: Estimate | None, how: Scale, origin: Origin | None = None, best: bool = False) -> Cell:
    """The cell of an estimate: its mean, and ± half its interval, which is never printed as zero where it is not; a dash of None."""
    if value is None:
        return Cell(DASH)
    spread = how.text(value.half) if value.half else ""
    if spread and not spread.strip("0."):
        spread = "<" + how.text(how.divisor * 10.0**-how.decimals)
    mark = f" {SAMPLES_ONLY}" if value.count == 1 else ""
    return Cell(how.text(value.mean), value, f"± {spread}{mark}" if spread else "", best, origin)


@dataclass(frozen=True)
class Header:
    """A column's heading as it is printed; ``only`` keeps a column out of the CSV, or out of all but the CSV."""

    key: str
    label: str
    unit: str = ""
    group: str = ""
    numeric: bool = True
    only: Literal["", "print", "csv"] = ""


@dataclass(frozen=True)
class Row:
    """Mostly one method: then ``name`` is its experiment.

    ``of`` names the experiments behind a row that is not one method (or is several), so that the method filter reaches it;
    ``anchor`` is the place on the page that its numbers link to where that is not the manifests of ``name``; ``seed`` is that of the
    one run that it stands for, if it does not stand for all seeds.
    """

    name: str
    title: str
    seeds: int
    cells: tuple[Cell, ...]
    of: tuple[str, ...] = ()
    anchor: str = ""
    seed: int | None = None

    @property
    def experiments(self) -> tuple[str, ...]:
        """Names of the experiments behind the row."""
        return self.of or (self.name,)


@dataclass(frozen=True)
class Table:
    """A finished table; ``subject`` heads the column of its rows' titles."""

    name: str
    title: str
    caption: str
    headers: tuple[Header, ...]
    rows: tuple[Row, ...]
    subject: str = "Method"

    def columns(self, medium: Literal["print", "csv"]) -> Table:
        """The columns that stand in the CSV, or in print: on the page, in Markdown and in LaTeX."""
        kept = [j for j, header in enumerate(self.headers) if header.only in ("", medium)]
        rows = tuple(replace(row, cells=tuple(row.cells[j] for j in kept)) for row in self.rows)
        return replace(self, headers=tuple(self.headers[j] for j in kept), rows=rows)
