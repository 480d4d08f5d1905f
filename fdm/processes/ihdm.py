"""Inverse heat dissipation: the image is blurred, noise of one small strength only blurs the likelihood. [IHDM]

u_k = A_k x + sigma eps with A_k the heat equation run to a blur of sigma_B(k) pixels, k = 0 … K. The network sees u_k and
returns the step to the mean of u_{k-1}, that is A_{k-1} x - u_k, so it belongs to one number of steps, K. The sampler is
u_{k-1} = u_k + network + delta noise; u_0 is free of noise. It starts from the law of u_K, which is that of the data's
lowest frequencies: a Gaussian is fitted to them (the paper takes blurred training images).

Its steps are linear, so the closed-form oracle applies, with a network of its own for every K. They are not exact: a step
replaces z by the mean of the less blurred image and adds noise of one strength, delta, for all frequencies and any K. For
short steps that is Langevin dynamics in place of a reverse step; docs/mathematics.md says where it leads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fdm import operators
from fdm.config import Frozen, PositiveFloat, Spacing
from fdm.device import Constant
from fdm.processes.base import Event, Example, Images, Move, Prediction, Process, Stage, Times, blocks


class Config(Frozen):
    """Blurs, noise in training and noise in sampling."""

    process: Literal["ihdm"]
    steps: Annotated[int, Field(ge=2)] = Field(200, description="K; sampling.steps must be the same")
    blur_min: PositiveFloat = Field(0.5, description="standard deviation of the first blur, pixels")
    blur_max: PositiveFloat = Field(
        0.75, description="standard deviation of the last blur, as a share of the image's side"
    )
    sigma: PositiveFloat = Field(0.01, description="noise of the states")
    delta: Annotated[float, Field(ge=0)] = Field(0.0125, description="noise of a sampling step")

    @model_validator(mode="after")
    def _reachable(self) -> Config:
        if self.sigma >= 1:
            raise ValueError(f"sigma={self.sigma}: the noise must stay below the data's range")
        return self


class InverseHeat(Process):
    """u_k = V (exp(-Lambda sigma_B(k)^2 / 2) V^T x) + sigma eps; sigma_B grows geometrically from k = 1 to K.

    Args:
        calibration: ``{"mean": […], "root": [[…]]}`` of the lowest frequencies at k = K, as ``calibrate`` found them.
    """

    exact = False
    solvers = ("ancestral",)

    def __init__(
        self, config: Config, shape: tuple[int, int, int], calibration: Mapping[str, Any] | None = None
    ) -> None:
        side = shape[1]
        widest = config.blur_max * side
        if widest <= config.blur_min:
            raise ValueError(f"blur_max={config.blur_max} of {side} pixels is not above blur_min={config.blur_min}")
        self.config = config
        self.basis = operators.dct_basis(side)
        self.stages = (Stage(0, 0.0, 1.0, shape, outputs=shape[0], output_resolution=side),)
        growth = torch.linspace(math.log(config.blur_min), math.log(widest), config.steps, dtype=torch.float64)
        self._widths = Constant(torch.cat([torch.zeros(1, dtype=torch.float64), growth.exp()]))
        self._frequencies = Constant(operators.dct_frequencies(side))
        # Frequencies whose data are not drowned in the noise of u_K.
        self._kept = self.decay(torch.tensor(config.steps)) > config.sigma / 10
        self._prior = calibration or {}

    def decay(self, k: Tensor) -> Tensor:
        """exp(-Lambda sigma_B(k)^2 / 2), shape (*k, n, n), float64."""
        widths = self._widths.on(k.device)[k][..., None, None]
        return torch.exp(-self._frequencies.on(k.device) * widths.square() / 2)

    def blur(self, x: Images, k: Tensor) -> Images:
        """A_k x; k is one integer, or one for each image."""
        factors = self.decay(k).unsqueeze(-3).to(dtype=x.dtype, device=x.device)
        return self.basis.apply(factors * self.basis.adjoint(x))

    def index(self, t: Times | float) -> Tensor:
        """k = ceil(t K), from 1 on; times on the grid k / K give k whatever their last bit."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return torch.ceil(t * self.config.steps - 1e-6).clamp(1, self.config.steps).long()

    def at_steps(self, steps: int) -> InverseHeat:
        """K = ``steps``; the last blur, and so the calibration, is the same for every K."""
        return InverseHeat(self.config.model_copy(update={"steps": steps}), self.stages[0].shape, self._prior)

    def log_snr(self, t: Times, stage: int) -> Times:
        return torch.full_like(t, -2 * math.log(self.config.sigma), dtype=torch.float64)

    def calibrate(self, images: Images) -> Mapping[str, Any]:
        """Mean and root covariance (noise included) of u_K's lowest frequencies, all channels together."""
        last = torch.tensor(self.config.steps)
        low = [self.basis.adjoint(self.blur(x, last))[:, :, self._kept.to(x.device)].flatten(1) for x in blocks(images)]
        found = torch.cat(low).cpu()
        mean = found.mean(0)
        covariance = (found - mean).mT @ (found - mean) / len(found)
        noise = self.config.sigma**2 * torch.eye(len(mean), dtype=torch.float64)
        return {"mean": mean.tolist(), "root": torch.linalg.cholesky(covariance + noise).tolist()}

    def prior(self, noise: Images) -> Images:
        """u_K: the fitted Gaussian in the lowest frequencies, sigma noise in all others.

        Raises:
            ValueError: not calibrated.
        """
        if not self._prior:
            raise ValueError("ihdm starts from the data's lowest frequencies: calibrate on data first")
        mean, root = (
            torch.tensor(self._prior[key], dtype=noise.dtype, device=noise.device) for key in ("mean", "root")
        )
        kept = self._kept.to(noise.device)
        white = self.basis.adjoint(noise)
        coefficients = self.config.sigma * white
        low = mean + white[:, :, kept].flatten(1) @ root.mT
        coefficients[:, :, kept] = low.unflatten(1, (noise.shape[1], -1))
        return self.basis.apply(coefficients)

    def training_times(self, t: Times) -> Times:
        """k / K. Told a time before it, a network that is smooth in t would return at k / K half of what belongs to k + 1."""
        return self.index(t).to(t) / self.config.steps

    def example(self, x: Images, t: Times, stage: int, eps: Images) -> Example:
        k = self.index(t)
        z = self.blur(x, k) + self.config.sigma * eps
        return Example(z, self.blur(x, k - 1) - z)

    def predict(self, output: Images, z: Images, t: float, stage: int, clip: bool) -> Prediction:
        """The clean signal is A_{k-1} x."""
        mean = z + output
        return Prediction(mean.clamp(-1, 1) if clip else mean)

    def signal(self, prediction: Prediction, t: float, stage: int) -> Images:
        return prediction.clean

    def reverse(self, z: Images, prediction: Prediction, move: Move, *, eta: float, noise: Images | None) -> Images:
        """u_{k-1} = A_{k-1} x + delta noise, and x itself at the end."""
        if eta > 0 and move.s > 0:
            assert noise is not None
            return prediction.clean + eta * self.config.delta * noise
        return prediction.clean

    def jump(self, z: Images, prediction: Prediction, stage: int, noise: Images) -> Images:
        raise ValueError("a process with one stage has no jumps")

    def plan(self, steps: int, spacing: Spacing = "uniform") -> list[Event]:
        """K moves.

        Raises:
            ValueError: another number of steps, or another spacing: the network predicts one step of length 1 / K.
        """
        if spacing != "uniform":
            raise ValueError(f"ihdm takes the uniform steps it is trained for, not spacing {spacing}")
        if steps != self.config.steps:
            raise ValueError(f"ihdm takes the {self.config.steps} steps it is trained for, not {steps}: set both alike")
        return super().plan(steps)


build = InverseHeat
