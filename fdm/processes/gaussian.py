"""The standard diffusion process on pixels. [DDPM]"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from fdm.config import Frozen
from fdm.processes.base import (
    Example,
    Images,
    Prediction,
    Process,
    Stage,
    Target,
    Times,
    network_target,
    per_image,
    signal_from_output,
)
from fdm.schedules import ScheduleConfig, build_schedule


class Config(Frozen):
    """One stage, one schedule."""

    process: Literal["gaussian"]
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    target: Target = "v"


class Gaussian(Process):
    """q(z_t | x) = N(alpha_t x, sigma_t^2 I)."""

    def __init__(
        self, config: Config, shape: tuple[int, int, int], calibration: Mapping[str, Any] | None = None
    ) -> None:
        self.config = config
        self.schedule = build_schedule(config.schedule)
        self.stages = (Stage(0, 0.0, 1.0, shape, outputs=shape[0], output_resolution=shape[1]),)

    def log_snr(self, t: Times, stage: int) -> Times:
        return self.schedule.log_snr(t)

    def example(self, x: Images, t: Times, stage: int, eps: Images) -> Example:
        level = self.level(t, stage)
        alpha, sigma = per_image(level.alpha, x), per_image(level.sigma, x)
        return Example(alpha * x + sigma * eps, network_target(self.config.target, x, eps, alpha, sigma))

    def predict(self, output: Images, z: Images, t: float, stage: int, clip: bool) -> Prediction:
        clean = signal_from_output(self.config.target, output, z, self.level(t, stage))
        return Prediction(clean.clamp(-1, 1) if clip else clean)

    def signal(self, prediction: Prediction, t: float, stage: int) -> Images:
        return prediction.clean

    def jump(self, z: Images, prediction: Prediction, stage: int, noise: Images) -> Images:
        raise ValueError("a process with one stage has no jumps")


build = Gaussian
