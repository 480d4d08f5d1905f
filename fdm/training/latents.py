"""Latents of the training images, made once: the encoder is frozen, so every epoch would make the same again."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from fdm.data import to_float
from fdm.processes import Pretraining
from fdm.progress import Progress
from fdm.transforms import Codec

CHUNK = 256
"""Images encoded at a time; fixed, so that an interrupted training finds the same bits when it goes on."""


class KnownLatents:
    """A codec that looks latents up: those of the training images that ``of`` has named, in place of those of its pixels.

    ``decode`` is that of the codec.

    Args:
        codec: the pretrained autoencoder.
        needed: what it encodes of an image.
        images: (N, C, H, W) uint8, all of the training data.
        flip: whether training mirrors images; their latents are then kept too.
        device: of the training. Latents stay there: they are as many numbers as the images or fewer, but in float32.
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
        self.codec = codec
        kept = []
        with Progress(title, len(images) * (1 + flip), "img", shown=shown) as bar, torch.no_grad():
            for mirrored in (False, True)[: 1 + flip]:
                for part in images.split(CHUNK):
                    x = to_float(part.to(device))
                    kept.append(codec.encode(needed.signal(x.flip(-1) if mirrored else x)))
                    bar.advance(len(part))
        self._latents = torch.cat(kept)
        self._count = len(images)
        self._batch = self._latents[:0]

    @property
    def encoded(self) -> int:
        """How many images went through the encoder."""
        return len(self._latents)

    def of(self, order: Int[Tensor, " b"], mirrored: Bool[Tensor, " b"] | None) -> None:
        """Name the images that are encoded next: their indices, and which of them are mirrored (None: none)."""
        rows = order.to(self._latents.device)
        self._batch = self._latents[rows if mirrored is None else rows + self._count * mirrored]

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l hl wl"]:
        """Latents of the named images, whose signals ``x`` are."""
        assert len(x) == len(self._batch)
        return self._batch.to(x)

    def decode(self, latents: Float[Tensor, "b l hl wl"]) -> Float[Tensor, "b c h w"]:
        """Signals of standardised latents."""
        return self.codec.decode(latents)
