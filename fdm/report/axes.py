"""Logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

WIDE = 20
"""Values whose ratio is beyond this share no linear axis: the small ones would be one mark."""


def log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic vertical axis, if ``values`` on it are far apart and positive."""
    if values and 0 < WIDE * min(values) < max(values):
        axes.set_yscale("log")
        plain_log(axes)


def plain_log(axes: Axes, most: int = 5) -> None:
    """Decimal numbers on a logarithmic axis (matplotlib's own labels need its mathematical text, which is off), about ``most`` of them."""
    low, high = axes.get_ylim()
    if high / low < 6:  # too few round numbers for a logarithmic choice
        axes.yaxis.set_major_locator(MaxNLocator(most))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 30 else (1.0,), numticks=most + 2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
