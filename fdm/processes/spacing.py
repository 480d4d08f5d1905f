"""Where the evaluations of a sampler lie in time."""

from __future__ import annotations

import math
from collections.abc import Callable

from fdm.config import Spacing

Span = tuple[float, float]

_AXES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "cosine": (lambda t: math.acos(1 - 2 * t) / math.pi, lambda u: (1 - math.cos(math.pi * u)) / 2),
    "quadratic": (math.sqrt, lambda u: u * u),
    "cubic": (lambda t: t ** (1 / 3), lambda u: u**3),
}
"""Time to position and back, both from 0 to 1."""


def position(t: float, spacing: Spacing, span: Span) -> float:
    """Where t lies on the axis on which steps are even; it runs from the start to the end of ``span``, as t does."""
    if spacing == "uniform":
        return t
    low, high = span
    return low + (high - low) * _AXES[spacing][0](min(max((t - low) / (high - low), 0.0), 1.0))


def times(end: float, start: float, count: int, spacing: Spacing, span: Span) -> list[float]:
    """``count`` steps from ``end`` down to ``start``: count + 1 times."""
    if spacing == "uniform":
        return [end, *(end + (start - end) * n / count for n in range(1, count)), start]
    low, high = span
    late, early = position(end, spacing, span), position(start, spacing, span)
    places = (late + (early - late) * n / count for n in range(1, count))
    return [end, *(low + (high - low) * _AXES[spacing][1]((u - low) / (high - low)) for u in places), start]
