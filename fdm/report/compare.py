"""What changed between two folders of results: the numbers that differ, and the settings that do."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

from fdm.report.load import load
from fdm.report.numbers import Estimate, Scale, estimate_present, scale
from fdm.report.origin import Source
from fdm.report.plan import Plan
from fdm.report.results import Method, Results, settings_of
from fdm.report.settings import flatten
from fdm.report.table import DASH, Cell, Header, Row, Table, printed
from fdm.report.tables import RUN_COSTS, SAMPLE_COSTS, Column, score_columns


def compare(before: Path, after: Path) -> tuple[Table, Table]:
    """Numbers and settings that differ between two folders ``results/<suite>``.

    Raises:
        UserError: one of them holds no results, or damaged ones.
    """
    old, new = (load(folder.name, folder, Plan()) for folder in (before, after))
    return _numbers(old, new, before, after), _settings(old, new, before, after)


def difference(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """Difference of two means with Welch's 95 % interval; without one where a side has a single value."""
    mean, count = float(np.mean(after)) - float(np.mean(before)), min(len(before), len(after))
    if count < 2:
        return Estimate(mean, None, count)
    if len(set(before)) == len(set(after)) == 1:
        return Estimate(mean, 0.0, count)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of a side whose values are all equal
        ends = stats.ttest_ind(after, before, equal_var=False).confidence_interval()
    return Estimate(mean, float(ends.high - ends.low) / 2, count)


def _columns(old: Results, new: Results) -> list[Column]:
    scores = {column.key: column for column in [*score_columns(old), *score_columns(new)]}
    columns = [
        *scores.values(),
        Column("parameters", "Parameters", "count", Source("cost.json", "parameters")),
        Column(
            "evaluations_per_sample", "Evaluations per sample", "count", Source("cost.json", "evaluations_per_sample")
        ),
        *SAMPLE_COSTS,
        *RUN_COSTS,
    ]
    both = replace(new, methods=(*old.methods, *new.methods))
    return [column for column in columns if both.compares(column.value)]


def _numbers(old: Results, new: Results, before: Path, after: Path) -> Table:
    rows, same = [], 0
    sides = [{method.name: method for method in results.methods} for results in (old, new)]
    columns = _columns(old, new)
    for name in dict.fromkeys([*sides[1], *sides[0]]):
        pair = [side.get(name) for side in sides]
        method = pair[1] or pair[0]
        assert method is not None
        for column in columns:
            values = [_values(side, column) for side in pair]
            if values[0] == values[1]:
                same += bool(values[0])
                continue
            how = scale([abs(value) for side in values for value in side], column.kind)
            cells = [
                Cell(_heading(column, how), column.key),
                *(printed(estimate_present(side), how) for side in values),
            ]
            cells += _change(values, how)
            rows.append(Row(name, method.title, len(values[1]) or len(values[0]), tuple(cells)))
    headers = (
        Header("quantity", "Quantity", numeric=False),
        Header("before", "Before"),
        Header("after", "After"),
        Header("difference", "Difference"),
        Header("ratio", "After / before"),
    )
    caption = (
        f"Before: {before}, after: {after}. Only numbers that differ; {same} are the same. Means over seeds with 95 % "
        "t-intervals and Welch's interval of the difference, where there are at least two seeds; without one, nothing "
        "says whether a difference is more than chance. In bold: the interval of the difference leaves out zero. Times are "
        "compared where all runs of both have the same device."
    )
    return Table("changes", "Numbers that changed", caption, headers, tuple(rows))


def _values(method: Method | None, column: Column) -> list[float]:
    found = [column.value(run) for run in method.runs] if method else []
    return [value for value in found if value is not None]


def _heading(column: Column, how: Scale) -> str:
    group = "" if not column.group or column.group.removesuffix(" features") in column.label else f", {column.group}"
    return f"{column.label}{group}{f' ({how.unit})' if how.unit else ''}"


def _change(values: Sequence[Sequence[float]], how: Scale) -> list[Cell]:
    if not all(values):
        return [Cell(DASH), Cell(DASH)]
    known = difference(*values)
    clear = known.half is not None and (known.low > 0 or known.high < 0)
    cell = printed(known, how, best=clear)
    base = float(np.mean(values[0]))
    ratio = Estimate(float(np.mean(values[1])) / base, None, 1) if base else None
    return [replace(cell, text="+" + cell.text) if known.mean > 0 else cell, printed(ratio, Scale(1.0, "", 3))]


def _settings(old: Results, new: Results, before: Path, after: Path) -> Table:
    sides = [{m.name: flatten(settings_of(m.config)) for m in results.methods} for results in (old, new)]
    titles = {method.name: method.title for results in (old, new) for method in results.methods}
    rows = []
    for name in titles:
        if any(name not in side for side in sides):
            present = [Cell("present" if name in side else DASH) for side in sides]
            rows.append(Row(name, titles[name], 1, (Cell("the experiment"), *present)))
            continue
        own = [side[name] for side in sides]
        for key in dict.fromkeys([*own[0], *own[1]]):
            if own[0].get(key) != own[1].get(key):
                cells = [Cell(values.get(key, DASH), values.get(key)) for values in own]
                rows.append(Row(name, titles[name], 1, (Cell(key, key), *cells)))
    headers = (
        Header("setting", "Setting", numeric=False),
        Header("before", "Before", numeric=False),
        Header("after", "After", numeric=False),
    )
    caption = f"Before: {before}, after: {after}. Resolved settings that differ."
    return Table("changed-settings", "Settings that changed", caption, headers, tuple(rows))
