"""What a finished run says of itself."""

from __future__ import annotations

from typing import Any

import torch

from fdm.device import device_name
from fdm.store import provenance


def make_record(kind: str, identity: str, outcome: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The content of ``<kind>.json``: identity, outcome, where and by what it was made."""
    return {
        "kind": kind,
        "identity": identity,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        **outcome,  # knows better where the work was done, if it was done in other processes
        "provenance": provenance(),
    }
