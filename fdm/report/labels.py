"""Names of the marks of a scatter plot: beside them, so that they cover neither marks nor each other, or in a legend below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fdm.report.numbers import Estimate
from fdm.report.results import Method
from fdm.report.style import MUTED, Look, belongs

SIZE, LETTER = 7.5, 4.0  # font size and a letter's mean width in points, on the wide side: pages use other fonts
LONGEST = 48
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """A point with its intervals and its name."""

    method: str
    title: str
    x: Estimate
    y: Estimate


def label_marks(axes: Axes, marks: list[Mark]) -> None:
    """Write each name at the first free place around its mark: beside it, then ever further above and below."""
    points = [_at(axes, mark.x.mean, mark.y.mean) for mark in marks]
    (left, bottom), (right, _) = (axes.transAxes.transform(corner) * 72 / _dpi(axes) for corner in ((0, 0), (1, 1)))
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    for mark in marks:
        taken.append(_box(axes, (mark.x.mean, mark.y.low), (mark.x.mean, mark.y.high)))
        taken.append(_box(axes, (mark.x.low, mark.y.mean), (mark.x.high, mark.y.mean)))
    offsets = [
        (across, up, align)
        for distance in range(14)
        for up in ((9.0 * distance, -9.0 * distance) if distance else (0.0,))
        for across, align in ((8.0, "left"), (-8.0, "right"), (0.0, "center"))
        if up or across
    ]
    for mark, (x, y) in zip(marks, points, strict=True):
        text = mark.title if len(mark.title) <= LONGEST else mark.title[: LONGEST - 1] + "…"
        width = LETTER * len(text)
        shifts = {"left": 0.0, "center": width / 2, "right": width}
        boxes = []
        for across, up, align in offsets:
            start = x + across - shifts[align]
            boxes.append((start, y + up - SIZE / 2 - 1, start + width, y + up + SIZE / 2 + 1))
        free = (
            i
            for i, box in enumerate(boxes)
            if left <= box[0] and box[2] <= right and bottom <= box[1] and not any(_meet(box, other) for other in taken)
        )
        place = next(free, 0)
        across, up, align = offsets[place]
        taken.append(boxes[place])
        far = (
            {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4} if abs(up) > 10 else None
        )
        name = axes.annotate(
            text,
            (mark.x.mean, mark.y.mean),
            (across, up),
            textcoords="offset points",
            ha=align,
            va="center",
            fontsize=SIZE,
            annotation_clip=False,
            arrowprops=far,
        )
        belongs(mark.method, name, *([name.arrow_patch] if name.arrow_patch else []))


def legend_rows(count: int) -> int:
    """Lines of a legend of ``count`` names; each needs 0.22 inches."""
    return -(-count // 3)


def legend_below(figure: Figure, methods: Sequence[Method], looks: Mapping[str, Look], lines: bool = False) -> None:
    """Names of marks, or of lines, below all panels, in as many lines as :func:`legend_rows` says."""
    handles = [
        Line2D([], [], color=look.light, linestyle=look.dash, linewidth=1.8, label=method.title)
        if lines
        else Line2D([], [], color=look.light, linestyle="none", marker=look.marker, label=method.title)
        for method in methods
        for look in [looks[method.name]]
    ]
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        ncols=min(3, len(handles)),
        fontsize=SIZE,
        handlelength=2.6 if lines else 1.0,
        handletextpad=0.6,
    )
    for method, *parts in zip(methods, legend.legend_handles, legend.get_texts(), strict=True):
        belongs(method.name, *(part for part in parts if part is not None))


def _dpi(axes: Axes) -> float:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure.dpi


def _at(axes: Axes, x: float, y: float) -> tuple[float, float]:
    place = axes.transData.transform((x, y)) * 72 / _dpi(axes)
    return float(place[0]), float(place[1])


def _box(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> Box:
    (x0, y0), (x1, y1) = _at(axes, *start), _at(axes, *end)
    return x0 - 1, y0 - 1, x1 + 1, y1 + 1


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
