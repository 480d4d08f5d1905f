"""Group normalisation that stays in bfloat16 on a GPU, and whose backward pass does not hold bfloat16 up on a CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fdm.precision import without_autocast


def group_norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups of at least 4 channels."""
    return GroupNorm(math.gcd(channels, min(32, channels // 4)), channels)


class GroupNorm(nn.GroupNorm):
    """``torch.nn.GroupNorm``; in bfloat16 on a CPU with its own backward pass for channels-last features.

    torch's takes 3 to 5 times as long there, which made it a fifth of a training step (docs/performance.md). On a GPU, autocast would
    return float32 and so have all in float32 that comes before the next convolution; sums are in float32 there all the same.
    """

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if x.dtype == torch.bfloat16 and x.device.type == "cuda":
            with without_autocast(x.device):
                return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        slow = x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled()
        if not (slow and x.is_contiguous(memory_format=torch.channels_last)):
            return super().forward(x)
        result: Tensor = _ChannelsLast.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return result


class _ChannelsLast(torch.autograd.Function):
    """y = w x~ + b with x~ = (x - mean) rstd over each image's groups of channels."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        b, c, height, width = x.shape
        y, mean, rstd = torch.native_group_norm(x, weight, bias, b, c, height * width, groups, eps)
        context.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """dx = rstd (w dy - <w dy> - x~ <w dy x~>), averages over a group; written as p dy + q (x - near) + r with p, q, r per channel."""
        x, weight, mean, rstd = context.saved_tensors
        b, c, height, width = x.shape
        groups = mean.shape[1]
        size = c // groups
        dy, pixels = (v.permute(0, 2, 3, 1).reshape(b, height * width, c) for v in (grad, x))
        mean, rstd = (v.float().repeat_interleave(size, dim=1) for v in (mean, rstd))
        # Taken off in bfloat16 before products are, so that nothing large cancels; what is left of the mean follows in float32.
        near = mean.to(x.dtype)
        centred, rest = pixels - near[:, None], mean - near.float()
        # Sums over pixels, (B, C) in float32.
        shift = dy.sum(1, dtype=torch.float32)
        scale = ((dy * centred).sum(1, dtype=torch.float32) - rest * shift) * rstd

        def group_mean(v: Tensor) -> Tensor:
            means = (weight.float() * v).view(b, groups, size).sum(2) / (size * height * width)
            return means.repeat_interleave(size, dim=1)

        q = -group_mean(scale) * rstd * rstd
        r = -group_mean(shift) * rstd - q * rest
        p, q, r = (v[:, None].to(x.dtype) for v in (rstd * weight.float(), q, r))
        dx = torch.addcmul(r, dy, p).addcmul_(centred, q).view(b, height, width, c).permute(0, 3, 1, 2)
        return dx, scale.sum(0).to(weight.dtype), shift.sum(0).to(weight.dtype), None, None
