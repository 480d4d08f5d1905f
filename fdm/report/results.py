"""A suite's results as the report sees them: methods, their runs, and what can be read of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fdm.errors import UserError
from fdm.grids import Ablation
from fdm.plain import BROKEN, map_array
from fdm.report.files import CURVE, Cost, Drawn, File, Manifest, Metrics, Restored, again, read_curve
from fdm.report.origin import Source

SAMPLES = ("samples.npy", "grid.png")
"""Where a run's first samples are: all of them, or the first 64 as a picture (published results have only that)."""


@dataclass(frozen=True)
class Trajectory:
    """The reverse process of a few samples, from noise to data."""

    t: np.ndarray
    stage: np.ndarray
    z: list[np.ndarray]
    x: list[np.ndarray]


@dataclass(frozen=True)
class Run:
    """One experiment under one seed; ``drawn`` holds variations and interpolations by the verb that made them."""

    folder: Path
    seed: int
    manifest: Manifest
    metrics: Metrics
    cost: Cost
    restored: Restored | None = None
    drawn: Mapping[str, Drawn] = field(default_factory=dict)

    def has(self, files: Sequence[str]) -> bool:
        """Whether one of these files is here."""
        return any((self.folder / name).is_file() for name in files)

    @cached_property
    def curve(self) -> pd.DataFrame:
        """``training.csv``, checked; read when it is first needed, as tables do without it."""
        return read_curve(self.folder, "training.csv", CURVE, "train")

    def timed_on(self, source: Source) -> str | None:
        """The device that took a time which stands there; None for what is no time."""
        if not source.timed:
            return None
        return self.manifest.records["train"].device if "training" in source.path else self.cost.device

    def content(self, file: str) -> File | None:
        """What was read of one of the run's JSON files; None where the run has no such file."""
        known = {"manifest.json": self.manifest, "metrics.json": self.metrics, "cost.json": self.cost}
        return self.restored if file == "restore.json" else known[file]

    def samples(self, count: int) -> np.ndarray:
        """The first ``count`` samples, uint8 (count, C, H, W)."""
        path = self.folder / "samples.npy"
        try:
            stored = map_array(path)
        except (OSError, ValueError):
            raise UserError(f"{path}: missing or damaged; {again(self.folder, 'sample')}") from None
        if stored.ndim != 4 or stored.dtype != np.uint8 or len(stored) != self.metrics.samples:
            raise UserError(
                f"{path}: holds {stored.dtype} {stored.shape}, but metrics.json was computed on {self.metrics.samples} "
                f"uint8 images; {again(self.folder, 'evaluate')}"
            )
        return np.array(stored[:count])

    def trajectory(self) -> Trajectory:
        """Frames of the reverse process."""
        path = self.folder / "trajectory.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                t, stage = stored["t"], stored["stage"]
                z, x = ([stored[f"{kind}_{j}"].astype(np.float32) for j in range(len(t))] for kind in "zx")
        except (OSError, *BROKEN):
            raise UserError(f"{path}: missing or damaged; {again(self.folder, 'sample')}") from None
        if len(t) == 0 or len(stage) != len(t) or not all(np.isfinite(frame).all() for frame in [t, *z, *x]):
            raise UserError(f"{path}: empty, uneven or with values that are not finite; {again(self.folder, 'sample')}")
        return Trajectory(t, stage, z, x)


@dataclass(frozen=True)
class Method:
    """One experiment and its runs, one per seed."""

    name: str
    title: str
    config: Mapping[str, Any]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Results:
    """A suite's results in the order of the suite; ``partial`` ones may lack runs, and runs files that tables do without."""

    suite: str
    title: str
    methods: tuple[Method, ...]
    warnings: tuple[str, ...]
    ablations: Mapping[str, Ablation] = field(default_factory=dict)
    partial: bool = False

    def having(self, *files: str) -> Results:
        """Of partial results the runs with one of these files, and methods with such a run; else all: a file that lacks is an error."""
        if not self.partial:
            return self
        kept = [(m, tuple(run for run in m.runs if run.has(files))) for m in self.methods]
        return replace(self, methods=tuple(replace(method, runs=runs) for method, runs in kept if runs))

    def compares(self, source: Source) -> bool:
        """Whether means over runs compare: times of different devices do not."""
        return len({run.timed_on(source) for run in self.runs}) == 1

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of the methods."""
        return [run for method in self.methods for run in method.runs]


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resolved experiment its scores depend on; of the rest a manifest holds what was asked when they were made."""
    apart = ("name", "title", "restoration", "exploration")
    return {key: value for key, value in config.items() if key not in apart}
