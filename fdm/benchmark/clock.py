"""Timing several tasks side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fdm.device import stopwatch

ENOUGH = 0.02
"""Seconds that a GPU computes between two synchronisations, at least about."""


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


def seconds_of(task: Callable[[], object], device: torch.device) -> float:
    """Of one call. On a GPU, where starting a short call and awaiting its end takes as long, of as many as take about ``ENOUGH``: their mean."""
    began = stopwatch(device)
    task()
    once = stopwatch(device) - began
    if device.type != "cuda" or once >= ENOUGH:
        return once
    calls = math.ceil(ENOUGH / once)
    began = stopwatch(device)
    for _ in range(calls):
        task()
    return (stopwatch(device) - began) / calls


def unsplit(row: Sequence[float], task: Callable[[], object], device: torch.device) -> tuple[float, ...]:
    """A total and its parts, measured by waiting for the device after each part, as they are without.

    On a GPU this waiting makes the whole longer. There the total is that of ``task``, which does the same without it, and the
    parts keep their shares of it.
    """
    if device.type != "cuda":
        return tuple(row)
    whole = seconds_of(task, device)
    return tuple(seconds * whole / row[0] for seconds in row)


def alternate(tasks: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, Timing]:
    """Time every task once a round (``seconds_of``), in turn, after one round that is not counted.

    Args:
        tasks: by name; each is called without arguments.
        rounds: measurements of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            took = seconds_of(task, device)
            if number:
                seconds[name].append(took)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
