"""Numbers for people: estimates over seeds, and one unit and one number of decimals for a whole column."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Kind = Literal["score", "thousandth", "count", "flops", "seconds", "bytes", "ratio", "rate"]

SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
BINARY = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
TIME = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds; ``half`` is half the width of its 95 % interval: Student's over ``count`` seeds, or over samples of one; or None."""

    mean: float
    half: float | None
    count: int

    @property
    def low(self) -> float:
        """Lower end of the interval (the mean itself with one seed)."""
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + (self.half or 0.0)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % Student-t interval of the mean."""
    count = len(values)
    if count == 1:
        # Not through numpy: a table then repeats the source's number to the last digit, integers included.
        return Estimate(values[0], None, 1)
    if len(set(values)) == 1:
        return Estimate(values[0], 0.0, count)  # numpy would leave a rounding error for the width
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return Estimate(mean, half, count)


def estimate_present(values: Iterable[float | None]) -> Estimate | None:
    """The estimate of the values that are there; None where there are none."""
    present = [value for value in values if value is not None]
    return estimate(present) if present else None


@dataclass(frozen=True)
class Scale:
    """How a column prints: value / divisor with so many decimals; ``unit`` goes into its header."""

    divisor: float
    unit: str
    decimals: int

    def text(self, value: float) -> str:
        """One formatted number, with a true minus sign."""
        return f"{value / self.divisor:,.{self.decimals}f}".replace("-", "−")


def scale(values: Iterable[float], kind: Kind) -> Scale:
    """One scale for a column: the unit fits its largest value, the decimals show three digits of its smallest.

    KID is customarily given in thousandths, but only Inception-v3 features make it that small.
    """
    sizes = [abs(value) for value in values if value]
    largest, smallest = max(sizes, default=1.0), min(sizes, default=1.0)
    if kind == "count":
        divisor, unit = next(((d, u) for d, u in SI if largest >= 10 * d), (1.0, ""))
        if divisor == 1.0:
            whole = all(float(size).is_integer() for size in sizes)
            return Scale(1.0, "", 0 if whole else 1)
    elif kind == "flops":
        divisor, unit = next(((d, u + "FLOP") for d, u in SI if largest >= d), (1.0, "FLOP"))
    elif kind == "seconds":
        divisor, unit = next(((d, u) for d, u in TIME if largest >= d), TIME[-1])
    elif kind == "bytes":
        divisor, unit = next(((d, u) for d, u in BINARY if largest >= d), (1.0, "B"))
    elif kind == "thousandth" and largest < 1:
        divisor, unit = 1e-3, "×10⁻³"
    elif kind == "ratio":
        return Scale(1.0, "×", 2)
    else:
        divisor, unit = 1.0, ""
    decimals = 2 - math.floor(math.log10(smallest / divisor)) if sizes else 2
    return Scale(divisor, unit, min(max(decimals, 0), 3))
