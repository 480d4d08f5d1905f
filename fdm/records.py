"""What a finished run says of itself."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from fdm.store import provenance


def make_record(kind: str, identity: str, outcome: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The content of ``<kind>.json``: identity, outcome, where and by what it was made."""
    return {
        "kind": kind,
        "identity": identity,
        **outcome,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "provenance": provenance(),
    }


def device_name(device: torch.device) -> str:
    """The card's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
