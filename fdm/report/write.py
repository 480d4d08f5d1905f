"""A table as CSV (exact numbers), Markdown and LaTeX (as printed)."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from fdm.report.numbers import Estimate
from fdm.report.table import Cell, Header, Table

GREEK = (
    "αalpha βbeta γgamma δdelta εvarepsilon ζzeta ηeta θtheta κkappa λlambda μmu νnu ξxi πpi ρrho σsigma τtau φvarphi "
    "χchi ψpsi ωomega ΓGamma ΔDelta ΘTheta ΛLambda ΣSigma ΦPhi ΨPsi ΩOmega"
)
"""Letters, each followed by its name in LaTeX."""

# What LaTeX gives a meaning, and characters that it has no glyph for in text.
TEX = {
    "\\": r"\textbackslash{}",
    **{special: f"\\{special}" for special in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    '"': "''",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "×": r"$\times$",
    "−": "$-$",
    "→": r"$\to$",
    "–": "--",
    "…": r"\dots{}",
    "·": r"$\cdot$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "∞": r"$\infty$",
    "²": "$^2$",
    "³": "$^3$",
    "⁻": "$^-$",
    "µ": r"$\mu$",
    **{pair[0]: rf"$\{pair[1:]}$" for pair in GREEK.split()},
}


def write_table(table: Table, folder: Path) -> None:
    """Write ``<name>.csv``, ``.md`` and ``.tex`` into ``folder``."""
    for suffix, text in (("csv", as_csv(table)), ("md", as_markdown(table)), ("tex", as_latex(table))):
        (folder / f"{table.name}.{suffix}").write_text(text, encoding="utf-8", newline="\n")


def as_csv(table: Table) -> str:
    """Full precision, base units; ``<key>_low`` and ``<key>_high`` where there is an interval."""
    table = table.columns("csv")
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
    table = table.columns("print")
    rows = [
        [_md(row.title), *(_md(_printed(cell, "\ue000", "\ue000")).replace("\ue000", "**") for cell in row.cells)]
        for row in table.rows
    ]
    headers = [table.subject, *(_md(heading(table, header)) for header in table.headers)]
    body = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=_align(table))
    return f"{body}\n\n{_md(table.caption)}\n"


def as_latex(table: Table) -> str:
    """A booktabs tabular for ``\\input``; ``\\usepackage{booktabs}`` is all it needs. Groups stand above their columns."""
    table = table.columns("print")
    lines = [f"% {' '.join(table.caption.split())}", rf"\begin{{tabular}}{{{_columns(table)}}}", r"\toprule"]
    if any(header.group for header in table.headers):
        lines += _groups(table)
    labels = [f"{header.label} ({header.unit})" if header.unit else header.label for header in table.headers]
    lines += [_row([table.subject, *labels]), r"\midrule"]
    # Bold goes in after the text has been escaped, so it travels as private characters.
    rows = (_row([row.title, *(_printed(cell, "\ue000", "\ue001") for cell in row.cells)]) for row in table.rows)
    lines += [row.replace("\ue000", r"\textbf{").replace("\ue001", "}") for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _columns(table: Table) -> str:
    return "l" + "".join("r" if header.numeric else "l" for header in table.headers)


def _groups(table: Table) -> list[str]:
    """The row of group names, and the rules below them."""
    names, rules, first = [""], [], 2
    for name, headers in itertools.groupby(table.headers, key=lambda header: header.group):
        count = len(list(headers))
        names.append(rf"\multicolumn{{{count}}}{{c}}{{{_tex(name[:1].upper() + name[1:])}}}")
        if name:
            rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    return [" & ".join(names) + r" \\", " ".join(rules)]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(_tex(cell) for cell in cells) + r" \\"


def _tex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    text = "".join(TEX.get(character, character) for character in " ".join(text.split()))
    return text.replace(r"$\times$10$^-$$^3$", r"$\times 10^{-3}$")


def _align(table: Table) -> list[str]:
    return ["left", *("right" if header.numeric else "left" for header in table.headers)]


def heading(table: Table, header: Header) -> str:
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
