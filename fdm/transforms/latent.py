"""fDM-VAE, fDM-VQVAE, fDM-VQGAN: the latents of a pretrained autoencoder. [fDM]"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from fdm.config import AutoencoderConfig, Frozen
from fdm.errors import UserError
from fdm.transforms.base import Codec, Shape, Transform


class Config(Frozen):
    """Encoding into standardised latents; a suite may name a file of params/autoencoders instead of the block."""

    kind: Literal["latent"]
    autoencoder: AutoencoderConfig = Field(description="architecture, losses and budget of the pretraining")


class Latent(Transform):
    """f encodes (the mean, or codes) and standardises; g decodes. Learned, hence neither linear nor exact.

    The configuration alone gives the shapes; ``attach`` brings the weights.
    """

    bounded = False

    def __init__(self, config: Config, fine: Shape) -> None:
        self.autoencoder = config.autoencoder
        self.fine, self.coarse = fine, config.autoencoder.latent_shape(fine)
        self._codec: Codec | None = None

    def attach(self, codec: Codec) -> None:
        """Bring the pretrained autoencoder, for signals of shape ``fine``."""
        self._codec = codec

    @property
    def codec(self) -> Codec:
        """The pretrained autoencoder.

        Raises:
            UserError: none was attached.
        """
        if self._codec is None:
            raise UserError("a latent signal needs its pretrained autoencoder; run `fdm pretrain` first")
        return self._codec

    def forward(self, x: Tensor) -> Tensor:
        return self.codec.encode(x)

    def backward(self, y: Tensor) -> Tensor:
        return self.codec.decode(y)


build = Latent
