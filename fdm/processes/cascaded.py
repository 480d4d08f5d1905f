"""Cascaded diffusion: a base model at low resolution, then super-resolution models with noise conditioning augmentation. [CDM]

Every stage is a whole diffusion. Stage k covers [tau_k, tau_{k+1}) of the common clock and runs from noise to clean images x^k in
its local time u = (t - tau_k) / (tau_{k+1} - tau_k). The last stage is the base model. A state of any other stage has two images:
the noisy one, and beside it the condition y = g(alpha_a x^{k+1} + sigma_a eps'), the coarser image with noise of one fixed level
a, up-sampled; y stays as it is while the first image is denoised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator

from fdm import operators
from fdm.config import Frozen
from fdm.processes.base import (
    Example,
    Images,
    Move,
    Prediction,
    Process,
    Stage,
    Target,
    Times,
    network_target,
    per_image,
    signal_from_output,
    stage_boundaries,
)
from fdm.processes.levels import MOST_LEVELS, down_sampling, level_sides
from fdm.processes.spacing import Span
from fdm.schedules import Level, ScheduleConfig, build_schedule


class Config(Frozen):
    """Resolutions, how images go down and up between them, and the noise in the conditions."""

    process: Literal["cascaded"]
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig, description="of every stage, in its local time")
    target: Target = "v"
    levels: Annotated[int, Field(ge=1, le=MOST_LEVELS)] = Field(2, description="number of models, one per resolution")
    factor: Annotated[int, Field(ge=2)] = Field(2, description="between neighbouring resolutions")
    operator: Literal["box", "bilinear"] = Field("box", description="down-sampling, which makes the coarser images")
    up_sampling: Literal["nearest", "bilinear"] = Field("bilinear", description="of the coarser image in a condition")
    augmentation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.25, description="time of the schedule whose noise a condition carries, in training and sampling; 0: none"
    )
    boundaries: Literal["equal"] | tuple[float, ...] = Field(
        "equal", description="of the stages on the common clock: their shares of training steps and evaluations"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        stage_boundaries(self.boundaries, self.levels)
        return self


class Cascaded(Process):
    """z = (alpha_u x^k + sigma_u eps, g(alpha_a x^{k+1} + sigma_a eps')), x^{k+1} = f x^k down-sampled.

    The noise of an example, and of a jump, has the state's shape: eps is its first half; eps' is made of the second.

    Args:
        config: the method.
        shape: (channels, side, side) of the data.

    Raises:
        ValueError: the levels do not fit the side.
    """

    shared_network = False

    def __init__(
        self, config: Config, shape: tuple[int, int, int], calibration: Mapping[str, Any] | None = None
    ) -> None:
        self.config = config
        self.schedule = build_schedule(config.schedule)
        self.channels = shape[0]
        sides = level_sides(config.levels, config.factor, shape[1])
        up = operators.nearest if config.up_sampling == "nearest" else operators.bilinear_up
        self.down = [
            down_sampling(config.operator, fine, coarse) for fine, coarse in zip(sides, sides[1:], strict=False)
        ]
        self.up = [up(side, config.factor) for side in sides[1:]]
        # Sums of factor x factor independent values, over factor: an isometry's adjoint, so white noise stays white.
        self._pool = [operators.nearest(side, config.factor) for side in sides[1:]]
        a = torch.tensor(config.augmentation, dtype=torch.float64)
        self.augmentation = Level.of(torch.where(a > 0, self.schedule.log_snr(a), torch.inf))
        taus = stage_boundaries(config.boundaries, config.levels)
        last = config.levels - 1
        self.stages = tuple(
            Stage(k, taus[k], taus[k + 1], (self.channels * (1 if k == last else 2), side, side), self.channels, side)
            for k, side in enumerate(sides)
        )

    def span(self, stage: int) -> Span:
        return self.stages[stage].start, self.stages[stage].end

    def log_snr(self, t: Times, stage: int) -> Times:
        here = self.stages[stage]
        return self.schedule.log_snr((t.to(torch.float64) - here.start) / here.length)

    def signals(self, x: Images) -> list[Images]:
        signals = [x]
        for down in self.down:
            signals.append(down.apply(signals[-1]))
        return signals

    def condition(self, coarse: Images, stage: int, noise: Images) -> Images:
        """y of ``stage`` for clean images x^{k+1} of the next one; noise is white, of the shape of y.

        Noise is added at the low resolution, before up-sampling: non-truncated conditioning augmentation. [CDM]
        """
        alpha, sigma = float(self.augmentation.alpha), float(self.augmentation.sigma)
        return self.up[stage].apply(alpha * coarse + sigma * self._pool[stage].adjoint(noise) / self.config.factor)

    def example(self, x: Images, t: Times, stage: int, eps: Images) -> Example:
        for down in self.down[:stage]:
            x = down.apply(x)
        level = self.level(t, stage)
        alpha, sigma = per_image(level.alpha, x), per_image(level.sigma, x)
        own = eps[:, : self.channels]
        z = alpha * x + sigma * own
        if stage < len(self.down):
            z = torch.cat([z, self.condition(self.down[stage].apply(x), stage, eps[:, self.channels :])], dim=1)
        return Example(z, network_target(self.config.target, x, own, alpha, sigma))

    def predict(self, output: Images, z: Images, t: float, stage: int, clip: bool) -> Prediction:
        clean = signal_from_output(self.config.target, output, z[:, : self.channels], self.level(t, stage))
        return Prediction(clean.clamp(-1, 1) if clip else clean)

    def signal(self, prediction: Prediction, t: float, stage: int) -> Images:
        return prediction.clean

    def reverse(self, z: Images, prediction: Prediction, move: Move, *, eta: float, noise: Images | None) -> Images:
        """The usual step for the noisy image; its condition stays."""
        own = noise[:, : self.channels] if noise is not None and self.needs_noise(move, eta) else None
        moved = super().reverse(z[:, : self.channels], prediction, move, eta=eta, noise=own)
        return torch.cat([moved, z[:, self.channels :]], dim=1)

    def jump(self, z: Images, prediction: Prediction, stage: int, noise: Images) -> Images:
        """The clean image that ``stage`` ends with becomes the condition of pure noise at the finer resolution."""
        condition = self.condition(z[:, : self.channels], stage - 1, noise[:, self.channels :])
        return torch.cat([noise[:, : self.channels], condition], dim=1)

    def finish(self, z: Images) -> Images:
        return z[:, : self.channels]


build = Cascaded
