"""Blurring diffusion models: heat dissipation with Gaussian noise of one strength for all frequencies. [Hoog]"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch.nn.functional import logsigmoid

from fdm import operators
from fdm.config import Frozen
from fdm.device import Constant
from fdm.processes.base import Target, Times
from fdm.processes.frequency import FrequencyProcess, Spectrum
from fdm.schedules import ScheduleConfig, build_schedule


class Config(Frozen):
    """Noise schedule, and the blur at t = 1."""

    process: Literal["blurring"]
    schedule: ScheduleConfig = Field(
        default_factory=lambda: ScheduleConfig(lambda_min=-10.0, lambda_max=10.0),
        description="the paper's: cosine, +-10",
    )
    target: Target = "eps"
    blur_max: Annotated[float, Field(ge=0)] = Field(20.0, description="standard deviation of the blur at t = 1, pixels")
    least: Annotated[float, Field(gt=0, le=1)] = Field(
        0.001, description="d_min: what is left of every frequency at least"
    )


class Blurring(FrequencyProcess):
    """q(z_t | x) = N(V (a_t d_t) V^T x, sigma_t^2 I) in the cosine basis, with a_t^2 + sigma_t^2 = 1.

    d_t = (1 - d_min) exp(-Lambda tau_t) + d_min, Lambda the squared frequencies, tau_t = sigma_B(t)^2 / 2 and
    sigma_B(t) = blur_max sin^2(pi t / 2).
    """

    def __init__(
        self, config: Config, shape: tuple[int, int, int], calibration: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(shape, operators.dct_basis(shape[1]), config.target)
        self.config = config
        self.schedule = build_schedule(config.schedule)
        self._frequencies = Constant(operators.dct_frequencies(shape[1]))

    def log_snr(self, t: Times, stage: int) -> Times:
        return self.schedule.log_snr(t)

    def levels(self, t: Times) -> Spectrum:
        log_snr = self.schedule.log_snr(t)[..., None, None]
        width = self.config.blur_max * torch.sin(torch.pi / 2 * t).square()[..., None, None]
        dissipation = torch.exp(-self._frequencies.on(t.device) * width.square() / 2)
        log_amplitude = logsigmoid(log_snr) / 2
        left = (1 - self.config.least) * dissipation + self.config.least
        return Spectrum(log_amplitude, log_amplitude + left.log(), logsigmoid(-log_snr) / 2)


build = Blurring
