"""One U-Net for every method, entered and left at any level.

Level l works on images of side resolution / 2**l. A state enters at the level of its own resolution through that level's
input layer and leaves through that level's output layer; finer levels are not computed, so coarse stages are cheap. Where
the output is finer than the state (Scale Space Diffusion), the decoder runs on past the entry level with zero skips. With one
stage at full resolution it is an ordinary ADM-style U-Net.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from fdm.config import NetworkConfig
from fdm.networks.layers import Attention, Downsample, ResidualBlock, Upsample, sinusoidal, zero
from fdm.networks.normalisation import group_norm
from fdm.processes import Stage

NO_CLASS = -1
"""The label of the null class: images whose class is not told."""


def level_of(resolution: int, side: int, levels: int) -> int:
    """The level that works at ``side`` pixels.

    Raises:
        ValueError: the network has no such level.
    """
    for level in range(levels):
        if side << level == resolution:
            return level
    sides = ", ".join(str(resolution >> level) for level in range(levels))
    raise ValueError(f"a state of {side}x{side} pixels needs a network level of that size; the network has {sides}")


def check_levels(config: NetworkConfig, resolution: int, stages: Sequence[Stage]) -> None:
    """Raise ValueError where the stages do not fit the network's levels, or its levels do not fit the resolution."""
    levels = len(config.mult)
    if resolution % (1 << (levels - 1)):
        raise ValueError(
            f"resolution {resolution} cannot be halved {levels - 1} times (network.mult has {levels} levels)"
        )
    for stage in stages:
        level_of(resolution, stage.shape[1], levels)
        level_of(resolution, stage.output_resolution, levels)


class _Level(nn.Module):
    """Blocks of one level: down path, up path, attention after each block where configured."""

    def __init__(
        self, config: NetworkConfig, width: int, attention: bool, down: bool, up: bool, embedding: int
    ) -> None:
        super().__init__()

        def block(inputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, width, embedding, config.dropout)

        def attend() -> nn.Module:
            return Attention(width, config.head_channels) if attention else nn.Identity()

        # A level that no state passes on the way down (or up) has no such blocks: every parameter is used.
        self.down = nn.ModuleList(block(width) for _ in range(config.blocks if down else 0))
        self.down_attention = nn.ModuleList(attend() for _ in self.down)
        self.up = nn.ModuleList(block(2 * width) for _ in range(config.blocks + 1 if up else 0))
        self.up_attention = nn.ModuleList(attend() for _ in self.up)


class UNet(nn.Module):
    """Any-level U-Net.

    Args:
        config: width, depth, attention.
        resolution: side of the finest images.
        stages: what enters and leaves; each distinct entry level gets an input layer, each distinct exit level an output
            layer wide enough for all stages that leave there.
        classes: number of classes of a conditional network, 0 for one that knows none.
    """

    def __init__(self, config: NetworkConfig, resolution: int, stages: Sequence[Stage], classes: int = 0) -> None:
        super().__init__()
        check_levels(config, resolution, stages)
        count = len(config.mult)
        widths = [config.channels * mult for mult in config.mult]
        self.resolution = resolution
        self.entries = [level_of(resolution, stage.shape[1], count) for stage in stages]
        self.exits = [level_of(resolution, stage.output_resolution, count) for stage in stages]
        self.outputs = [stage.outputs for stage in stages]
        self.frequency_size = config.channels
        embedding = 4 * config.channels
        self.time = nn.Sequential(nn.Linear(config.channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        # With a single stage there is nothing to tell apart.
        self.stage = nn.Embedding(len(stages), embedding) if len(stages) > 1 else None

        def at(levels: Sequence[int], sizes: Sequence[int], level: int) -> int:
            return max(size for where, size in zip(levels, sizes, strict=True) if where == level)

        first, finest = min(self.entries), min(self.exits)
        states = [stage.shape[0] for stage in stages]
        self.input = nn.ModuleDict(
            {str(e): nn.Conv2d(at(self.entries, states, e), widths[e], 3, padding=1) for e in sorted(set(self.entries))}
        )
        self.output = nn.ModuleDict(
            {
                str(e): nn.Sequential(
                    group_norm(widths[e]),
                    nn.SiLU(),
                    zero(nn.Conv2d(widths[e], at(self.exits, self.outputs, e), 3, padding=1)),
                )
                for e in sorted(set(self.exits))
            }
        )
        self.levels = nn.ModuleList(
            _Level(config, widths[l], (resolution >> l) in config.attention, l >= first, l >= finest, embedding)
            for l in range(count)
        )
        self.downsample = nn.ModuleDict({str(l): Downsample(widths[l], widths[l + 1]) for l in range(first, count - 1)})
        self.upsample = nn.ModuleDict({str(l): Upsample(widths[l + 1], widths[l]) for l in range(finest, count - 1)})
        deepest = widths[-1]
        self.middle = nn.ModuleList([ResidualBlock(deepest, deepest, embedding, config.dropout) for _ in range(2)])
        self.middle_attention = (
            Attention(deepest, config.head_channels)
            if (resolution >> (count - 1)) in config.attention
            else nn.Identity()
        )
        # Row 0 is NO_CLASS: it stays zero, which loses nothing, since the last bias of `time` serves every class. Made last,
        # so that the weights above start where those of an unconditional network do.
        self.label = nn.Embedding(classes + 1, embedding, padding_idx=0) if classes else None
        # Channels-last convolutions are faster on CPUs (1.1 to 1.4 times here) and on GPUs; values do not change.
        self.to(memory_format=torch.channels_last)

    def forward(
        self, z: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], stage: int, labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b o hs ws"]:
        """Output (B, outputs, side, side) of one stage, for states z (B, C, h, w) at times t (B,) in [0, 1].

        Args:
            labels: class of each image, or NO_CLASS; None stands for NO_CLASS everywhere.

        Raises:
            ValueError: labels for a network that knows no classes.
        """
        entry, exit_ = self.entries[stage], self.exits[stage]
        embedding = self.time(sinusoidal(t, self.frequency_size).to(z.dtype))
        if self.stage is not None:
            embedding = embedding + self.stage.weight[stage]
        if self.label is not None:
            embedding = embedding + (self.label.weight[0] if labels is None else self.label(labels + 1))
        elif labels is not None:
            raise ValueError("labels were given to a network without classes")
        embedding = silu(embedding)

        h = self.input[str(entry)](z)
        skips: dict[int, list[Tensor]] = {}
        for index in range(entry, len(self.levels)):
            level = cast(_Level, self.levels[index])
            skips[index] = [h]
            for block, attend in zip(level.down, level.down_attention, strict=True):
                h = attend(block(h, embedding))
                skips[index].append(h)
            if index + 1 < len(self.levels):
                h = self.downsample[str(index)](h)
        h = self.middle[1](self.middle_attention(self.middle[0](h, embedding)), embedding)
        for index in range(len(self.levels) - 1, exit_ - 1, -1):
            level = cast(_Level, self.levels[index])
            for block, attend in zip(level.up, level.up_attention, strict=True):
                skip = skips[index].pop() if index in skips else torch.zeros_like(h)
                h = attend(block(torch.cat([h, skip], dim=1), embedding))
            if index > exit_:
                h = self.upsample[str(index - 1)](h)
        return self.output[str(exit_)](h)[:, : self.outputs[stage]]
