"""Which class each sample of a class-conditional model has: a function of its index, so no batch or shard changes it."""

from __future__ import annotations

from collections.abc import Sequence

from fdm.config import SamplingConfig


def class_cycle(config: SamplingConfig, classes: int) -> tuple[int, ...]:
    """Classes that samples take in turn: those that are configured, or all of ``classes``.

    Empty where the network knows none (``classes`` is 0), or is told none (guidance is 0).
    """
    return () if config.guidance == 0 else config.classes or tuple(range(classes))


def classes_of(cycle: Sequence[int], samples: Sequence[int]) -> list[int]:
    """Class of each sample, by its global index."""
    return [cycle[index % len(cycle)] for index in samples]


def class_rows(cycle: Sequence[int], count: int, columns: int = 8, rows: int = 16) -> dict[int, list[int]]:
    """Indices below ``count`` of the first ``columns`` samples of each class, for the first ``rows`` classes of the cycle."""
    shown: dict[int, list[int]] = {name: [] for name in list(dict.fromkeys(cycle))[:rows]}
    for index, name in enumerate(classes_of(cycle, range(count))):
        if name in shown and len(shown[name]) < columns:
            shown[name].append(index)
    return {name: indices for name, indices in shown.items() if indices}
