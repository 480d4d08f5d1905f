"""Blur diffusion: the image is blurred step by step while it diffuses. [Blur]

One step is x_i = sqrt(1 - beta_i) W^{f(i)} x_{i-1} + noise, W = V D V^T a symmetric Gaussian blur and the noise such that
unit variance is kept. Each frequency is a chain of its own, A_i = (1 - beta_i) D^{2 f(i)}; f is the exponent of one step, so
the image has been blurred by W^F with F_i = f(1) + … + f(i), and log A_bar_i = log alpha_bar_i + 2 F_i log D.
Between t = (i - 1) / N and t = i / N both F and log alpha_bar are linear in t: at t = i / N it is the discrete chain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from fdm import operators
from fdm.config import Frozen
from fdm.device import Constant
from fdm.processes.base import Images, Move, Prediction, Target, Times
from fdm.processes.frequency import FrequencyProcess, Spectrum
from fdm.schedules import LinearBeta, ScheduleConfig, build_schedule

Kind = Literal["quartic", "cubic", "quadratic", "linear", "log", "triangular"]

SMALLEST = 0.03
"""Least eigenvalue of W, or of I - W, as in the published code: smaller ones count as this. A power of zero would remove a
frequency at the first step, and no sampler could bring it back. With width 0.4 every eigenvalue of W is above 0.7."""


class Config(Frozen):
    """Noise as in DDPM, and how the blur of one step grows."""

    process: Literal["blur-diffusion"]
    schedule: ScheduleConfig = Field(default_factory=lambda: ScheduleConfig(kind="linear-beta"))
    target: Target = "eps"
    width: Annotated[float, Field(gt=0)] = Field(0.4, description="standard deviation of W's kernel, pixels")
    boundary: operators.Boundary = "zero"
    f_type: Kind = Field(
        "quartic", description="growth of f(i), the exponent of W in step i of 1000, from 0 to strength"
    )
    strength: Annotated[float, Field(ge=0)] = Field(
        0.14, description="largest f(i): at i = N, or N / 2 for triangular; 0 is DDPM. The paper takes 0.6 with log"
    )
    fine_to_coarse: bool = Field(
        False,
        description="I - W in place of W: low frequencies vanish first; predictions have no range to clip them to",
    )


def exponents(kind: Kind, strength: float, count: int) -> Tensor:
    """f(0) = 0, f(1), …, f(N), float64 (N + 1,): the exponent of W in each step, at most ``strength``."""
    i = torch.arange(count + 1, dtype=torch.float64)
    u = i / count
    powers = {"linear": 1, "quadratic": 2, "cubic": 3, "quartic": 4}
    if kind in powers:
        return strength * u ** powers[kind]
    if kind == "log":
        return strength * torch.log(i.clamp_min(1)) / math.log(count)
    return strength * torch.minimum(2 * u, 2 - 2 * u)


class BlurDiffusion(FrequencyProcess):
    """q(x_i | x_0) = N(V A_bar_i^{1/2} V^T x_0, V (I - A_bar_i) V^T)."""

    solvers = ("ancestral", "ddim", "multistep2", "reverse-diffusion")

    def __init__(
        self, config: Config, shape: tuple[int, int, int], calibration: Mapping[str, Any] | None = None
    ) -> None:
        values, basis = operators.eigenbasis(operators.gaussian(shape[1], config.width, config.boundary))
        super().__init__(shape, basis, config.target)
        self.config = config
        self.schedule = build_schedule(config.schedule)
        self.blur = (1 - values if config.fine_to_coarse else values).clamp(SMALLEST, 1)
        self.exponents = exponents(config.f_type, config.strength, LinearBeta.STEPS)
        self._total, self._log_blur = Constant(self.exponents.cumsum(0)), Constant(self.blur.log())

    def bounded(self) -> bool:
        return not self.config.fine_to_coarse

    def total_exponent(self, t: Times) -> Times:
        """F(t): W^F is the blur of x_t."""
        position = t * LinearBeta.STEPS
        whole = position.floor().clamp(0, LinearBeta.STEPS - 1).long()
        total = self._total.on(t.device)
        return total[whole] + (position - whole) * (total[whole + 1] - total[whole])

    def log_snr(self, t: Times, stage: int) -> Times:
        return self.schedule.log_snr(t)

    def levels(self, t: Times) -> Spectrum:
        log_amplitude = (logsigmoid(self.schedule.log_snr(t)) / 2)[..., None, None]
        log_alpha = log_amplitude + self.total_exponent(t)[..., None, None] * self._log_blur.on(t.device)
        return Spectrum(log_amplitude, log_alpha, torch.log(-torch.expm1(2 * log_alpha)) / 2)

    def reverse_diffusion(self, z: Images, prediction: Prediction, move: Move, *, noise: Images) -> Images:
        """[Blur] eq. 19, A the decay A_bar_t / A_bar_s of each frequency from s to t:

        z_s = (2 - A^{1/2}) z + (1 - A) score + (1 - A)^{1/2} noise, score = -(1 - A_bar_t)^{-1/2} eps (eq. 16 prints the
        exponent -1). The step into data draws no noise.
        """
        now, then = self.spectrum(move.t), self.spectrum(move.s)
        half = now.log_alpha - then.log_alpha
        lost = -torch.expm1(2 * half)
        # eps = (z - a x_t) / sigma_t, so the score is (a x_t - z) / sigma_t^2.
        gain = lost / now.sigma.square()
        z_s = self.filter(2 - half.exp() - gain, z) + self.filter(now.log_amplitude.exp() * gain, prediction.clean)
        return z_s + self.filter(lost.sqrt(), noise) if move.s > 0 else z_s


build = BlurDiffusion
