"""Tables on a terminal."""

from __future__ import annotations

from rich.table import Table

WORDS = frozenset({"experiment", "suite", "stage", "t", "state", "precision", "features of"})
"""Headings of columns that hold no numbers, or ranges and products of them."""


def new_table(title: str, *columns: str) -> Table:
    """An empty table: numbers on the right, ``WORDS`` on the left, where they are not broken."""
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="left" if name in WORDS else "right", no_wrap=name in WORDS)
    return table
