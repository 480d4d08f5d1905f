"""Latents of the training images, made once: the encoder is frozen, so every epoch would make the same again."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from fdm.data import to_float
from fdm.processes import Pretraining
from fdm.progress import Progress
from fdm.transforms import Codec

CHUNK = 256
"""Images encoded at a time; fixed, so that an interrupted training finds the same bits when it goes on."""

MOST = 1 << 30
"""Bytes that latents may take: every process holds them, and makes them when it starts, before it can save anything."""


def worth_knowing(needed: Pretraining, images: int, seen: int) -> bool:
    """Whether latents of ``images`` images (mirrored ones count too) are made once in a training that sees ``seen``.

    Configuration and data alone decide, so that a training goes on anywhere as it began.
    """
    size = math.prod(needed.config.latent_shape(needed.shape)) * torch.float32.itemsize
    return seen > images and images * size <= MOST


class KnownLatents:
    """A codec that looks latents up: those of the training images that ``of`` has named, in place of those of its pixels.

    ``decode`` is that of the codec.

    Args:
        codec: the pretrained autoencoder.
        needed: what it encodes of an image.
        images: (N, C, H, W) uint8, all of the training data.
        flip: whether training mirrors images; their latents are then kept too.
        device: of the training, where the latents stay.
        title: of the progress.
        shown: whether to show it.
    """

    def __init__(
        self,
        codec: Codec,
        needed: Pretraining,
        images: UInt8[Tensor, "n c h w"],
        flip: bool,
        device: torch.device,
        title: str,
        shown: bool = True,
    ) -> None:
        self.codec, self._count = codec, len(images)
        self.encoded = self._count * (1 + flip)
        """How many images went through the encoder."""
        shape = needed.config.latent_shape(needed.shape)
        self._latents = torch.empty(self.encoded, *shape, device=device)
        with Progress(title, self.encoded, "img", shown=shown) as bar, torch.no_grad():
            for mirrored in (False, True)[: 1 + flip]:
                for start in range(0, self._count, CHUNK):
                    x = to_float(images[start : start + CHUNK].to(device))
                    first = self._count * mirrored + start
                    self._latents[first : first + len(x)] = codec.encode(needed.signal(x.flip(-1) if mirrored else x))
                    bar.advance(len(x))
        self._batch = self._latents[:0]

    def of(self, order: Int[Tensor, " b"], mirrored: Bool[Tensor, " b"] | None) -> None:
        """Name the images that are encoded next: their indices, and which of them are mirrored (None: none), on the device."""
        self._batch = self._latents[order if mirrored is None else order + self._count * mirrored]

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l hl wl"]:
        """Latents of the named images, whose signals ``x`` are."""
        assert len(x) == len(self._batch)
        return self._batch.to(x)

    def decode(self, latents: Float[Tensor, "b l hl wl"]) -> Float[Tensor, "b c h w"]:
        """Signals of standardised latents."""
        return self.codec.decode(latents)
