"""What this machine can do at most: convolutions and matrix products with nothing around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import conv2d

from fdm.benchmark.clock import alternate

CONVOLUTIONS = ((16, 128, 64), (16, 256, 32), (16, 512, 16))
"""(images, channels in and out, side) of 3x3 convolutions such as U-Nets are made of; the best of them is the ceiling."""
MATRIX = 2048
PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Ceiling:
    """FLOP/s reached in one precision; a multiply-add counts as two."""

    precision: str
    convolution: float
    matrix: float


def measure_ceiling(device: torch.device, rounds: int = 5) -> list[Ceiling]:
    """The ceilings of ``device`` in float32 and bfloat16, at torch's present number of threads."""
    return [_ceiling(name, dtype, device, rounds) for name, dtype in PRECISIONS.items()]


@torch.inference_mode()
def _ceiling(precision: str, dtype: torch.dtype, device: torch.device, rounds: int) -> Ceiling:
    tasks: dict[str, Callable[[], object]] = {}
    flops: dict[str, float] = {}
    for images, channels, side in CONVOLUTIONS:
        name = f"conv {channels}@{side}"
        tasks[name] = _convolution(images, channels, side, dtype, device)
        flops[name] = 2 * 9 * images * channels**2 * side**2
    left = torch.randn(MATRIX, MATRIX, device=device, dtype=dtype)
    tasks["matrix"] = lambda: left @ left
    flops["matrix"] = 2 * MATRIX**3
    # The fastest call: a ceiling is what the machine can do, not what it does on average.
    rates = {name: flops[name] / min(timing.values) for name, timing in alternate(tasks, rounds, device).items()}
    matrix = rates.pop("matrix")
    return Ceiling(precision, max(rates.values()), matrix)


def _convolution(
    images: int, channels: int, side: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    x = torch.randn(images, channels, side, side, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    return lambda: conv2d(x, weight, padding=1)
