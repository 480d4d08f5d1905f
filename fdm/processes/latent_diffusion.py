"""Latent diffusion: the standard process on the standardised latents of a pretrained autoencoder. [LDM] 2112.10752

The same latents, and for the same configuration and seed the same autoencoder, as in the ``latent`` transform of the staged
process: what differs is that all of the noise is removed in latent space and the decoder has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from fdm.config import AutoencoderConfig, Frozen
from fdm.processes import gaussian
from fdm.processes.base import Example, Images, Prediction, Pretraining, Target, Times
from fdm.schedules import ScheduleConfig
from fdm.transforms import Codec
from fdm.transforms.latent import Config as LatentConfig
from fdm.transforms.latent import Latent


class Config(Frozen):
    """One autoencoder, one stage, one schedule; a suite may name a file of params/autoencoders instead of the block."""

    process: Literal["latent-diffusion"]
    autoencoder: AutoencoderConfig
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    target: Target = "v"


class LatentDiffusion(gaussian.Gaussian):
    """q(z_t | x) = N(alpha_t f(x), sigma_t^2 I), f the standardised encoder; a sample is g(z_0)."""

    linear = False

    def __init__(
        self, config: Config, shape: tuple[int, int, int], calibration: Mapping[str, Any] | None = None
    ) -> None:
        self.autoencoder = config.autoencoder
        self.transform = Latent(LatentConfig(kind="latent", autoencoder=config.autoencoder), shape)
        plain = gaussian.Config(process="gaussian", schedule=config.schedule, target=config.target)
        super().__init__(plain, self.transform.coarse, calibration)
        self.stages = (replace(self.stages[0], bounded=False),)

    def pretraining(self) -> Pretraining:
        return Pretraining(self.autoencoder, self.transform.fine, (), lambda x: x)

    def attach(self, codec: Codec) -> None:
        self.transform.attach(codec)

    def signals(self, x: Images) -> list[Images]:
        return [self.transform.forward(x)]

    def example(self, x: Images, t: Times, stage: int, eps: Images) -> Example:
        return super().example(self.transform.forward(x), t, stage, eps)

    def predict(self, output: Images, z: Images, t: float, stage: int, clip: bool) -> Prediction:
        return super().predict(output, z, t, stage, clip and self.stages[stage].bounded)

    def finish(self, z: Images) -> Images:
        return self.transform.backward(z)


build = LatentDiffusion
