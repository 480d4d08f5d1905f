"""Timing several tasks side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fdm.device import stopwatch


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: ``values`` has every measured one, in the order of the rounds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return float(np.median(self.values))

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third."""
        low, high = np.quantile(self.values, (0.25, 0.75))
        return float(low), float(high)

    @classmethod
    def columns(cls, rounds: Sequence[Sequence[float]]) -> tuple[Timing, ...]:
        """One timing for each column of a table that has a row for each round."""
        return tuple(cls(column) for column in zip(*rounds, strict=True))

    def over(self, other: Timing) -> Timing:
        """How many times as long as ``other`` this took, round by round: what slows a whole round down cancels out."""
        return Timing(tuple(mine / its for mine, its in zip(self.values, other.values, strict=True)))

    def as_dict(self) -> dict[str, float | int]:
        """For JSON."""
        low, high = self.quartiles
        return {"median": self.median, "low": low, "high": high, "rounds": len(self.values)}


def alternate(tasks: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, Timing]:
    """Time every task once a round, in turn, after one round that is not counted.

    Args:
        tasks: by name; each is called without arguments.
        rounds: measured calls of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            began = stopwatch(device)
            task()
            if number:
                seconds[name].append(stopwatch(device) - began)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
