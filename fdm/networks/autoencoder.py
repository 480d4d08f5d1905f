"""Small convolutional autoencoders whose latents become signals: KL-VAE (1312.6114) and VQ-VAE (1711.00937).

Shapes: images (B, C, H, W), latents (B, c, H / factor, W / factor). The latents that leave ``encode`` are standardised: each
channel has mean 0 and variance 1 over the training data, by statistics that are stored with the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from fdm.config import AutoencoderConfig
from fdm.networks.layers import Downsample, Features, Upsample, zero
from fdm.networks.normalisation import group_norm

Vectors = Float[Tensor, "n c"]
CHUNK = 256
"""Images per pass of ``encode`` and ``decode``, whatever the caller brings: bounds memory, does not change values."""
VECTORS = 1 << 16
"""Vectors that are compared with all codes at a time: 2 GB of distances for 8,192 codes."""


@dataclass(frozen=True)
class Code:
    """What the bottleneck makes of an encoder's output.

    Attributes:
        latent: what the decoder gets, not standardised; gradients reach the encoder through it.
        penalty: divergence or commitment, 0-d, unweighted.
        perplexity: exp(entropy) of the codes used in this batch, 0-d; NaN without a codebook.
    """

    latent: Features
    penalty: Tensor
    perplexity: Tensor


class _Block(nn.Module):
    """Two convolutions around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Features) -> Features:
        return x + self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))


class GaussianBottleneck(nn.Module):
    """q(z | x) = N(mean, exp(log variance)); the penalty is its divergence from N(0, I) per latent element."""

    inputs_per_channel = 2

    def forward(self, h: Features) -> Code:
        mean, log_variance = h.chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return Code(latent, divergence, divergence.new_full((), math.nan))

    def clean(self, h: Features) -> Features:
        """The mean."""
        return h.chunk(2, dim=1)[0]

    def project(self, latent: Features) -> Features:
        """Every latent is possible."""
        return latent


class Codebook(nn.Module):
    """Codes that follow the vectors assigned to them as moving averages; no gradient. (1711.00937, appendix A.1)

    A code that is hardly used is placed on a vector of the batch, drawn with probability proportional to its squared
    distance from its nearest code (as k-means++ does). All codes start unused, so the first batch places every one.

    Args:
        size: number of codes K.
        channels: of a code.
        decay: of the moving averages.
        revive_below: uses per step below which a code is placed anew.
    """

    inputs_per_channel = 1
    EPSILON = 1e-5

    def __init__(self, size: int, channels: int, decay: float, revive_below: float) -> None:
        super().__init__()
        self.decay, self.revive_below = decay, revive_below
        self.codes: Tensor
        self.counts: Tensor
        self.sums: Tensor
        self.register_buffer("codes", torch.zeros(size, channels))
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, channels))

    def forward(self, h: Features) -> Code:
        vectors = h.detach().movedim(1, -1).flatten(0, -2)
        if self.training:
            self.revive(vectors)
        indices = self.nearest(vectors)
        codes = self._as_latent(indices, h)
        used = self._per_code(indices, vectors.new_ones(len(vectors))) / len(indices)
        perplexity = (-torch.xlogy(used, used).sum()).exp()
        if self.training:
            self.update(vectors, indices)
        # The gradient passes the rounding unchanged (straight through).
        return Code(h + (codes - h).detach(), (h - codes).square().mean(), perplexity)

    def clean(self, h: Features) -> Features:
        """The nearest codes."""
        return self._as_latent(self.nearest(h.movedim(1, -1).flatten(0, -2)), h)

    project = clean

    def nearest(self, vectors: Vectors) -> Int[Tensor, " n"]:
        """Index of the nearest code of each vector."""
        return torch.cat([self._distances(some).argmin(dim=1) for some in vectors.split(VECTORS)])

    @torch.no_grad()
    def revive(self, vectors: Vectors) -> None:
        """Place codes that are hardly used on badly coded vectors; draws from the global generator."""
        dead = self.counts < self.revive_below
        if not dead.any():
            return
        distances = self._distances(vectors).masked_fill_(dead & ~dead.all(), torch.inf)
        error = distances.amin(dim=1).clamp_min(0) + 1e-12
        chosen = vectors[torch.multinomial(error, len(dead), replacement=True)]
        self.codes.copy_(torch.where(dead[:, None], chosen, self.codes))
        self.sums.copy_(torch.where(dead[:, None], chosen, self.sums))
        self.counts.copy_(torch.where(dead, 1.0, self.counts))

    @torch.no_grad()
    def update(self, vectors: Vectors, indices: Int[Tensor, " n"]) -> None:
        """N <- decay N + (1 - decay) n, m <- decay m + (1 - decay) sum of its vectors, code = m / N with N smoothed."""
        self.counts.lerp_(self._per_code(indices, vectors.new_ones(len(vectors))), 1 - self.decay)
        self.sums.lerp_(self._per_code(indices, vectors), 1 - self.decay)
        total = self.counts.sum()
        smooth = (self.counts + self.EPSILON) / (total + len(self.codes) * self.EPSILON) * total
        self.codes.copy_(self.sums / smooth[:, None])

    def _per_code(self, indices: Int[Tensor, " n"], values: Float[Tensor, "n ..."]) -> Float[Tensor, "k ..."]:
        """Sums of the values of each code; a GPU need not wait for it, as it would for ``bincount``."""
        return values.new_zeros(len(self.codes), *values.shape[1:]).index_add_(0, indices, values)

    def _distances(self, vectors: Vectors) -> Float[Tensor, "n k"]:
        codes = self.codes.to(vectors.dtype)
        return vectors.square().sum(1, keepdim=True) - 2 * vectors @ codes.mT + codes.square().sum(1)

    def _as_latent(self, indices: Int[Tensor, " n"], like: Features) -> Features:
        b, _, height, width = like.shape
        return self.codes[indices].reshape(b, height, width, -1).movedim(-1, 1).to(like.dtype)


class Autoencoder(nn.Module):
    """Encoder, bottleneck, decoder, and the statistics that standardise latents.

    Args:
        config: kind and sizes.
        shape: (channels, side, side) of the images; the side is divisible by ``config.factor``.
    """

    def __init__(self, config: AutoencoderConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.latent_shape = config.latent_shape(shape)
        levels = config.factor.bit_length() - 1
        widths = [config.width * min(2**level, 4) for level in range(levels + 1)]
        channels = config.latent_channels
        self.bottleneck: GaussianBottleneck | Codebook = (
            Codebook(config.codebook, channels, config.codebook_decay, config.revive_below)
            if config.quantised
            else GaussianBottleneck()
        )
        down: list[nn.Module] = [nn.Conv2d(shape[0], widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            down += [_Block(width) for _ in range(config.blocks)]
            if level < levels:
                down.append(Downsample(width, widths[level + 1]))
        outputs = channels * self.bottleneck.inputs_per_channel
        self.encoder = nn.Sequential(
            *down, group_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], outputs, 3, padding=1)
        )
        up: list[nn.Module] = [nn.Conv2d(channels, widths[-1], 3, padding=1)]
        for level in reversed(range(levels + 1)):
            up += [_Block(widths[level]) for _ in range(config.blocks)]
            if level > 0:
                up.append(Upsample(widths[level], widths[level - 1]))
        self.decoder = nn.Sequential(
            *up, group_norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], shape[0], 3, padding=1)
        )
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.to(memory_format=torch.channels_last)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weights of the decoder's last convolution, where VQGAN balances its losses."""
        return cast(nn.Parameter, cast(nn.Conv2d, self.decoder[-1]).weight)

    def forward(self, x: Features) -> tuple[Features, Code]:
        """Reconstruction and code of images x, for training: a VAE draws its latent, a codebook moves."""
        code = self.bottleneck(self.encoder(x))
        return self.decoder(code.latent), code

    @torch.no_grad()
    def encode(self, x: Features) -> Features:
        """Standardised latents of images x in [-1, 1] (a mean, or codes), in x's dtype and on its device."""
        return self._in_chunks(lambda part: self._standardise(self.bottleneck.clean(self.encoder(part))), x)

    @torch.no_grad()
    def decode(self, latents: Features) -> Features:
        """Images of standardised latents, which need not be codes: they are rounded to codes first, as in [LDM]."""
        return self._in_chunks(lambda part: self.decoder(self.bottleneck.project(self._raw(part))), latents)

    @torch.no_grad()
    def indices(self, x: Features) -> Int[Tensor, " n"]:
        """Codes that images x use, one per latent pixel."""
        assert isinstance(self.bottleneck, Codebook)
        x = x.to(self.mean)
        parts = [self.encoder(part).movedim(1, -1).flatten(0, -2) for part in x.split(CHUNK)]
        return torch.cat([self.bottleneck.nearest(part) for part in parts])

    @torch.no_grad()
    def measure(self, x: Features) -> None:
        """Set the statistics so that the latents of images x have mean 0 and variance 1 in every channel.

        Raises:
            ValueError: a channel is constant over x: the encoder has collapsed.
        """
        self.mean.zero_()
        self.deviation.fill_(1)
        latents = self.encode(x).double().movedim(1, 0).flatten(1)
        deviation = latents.std(dim=1, correction=0)
        if not bool((deviation > 1e-6).all()):
            raise ValueError("a latent channel is constant over the data: the encoder has collapsed")
        self.mean.copy_(latents.mean(dim=1))
        self.deviation.copy_(deviation)

    def _standardise(self, latent: Features) -> Features:
        return (latent - self.mean[:, None, None]) / self.deviation[:, None, None]

    def _raw(self, latent: Features) -> Features:
        return latent * self.deviation[:, None, None] + self.mean[:, None, None]

    def _in_chunks(self, apply: Callable[[Tensor], Tensor], x: Features) -> Features:
        return torch.cat([apply(part.to(self.mean)).to(x) for part in x.split(CHUNK)])
