"""`fdm vary` and `fdm interpolate`: what a trained model makes of a state that is held, or of states between two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fdm.config import ExplorationConfig, SamplingConfig
from fdm.data import to_uint8
from fdm.errors import UserError
from fdm.experiment import identity
from fdm.picture import labelled_rows
from fdm.progress import Progress
from fdm.restoration import reverse_of
from fdm.runs import Run
from fdm.sampling.conditional import Reverse, interpolate, vary
from fdm.sampling.solvers import build_solver
from fdm.sources import source_version
from fdm.store import write_array


@dataclass(frozen=True)
class Exploration(ABC):
    """Rows of ``config.columns`` images from a trained run, where ``config`` is its experiment's ``exploration``.

    Attributes:
        kind: the verb that makes it, which names its files.
    """

    run: Run
    kind: ClassVar[str]

    @property
    def config(self) -> ExplorationConfig:
        """What is asked for."""
        return self.run.experiment.exploration

    @property
    @abstractmethod
    def asked(self) -> dict[str, Any]:
        """What of it shapes the images."""

    @property
    def identity(self) -> str:
        """Covers the training, how steps are taken, what is asked for, and the code."""
        sampling = self.run.experiment.sampling.model_dump(mode="json", exclude={"batch", "micro_batch", "count"})
        return identity(self.run.train_identity, sampling, self.kind, self.asked, source_version("variations"))

    @abstractmethod
    def draw(self, reverse: Reverse) -> tuple[Tensor, list[str]]:
        """Images (rows, columns, C, H, W) and the label of each row."""

    @abstractmethod
    def events(self, steps: int) -> int:
        """How many events that takes, of a reverse process of ``steps`` events."""

    def make(self) -> dict[str, Any]:
        """Draw, or find what was drawn: ``<kind>.npy`` uint8 (rows, columns, C, H, W), ``.png``, ``.json``.

        Returns:
            The record.

        Raises:
            UserError: not trained, or the process cannot do it.
        """
        names = tuple(f"{self.kind}.{ending}" for ending in ("npy", "png", "json"))
        return self.run.ensure(self.kind, self.identity, names, self._compute)

    def _compute(self, folder: Path) -> dict[str, Any]:
        run, kind, reverse = self.run, self.kind, reverse_of(self.run)
        title = f"{kind} {run.experiment.name} seed {run.seed}"
        with Progress(title, self.events(len(reverse.plan)), "steps") as bar:
            images, labels = self.draw(replace(reverse, tick=lambda: bar.advance(1)))
        array = to_uint8(images).cpu().numpy()
        write_array(folder / f"{kind}.npy", array)
        labelled_rows(folder / f"{kind}.png", list(zip(labels, array, strict=True)))
        return {"train": run.train_identity, "shape": list(array.shape), "asked": self.asked}


class Variations(Exploration):
    """Images that share the state at the start of a stage with a sample: a row for each stage and sample."""

    kind = "vary"

    @property
    def stages(self) -> tuple[int, ...]:
        """Those that are asked for, or else all that there are.

        Raises:
            UserError: there is none.
        """
        e = self.run.experiment
        stages = self.config.vary or tuple(e.holdable)
        if not stages:
            raise UserError(f"{e.name}: nothing can be held; it has one stage")
        return stages

    @property
    def asked(self) -> dict[str, Any]:
        """Which stages, how many samples, and how many images of each."""
        return {"stages": list(self.stages), "count": self.config.count, "columns": self.config.columns}

    def draw(self, reverse: Reverse) -> tuple[Tensor, list[str]]:
        """The first ``count`` samples, each followed by its variations, stage by stage."""
        samples = range(self.config.count)
        images = [vary(reverse, stage, samples, self.config.columns).transpose(0, 1) for stage in self.stages]
        return torch.cat(images), [f"stage {stage}\nsample {n}" for stage in self.stages for n in samples]

    def events(self, steps: int) -> int:
        """Once to the held state, and from there once for every column; samples go together."""
        before = self.run.experiment.holdable
        return sum(before[stage] + self.config.columns * (steps - before[stage]) for stage in self.stages)


class Interpolations(Exploration):
    """Images between samples 2n and 2n + 1, for n < ``count``, at the coarsest stage.

    Steps that draw noise forget the prior, so a solver that does is replaced by ddim with eta = 0; jumps draw theirs still.
    """

    kind = "interpolate"

    @property
    def asked(self) -> dict[str, Any]:
        """How many pairs, and how many images of each."""
        return {"count": self.config.count, "columns": self.config.columns}

    def draw(self, reverse: Reverse) -> tuple[Tensor, list[str]]:
        """One row for each pair.

        Raises:
            UserError: a process without deterministic steps.
        """
        if reverse.solver.eta > 0:
            deterministic = build_solver(SamplingConfig.model_validate({"solver": "ddim"}))
            try:
                reverse.process.check_solver(deterministic.name)
            except ValueError as error:
                raise UserError(f"{self.run.experiment.name}: nothing to interpolate: {error}") from None
            reverse = replace(reverse, solver=deterministic)
        pairs = [(2 * n, 2 * n + 1) for n in range(self.config.count)]
        images = torch.stack([interpolate(reverse, *pair, self.config.columns) for pair in pairs])
        return images, [f"{a} to {b}" for a, b in pairs]

    def events(self, steps: int) -> int:
        """Pairs come one after the other."""
        return steps * self.config.count
