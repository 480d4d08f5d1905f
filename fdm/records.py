"""What a finished run says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fdm.device import device_name
from fdm.store import provenance, sealed, sha256, write_json


def make_record(
    kind: str, identity: str, outcome: dict[str, Any], device: torch.device, folder: Path, names: Sequence[str]
) -> dict[str, Any]:
    """The content of ``<kind>.json``: identity, outcome, where and by what it was made, SHA-256 of the run's files.

    Args:
        names: the run's files in ``folder``, all written; the record itself among them is passed over.
    """
    return sealed(
        {
            "kind": kind,
            "identity": identity,
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            **outcome,  # knows better where the work was done, if it was done in other processes
            "provenance": provenance(),
            "files": {name: sha256(folder / name) for name in names if name != f"{kind}.json"},
        }
    )


def complete(
    folder: Path, kind: str, identity: str, outcome: dict[str, Any], device: torch.device, names: Sequence[str]
) -> dict[str, Any]:
    """Write ``<kind>.json``, which makes the run in ``folder`` complete; returns it."""
    record = make_record(kind, identity, outcome, device, folder, names)
    write_json(folder / f"{kind}.json", record)
    return record
