"""Levels of Scale Space Diffusion: their sides, the times at which the resolution changes, and the down-samplings between them.

[SSD] 2603.08709.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch.nn.functional import interpolate

from fdm.config import Frozen, PositiveFloat
from fdm.operators import Separable, box
from fdm.processes.base import stage_boundaries

MOST_LEVELS = 6


class ResolutionSchedule(Frozen):
    """Which level at which time: level = floor(n x(t)) of n levels, with x increasing from 0 to 1.

    [SSD] gives `equal` x = t and `convex_decay` x = 1 - (1 - t)^gamma (0.5 in the paper: fine levels last longer) and names
    the other two; their formulas here are ours: `sigmoid_like` is a logistic curve around t = 1/2 scaled to [0, 1] (long first
    and last levels), `tanh_like` x = tanh(gamma t) / tanh(gamma) (coarse levels last longer).
    """

    kind: Literal["equal", "convex_decay", "sigmoid_like", "tanh_like"] = "convex_decay"
    gamma: PositiveFloat = Field(default=0.5, description="strength; `equal` does not use it")

    def progress(self, t: float) -> float:
        """x(t) in [0, 1] for t in [0, 1]."""
        g = self.gamma
        return {
            "equal": lambda: t,
            "convex_decay": lambda: 1 - (1 - t) ** g,
            "sigmoid_like": lambda: (1 + math.tanh(g * (t - 0.5)) / math.tanh(g / 2)) / 2,
            "tanh_like": lambda: math.tanh(g * t) / math.tanh(g),
        }[self.kind]()

    def time(self, x: float) -> float:
        """The inverse of ``progress``."""
        g = self.gamma
        return {
            "equal": lambda: x,
            "convex_decay": lambda: 1 - (1 - x) ** (1 / g),
            "sigmoid_like": lambda: 0.5 + math.atanh((2 * x - 1) * math.tanh(g / 2)) / g,
            "tanh_like": lambda: math.atanh(x * math.tanh(g)) / g,
        }[self.kind]()

    def boundaries(self, levels: int) -> list[float]:
        """tau_0 = 0 < … < tau_levels = 1; level l is [tau_l, tau_{l+1}).

        Raises:
            ValueError: gamma is so extreme that two of them coincide.
        """
        return stage_boundaries([self.time(level / levels) for level in range(1, levels)], levels)


def level_sides(levels: int | Sequence[int], factor: int, side: int) -> list[int]:
    """Sides of the levels in pixels, finest first, for images of ``side`` pixels.

    Args:
        levels: their number, each ``factor`` times coarser than the last; or the sides themselves, any decreasing list.

    Raises:
        ValueError: a side is not a whole number, or the list does not begin with the side of the images.
    """
    if isinstance(levels, int):
        if side % factor ** (levels - 1):
            raise ValueError(f"levels: {levels} levels of factor {factor} do not fit images of {side}x{side} pixels")
        return [side // factor**level for level in range(levels)]
    if levels[0] != side:
        raise ValueError(f"levels: {list(levels)} must begin with the side of the images, {side}")
    return list(levels)


def down_sampling(operator: Literal["box", "bilinear"], fine: int, coarse: int) -> Separable:
    """From ``fine`` to ``coarse`` pixels a side, by any factor.

    `box` averages over the area that each coarse pixel covers; `bilinear` is the anti-aliased interpolation of torch.
    """
    if operator == "box" and fine % coarse == 0:
        return box(fine, fine // coarse)
    if operator == "bilinear":
        identity = torch.eye(fine, dtype=torch.float64)[None, None]
        matrix = interpolate(identity, size=(coarse, fine), mode="bilinear", antialias=True, align_corners=False)
        return Separable(matrix[0, 0])
    # Edges in units of 1/(fine coarse).
    low, high = torch.arange(coarse)[:, None] * fine, torch.arange(fine)[None, :] * coarse
    overlap = (torch.minimum(low + fine, high + coarse) - torch.maximum(low, high)).clamp_min(0)
    return Separable(overlap.double() / fine)
