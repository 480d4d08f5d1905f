"""Names of the marks of a scatter plot, beside them, so that they cover neither marks nor each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from fdm.report.numbers import Estimate
from fdm.report.style import INK, MUTED, belongs

SIZE, LETTER = 7.5, 4.0  # font size and a letter's mean width in points, on the wide side: pages use other fonts
LONGEST = 48
NEAR = 10.0  # points above or below a mark
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """A point with its intervals and its name, in the colour of the name."""

    method: str
    title: str
    x: Estimate
    y: Estimate
    colour: str = INK


def label_marks(
    axes: Axes, named: Sequence[Mark], others: Sequence[Mark] = (), line: Sequence[tuple[float, float]] = ()
) -> None:
    """Write each name at the first free place around its mark: beside it, then ever further above and below.

    Args:
        others: marks to keep clear of, whose own names are written only where there is room right beside them.
        line: corners of a line of horizontal and vertical parts to keep clear of.
    """
    marks = [*named, *others]
    points = [_at(axes, mark.x.mean, mark.y.mean) for mark in marks]
    (left, bottom), (right, _) = (axes.transAxes.transform(corner) * 72 / _dpi(axes) for corner in ((0, 0), (1, 1)))
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    for mark in marks:
        taken.append(_box(axes, (mark.x.mean, mark.y.low), (mark.x.mean, mark.y.high)))
        taken.append(_box(axes, (mark.x.low, mark.y.mean), (mark.x.high, mark.y.mean)))
    taken += [_box(axes, *part) for part in itertools.pairwise(line)]
    offsets = [
        (across, up, align)
        for distance in range(14)
        for up in ((9.0 * distance, -9.0 * distance) if distance else (0.0,))
        for across, align in ((8.0, "left"), (-8.0, "right"), (0.0, "center"))
        if up or across
    ]
    for i, (mark, (x, y)) in enumerate(zip(marks, points, strict=True)):
        text = mark.title if len(mark.title) <= LONGEST else mark.title[: LONGEST - 1] + "…"
        width = LETTER * len(text)
        shifts = {"left": 0.0, "center": width / 2, "right": width}
        boxes = []
        for across, up, align in offsets:
            start = x + across - shifts[align]
            boxes.append((start - 2, y + up - SIZE / 2 - 1, start + width + 2, y + up + SIZE / 2 + 1))
        free = (
            j
            for j, box in enumerate(boxes)
            if left <= box[0] and box[2] <= right and bottom <= box[1] and not any(_meet(box, other) for other in taken)
        )
        place = next(free, None)
        if i >= len(named) and (place is None or abs(offsets[place][1]) > NEAR):
            continue
        place = place or 0
        across, up, align = offsets[place]
        taken.append(boxes[place])
        far = (
            {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4}
            if abs(up) > NEAR
            else None
        )
        name = axes.annotate(
            text,
            (mark.x.mean, mark.y.mean),
            (across, up),
            textcoords="offset points",
            ha=align,
            va="center",
            fontsize=SIZE,
            color=mark.colour,
            annotation_clip=False,
            arrowprops=far,
        )
        belongs(mark.method, name, *([name.arrow_patch] if name.arrow_patch else []))


def _dpi(axes: Axes) -> float:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure.dpi


def _at(axes: Axes, x: float, y: float) -> tuple[float, float]:
    place = axes.transData.transform((x, y)) * 72 / _dpi(axes)
    return float(place[0]), float(place[1])


def _box(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> Box:
    (x0, y0), (x1, y1) = _at(axes, *start), _at(axes, *end)
    return min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
