"""Building blocks of the U-Net."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from fdm.networks.normalisation import group_norm
from fdm.precision import without_autocast

Features = Float[Tensor, "b c h w"]
Embedding = Float[Tensor, "b e"]


def zero(module: nn.Module) -> nn.Module:
    """Start a layer at zero, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def sinusoidal(t: Float[Tensor, " b"], size: int) -> Embedding:
    """Sines and cosines of t in [0, 1] at frequencies from 1000 down to 0.1 radians per unit, (B, size)."""
    half = size // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = 1000 * t.to(torch.float32)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions; the embedding scales and shifts the second normalisation, as in ADM (2105.05233)."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2 = group_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Features, embedding: Embedding) -> Features:
        h = self.conv1(silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(silu(h)))


class Attention(nn.Module):
    """Self-attention over all pixels."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Features) -> Features:
        b, c, height, width = x.shape
        # (B, 3 * heads * c', HW) -> three of (B, heads, HW, c')
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, -1).mT.unbind(1)
        attended = scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.mT.reshape(b, c, height, width))


class Downsample(nn.Module):
    """Convolution with stride 2, from one level's width to the next one's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)

    def forward(self, x: Features) -> Features:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest neighbour times 2, then a convolution to the finer level's width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Features) -> Features:
        with without_autocast(x.device):
            x = interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x)
