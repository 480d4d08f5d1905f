"""Checkpoints as single safetensors files: nothing in them is unpickled, and one rename makes them complete."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from fdm.config import Precision
from fdm.errors import UserError
from fdm.plain import read_json
from fdm.store import write_atomic


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata atomically.

    Raises:
        UserError: no space or no permission; what was at ``path`` before is still there.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
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
            raise _unfit(path, f"its tensor {name!r} is {given.get(name)}, this experiment has {own.get(name)}")
        if not tensors[name].isfinite().all():
            raise _unfit(path, f"its tensor {name!r} has values that are not finite")
    module.load_state_dict(dict(tensors))


def resume_point(metadata: Mapping[str, str], path: Path) -> tuple[int, float, str]:
    """Steps taken, seconds spent and digest of the log, from the metadata of a training's state.

    Raises:
        UserError: they are not there.
    """
    try:
        step, seconds, log = int(metadata["step"]), float(metadata["seconds"]), str(metadata["log"])
        if step >= 0 and 0 <= seconds < math.inf:
            return step, seconds, log
    except (KeyError, TypeError, ValueError):
        pass
    raise _unfit(path, "it does not say how far the training has come")


def resumed_precision(metadata: Mapping[str, str], path: Path) -> Precision:
    """The precision in which a denoiser's training began, from the metadata of its state: it goes on in that one.

    Raises:
        UserError: it is not there.
    """
    match metadata.get("precision"):
        case "32" | "bf16" as precision:
            return precision
    raise _unfit(path, "it does not say in which precision the training began")


def _unfit(path: Path, what: str) -> UserError:
    return UserError(f"{path}: damaged checkpoint: {what}; delete it to start this run again")


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and values; about a second for 1 GB."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """AdamW's moments and step counts, named after their parameters."""
    return {
        f"optimizer.{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor], path: Path) -> None:
    """The inverse of ``optimizer_tensors``; ``path`` is where the tensors come from.

    Raises:
        UserError: a parameter has some of its moments only, or one of another shape or type than itself.
    """
    for name, parameter in model.named_parameters():
        own = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
        found = {key: tensors[f"optimizer.{key}.{name}"] for key in own if f"optimizer.{key}.{name}" in tensors}
        if not found:
            continue  # no step has reached it yet
        for key, like in own.items():
            moment = found.get(key)
            if moment is None or moment.shape != like.shape or moment.dtype != like.dtype:
                raise _unfit(path, f"the {key} of {name!r} is missing, or of another shape or type")
            # Moments follow their parameter, layout included. So does the step count of a fused optimiser; others keep it on the CPU.
            if key == "step":
                kept = moment.to(parameter.device) if optimizer.defaults.get("fused") else moment
            else:
                kept = torch.empty_like(parameter).copy_(moment)
            optimizer.state[parameter][key] = kept.detach()
