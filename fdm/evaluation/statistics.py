"""Mean and covariance of features, accumulated in float64 and merged from parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float, Float64

BLOCK = 1000


@dataclass(frozen=True)
class Statistics:
    """What a Fréchet distance needs of N features of dimension D.

    Attributes:
        count: N, at least 1.
        mean: (D,).
        scatter: sum of (x - mean)(x - mean)^T over the features, (D, D). Sums of x x^T would lose the covariance to
            cancellation where the mean is large.
    """

    count: int
    mean: Float64[np.ndarray, " d"]
    scatter: Float64[np.ndarray, "d d"]

    @property
    def covariance(self) -> Float64[np.ndarray, "d d"]:
        """Unbiased, divisor N - 1; N must be 2 at least."""
        return self.scatter / (self.count - 1)

    def __add__(self, other: Statistics) -> Statistics:
        """Statistics of both together; exact but for rounding. [Chan, Golub & LeVeque 1983]"""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = np.outer(apart, apart) * (self.count * other.count / count)
        return Statistics(count, mean, self.scatter + other.scatter + between)


def statistics_of(features: Float[np.ndarray, "n d"]) -> Statistics:
    """Statistics of one or more features; block by block, so that no float64 copy of all of them is made."""
    return reduce(
        Statistics.__add__, (_block(features[start : start + BLOCK]) for start in range(0, len(features), BLOCK))
    )


def _block(features: Float[np.ndarray, "n d"]) -> Statistics:
    wide = features.astype(np.float64)
    mean = wide.mean(axis=0)
    wide -= mean
    return Statistics(len(wide), mean, wide.T @ wide)
