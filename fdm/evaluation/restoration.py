"""One restoration beside simpler ones: measure images, restore them in every way, score what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fdm.config import RestorationConfig
from fdm.data import to_float, to_uint8
from fdm.evaluation.baselines import bicubic, wiener
from fdm.evaluation.fidelity import consistency, scores, summarise
from fdm.evaluation.lpips import Lpips
from fdm.operators import Separable
from fdm.processes import Event, Move
from fdm.sampling.conditional import Reverse, ddnm, ilvr, restore

Images = Float[Tensor, "b c h w"]

BASELINES = {"ilvr": ilvr, "ddnm": ddnm}
"""Ways to restore with a standard diffusion model."""

ROUNDING = (1 / 127.5) ** 2 / 12
"""Variance of what rounding to 8 bits adds to a value in [-1, 1]."""
FLOAT = 1e-14
"""The same for single precision."""


def task_of(operator: Separable) -> str:
    """What undoing ``operator`` is called: ``super-resolution`` or ``deblur``."""
    return "super-resolution" if operator.rows < operator.columns else "deblur"


@dataclass(frozen=True)
class Comparison:
    """Restorations of the same measurements.

    Attributes:
        stage: whose signal was measured.
        y: the measurements.
        images: by method; the first, which uses no network, is what the others compare with.
        summary: task, scores with intervals, and differences to the first method; JSON-able.
    """

    stage: int
    y: Images
    images: dict[str, Images]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Comparer:
    """Restores with ``own`` and, by ILVR and DDNM, with ``baseline``, in batches.

    Attributes:
        train: images from which the Wiener filter learns its spectrum.
        lpips: None leaves LPIPS out.
    """

    own: Reverse
    baseline: Reverse | None
    config: RestorationConfig
    train: Images
    lpips: Lpips | None
    batch: int

    def events(self) -> int:
        """Steps of one image in all that ``compare`` does at all stages, for progress."""
        own = sum(len(self._left(stage)) for stage in self.config.stages) * len(self.config.methods)
        other = len(BASELINES) * len(self.baseline.plan) if self.baseline else 0
        return own + len(self.config.stages) * other

    def compare(self, stage: int, truth: Images, advance: Callable[[int], None]) -> Comparison:
        """Measure ``truth`` (B, C, H, W) as the signal of ``stage`` and restore it; ``advance`` counts image-steps.

        Raises:
            ValueError: images came out that are not finite.
        """
        measurement = self.own.process.measurement(stage)
        operator, cutoff = measurement.operators[0], self.config.cutoff
        y = operator.apply(truth.double())
        y = to_float(to_uint8(y)) if self.config.rounded else y.float()
        images: dict[str, Images] = {}
        if task_of(operator) == "super-resolution":
            images["bicubic"] = bicubic(y, truth.shape[-1])
        else:
            images["wiener"] = wiener(operator, y, self.train, ROUNDING if self.config.rounded else FLOAT)
        if self.baseline:
            for name, way in BASELINES.items():
                step = partial(_restore_with, way, operator, cutoff)
                images[name] = self._batches(self.baseline, y, advance, step)
        for method in self.config.methods:
            step = partial(_restore, measurement, method == "projected", cutoff)
            images[method] = self._batches(self.own, y, advance, step)
        if bad := [method for method, x in images.items() if not torch.isfinite(x).all()]:
            raise ValueError(f"{bad[0]} images are not finite; the model did not train well")
        scored = {method: scores(x, truth, operator, y, self.lpips) for method, x in images.items()}
        reference = next(iter(scored))
        summary = {
            "stage": stage,
            "task": task_of(operator),
            "measurement": list(y.shape[1:]),
            "evaluations": sum(isinstance(event, Move) for event in self._left(stage)),
            "consistency_of_the_truth": float(consistency(operator, truth, y).mean()),
            "reference": reference,
            **summarise(scored, reference),
        }
        return Comparison(stage, y, images, summary)

    def _left(self, stage: int) -> Sequence[Event]:
        """The events that a restoration from the signal of ``stage`` goes through."""
        measurement = self.own.process.measurement(stage)
        return self.own.plan[self.own.index(measurement.stage, measurement.t) :]

    def _batches(
        self,
        reverse: Reverse,
        y: Images,
        advance: Callable[[int], None],
        make: Callable[[Reverse, Images, range], Images],
    ) -> Images:
        parts = []
        for first in range(0, len(y), self.batch):
            part = y[first : first + self.batch]
            ticking = replace(reverse, tick=partial(advance, len(part)))
            parts.append(make(ticking, part, range(first, first + len(part))))
        return torch.cat(parts)


def _restore_with(
    way: Callable[..., Images], operator: Separable, cutoff: float, reverse: Reverse, y: Images, samples: range
) -> Images:
    return way(reverse, operator, y, samples, cutoff=cutoff)


def _restore(measurement: Any, projected: bool, cutoff: float, reverse: Reverse, y: Images, samples: range) -> Images:
    return restore(reverse, measurement, y, samples, projected=projected, cutoff=cutoff)
