"""A table as CSV (exact numbers), Markdown and LaTeX (as printed)."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from tabulate import tabulate

from fdm.report.numbers import Estimate
from fdm.report.table import Cell, Header, Table

# Characters that plain LaTeX has no glyph for, after tabulate's own escaping.
TEX = {
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "→": r"$\to$",
    "⁻": "",
    "³": "",
    "–": "--",
    "·": r"$\cdot$",
    "µ": r"$\mu$",
}


def write_table(table: Table, folder: Path) -> None:
    """Write ``<name>.csv``, ``.md`` and ``.tex`` into ``folder``."""
    for suffix, text in (("csv", as_csv(table)), ("md", as_markdown(table)), ("tex", as_latex(table))):
        (folder / f"{table.name}.{suffix}").write_text(text, encoding="utf-8", newline="\n")


def as_csv(table: Table) -> str:
    """Full precision, base units; ``<key>_low`` and ``<key>_high`` where seeds give an interval."""
    spread = [
        any(isinstance(row.cells[j].raw, Estimate) and row.cells[j].raw.half is not None for row in table.rows)  # type: ignore[union-attr]
        for j in range(len(table.headers))
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["experiment", "title"] + ([] if table.name == "runs" else ["seeds"])
    for header, wide in zip(table.headers, spread, strict=True):
        names += [header.key, f"{header.key}_low", f"{header.key}_high"] if wide else [header.key]
    writer.writerow(names)
    for row in table.rows:
        line: list[object] = [row.name, row.title] + ([] if table.name == "runs" else [row.seeds])
        for cell, wide in zip(row.cells, spread, strict=True):
            line += _values(cell, wide)
        writer.writerow(line)
    return out.getvalue()


def as_markdown(table: Table) -> str:
    """GitHub's tables, with the caption below."""
    rows = [
        [_md(row.title), *(_md(_printed(cell, "\ue000", "\ue000")).replace("\ue000", "**") for cell in row.cells)]
        for row in table.rows
    ]
    headers = [table.first, *(_md(_heading(table, header)) for header in table.headers)]
    body = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=_align(table))
    return f"{body}\n\n{_md(table.caption)}\n"


def as_latex(table: Table) -> str:
    """A booktabs tabular; ``\\usepackage{booktabs}`` is all it needs."""
    # Bold goes in after the text has been escaped, so it travels as private characters.
    rows = [[row.title, *(_printed(cell, "\ue000", "\ue001") for cell in row.cells)] for row in table.rows]
    headers = [table.first, *(_heading(table, header) for header in table.headers)]
    body = tabulate(rows, headers, tablefmt="latex_booktabs", disable_numparse=True, colalign=_align(table))
    body = body.replace("×10⁻³", "$\\times 10^{-3}$").replace("\ue000", "\\textbf{").replace("\ue001", "}")
    for character, command in TEX.items():
        body = body.replace(character, command)
    caption = " ".join(table.caption.split())
    return f"% {caption}\n{body}\n"


def _align(table: Table) -> list[str]:
    return ["left", *("right" if header.numeric else "left" for header in table.headers)]


def _heading(table: Table, header: Header) -> str:
    """A header with its group where it would be ambiguous: equal labels, or a score without its feature network."""
    twins = sum(other.label == header.label for other in table.headers) > 1
    score = header.group.endswith(" features") and header.group.removesuffix(" features") not in header.label
    label = f"{header.label}, {header.group}" if header.group and (twins or score) else header.label
    return f"{label} ({header.unit})" if header.unit else label


def _printed(cell: Cell, before: str, after: str) -> str:
    text = f"{cell.text} {cell.spread}".strip()
    return f"{before}{text}{after}" if cell.best else text


def _values(cell: Cell, wide: bool) -> list[object]:
    raw = cell.raw
    if not isinstance(raw, Estimate):
        return [raw if raw is not None else "", *([""] * 2 if wide else [])]
    ends: list[object] = ["", ""] if raw.half is None else [raw.low, raw.high]
    return [raw.mean, *(ends if wide else [])]


def _md(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = re.sub(r"([\\|`_*\[\]])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return " ".join(text.split())
