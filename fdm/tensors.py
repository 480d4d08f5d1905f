"""Weights and features as single safetensors files: nothing in them is unpickled, and one rename makes them complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fdm.errors import UserError
from fdm.plain import read_json
from fdm.store import write_atomic


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata atomically.

    Raises:
        UserError: no space or no permission; what was at ``path`` before is still there.
    """
    # Put in order where they are: a GPU does it at once.
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    # One key: the format keeps keys in no fixed order, and equal content should be equal bytes.
    header = {"fdm": json.dumps({**metadata, "sha256": _digest(plain, metadata)}, sort_keys=True)}
    write_atomic(path, lambda part: save_file(plain, part, header))


def load_tensors(path: Path, identity: str, verb: str = "train") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file that ``save_tensors`` wrote for the run ``identity``; ``verb`` is the command that makes it.

    Raises:
        UserError: missing, truncated, not a safetensors file, or of another run.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; run `fdm {verb}` for this experiment and seed first")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = read_json((file.metadata() or {}).get("fdm", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if not isinstance(metadata, dict):
            raise ValueError("its metadata are no mapping")
        # The format itself notices a missing end, but no changed bit.
        if metadata.pop("sha256", None) != _digest(tensors, metadata):
            raise ValueError("its SHA-256 is not the recorded one")
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: truncated or damaged checkpoint ({error}); delete it to start this run again"
        ) from None
    if metadata.get("identity") != identity:
        raise UserError(
            f"{path}: this checkpoint belongs to another experiment (run {metadata.get('identity')}, wanted {identity}); "
            f"{verb} again or use the experiment that it was made with"
        )
    return tensors, metadata


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose name starts with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a module the tensors of ``path``, which must be all of its own and nothing else.

    Raises:
        UserError: another name, shape or type than the module has, or a value that is not finite.
    """
    own = {name: (tuple(value.shape), value.dtype) for name, value in module.state_dict().items()}
    given = {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}
    for name in (*own, *given):
        if own.get(name) != given.get(name):
            raise unfit(path, f"its tensor {name!r} is {given.get(name)}, this experiment has {own.get(name)}")
        if not tensors[name].isfinite().all():
            raise unfit(path, f"its tensor {name!r} has values that are not finite")
    module.load_state_dict(dict(tensors))


def unfit(path: Path, what: str) -> UserError:
    """The error of a checkpoint whose content is not what this experiment needs."""
    return UserError(f"{path}: damaged checkpoint: {what}; delete it to start this run again")


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and values; about a second for 1 GB."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
