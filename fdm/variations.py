"""`fdm vary` and `fdm interpolate`: what a trained model makes of a state that is held, or of states between two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdm.config import SamplingConfig
from fdm.data import to_uint8
from fdm.errors import UserError
from fdm.experiment import identity
from fdm.picture import labelled_rows
from fdm.processes import build_process
from fdm.progress import Progress
from fdm.records import make_record
from fdm.restoration import reverse_of
from fdm.runs import Run
from fdm.sampling.conditional import Reverse, interpolate, vary
from fdm.sampling.solvers import build_solver
from fdm.sources import source_version
from fdm.store import export, locked, record_of, run_folder, write_atomic, write_json


@dataclass(frozen=True)
class Variations:
    """``variants`` images for each of the first ``count`` samples, which share the state at the start of ``stage``."""

    run: Run
    stage: int
    count: int
    variants: int

    def make(self) -> dict[str, Any]:
        """Draw, or find what was drawn: ``vary.npy`` uint8 (count, variants, C, H, W), ``vary.png``, ``vary.json``.

        Raises:
            UserError: not trained, or there is nothing below that stage.
        """
        e = self.run.experiment
        process = build_process(e.method, e.dataset.channels, e.dataset.resolution)
        stages = sorted({v.stage for v in process.plan(e.sampling.steps) if 0 < v.t == process.stages[v.stage].start})
        if self.stage not in stages:
            listed = ", ".join(map(str, stages))
            raise UserError(
                f"{e.name}: nothing can be held at stage {self.stage}; "
                + (f"stages: {listed}" if stages else "it has one stage")
            )

        def draw(reverse: Callable[[Sequence[int]], Reverse]) -> tuple[Tensor, list[str]]:
            samples = range(self.count)
            images = vary(reverse(samples), self.stage, samples, self.variants).transpose(0, 1)
            return images, [f"sample {n}" for n in samples]

        events = len(reverse_plan(self.run)) * (self.variants + 1)
        return _kept(self.run, "vary", [self.stage, self.count, self.variants], events, draw)


@dataclass(frozen=True)
class Interpolations:
    """``points`` images between samples 2n and 2n + 1, for n < ``count``, at the coarsest stage.

    A class-conditional model is told the class of sample 2n throughout. Steps that draw noise forget the prior, so a solver that does is replaced by ddim with eta = 0; jumps draw theirs still.
    """

    run: Run
    count: int
    points: int

    def make(self) -> dict[str, Any]:
        """Draw, or find what was drawn: ``interpolate.npy`` uint8 (count, points, C, H, W), ``.png``, ``.json``.

        Raises:
            UserError: not trained, or a process without deterministic steps.
        """
        deterministic = build_solver(SamplingConfig.model_validate({"solver": "ddim"}))

        def between(reverse: Reverse, first: int, last: int) -> Tensor:
            if reverse.solver.eta > 0:
                try:
                    reverse.process.check_solver(deterministic.name)
                except ValueError as error:
                    raise UserError(f"{self.run.experiment.name}: nothing to interpolate: {error}") from None
                reverse = replace(reverse, solver=deterministic)
            return interpolate(reverse, first, last, self.points)

        def draw(reverse: Callable[[Sequence[int]], Reverse]) -> tuple[Tensor, list[str]]:
            pairs = [(2 * n, 2 * n + 1) for n in range(self.count)]
            images = torch.stack([between(reverse([pair[0]] * self.points), *pair) for pair in pairs])
            return images, [f"{a} to {b}" for a, b in pairs]

        events = len(reverse_plan(self.run)) * self.count
        return _kept(self.run, "interpolate", [self.count, self.points], events, draw)


def reverse_plan(run: Run) -> list[Any]:
    """Events of the run's reverse process."""
    e = run.experiment
    return build_process(e.method, e.dataset.channels, e.dataset.resolution).plan(e.sampling.steps)


def _kept(
    run: Run,
    kind: str,
    asked: list[int],
    events: int,
    draw: Callable[[Callable[[Sequence[int]], Reverse]], tuple[Tensor, list[str]]],
) -> dict[str, Any]:
    """The record of what ``draw`` makes, from the run store where it is there; ``draw`` is given samples -> reverse process."""
    names = (f"{kind}.npy", f"{kind}.png", f"{kind}.json")
    sampling = run.experiment.sampling.model_dump(mode="json", exclude={"batch", "count"})
    own = identity(run.train_identity, sampling, kind, asked, source_version("variations"))
    target = run.target
    if target and all((target / name).is_file() for name in names) and (record := record_of(target, kind, own)):
        return record
    folder = run_folder(kind, own)
    with locked(folder):
        record = record_of(folder, kind, own)
        if not record:
            with Progress(f"{kind} {run.experiment.name} seed {run.seed}", events, "steps") as bar:
                images, labels = draw(lambda samples: replace(reverse_of(run, samples), tick=lambda: bar.advance(1)))
            array = to_uint8(images).cpu().numpy()

            def save(path: Path) -> None:
                with path.open("wb") as file:
                    np.save(file, array)

            write_atomic(folder / f"{kind}.npy", save)
            labelled_rows(folder / f"{kind}.png", list(zip(labels, array, strict=True)))
            outcome = {"train": run.train_identity, "shape": list(array.shape), "asked": asked}
            record = make_record(kind, own, outcome, run.torch_device)
            write_json(folder / f"{kind}.json", record)
    if target:
        export(folder, names, target)
    return record
