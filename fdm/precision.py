"""Float32, or bfloat16 in the passes of a network (weights, optimiser and losses stay in float32)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from fdm.config import NetworkConfig, Precision

WIDE = 64
"""Channels of the first level from which bfloat16 is faster; narrower networks lose by the conversions (docs/performance.md)."""


def choose_precision(asked: str, network: NetworkConfig, native: bool) -> Precision:
    """What "auto", "32" or "bf16" means for ``network`` on a machine that has bfloat16 units, or has not."""
    if asked == "auto":
        return "bf16" if native and network.channels >= WIDE else "32"
    return "bf16" if asked == "bf16" else "32"


def native_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies in bfloat16 itself: NVIDIA from Ampere on, x86 with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public name for it: ``torch.backends.cpu`` tells AVX-512 from AVX2 only.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context of a network's call."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """The context of what autocast would compute in float32 on a GPU, and leaves in bfloat16 on a CPU."""
    return torch.autocast("cuda", enabled=False) if device.type == "cuda" else nullcontext()
