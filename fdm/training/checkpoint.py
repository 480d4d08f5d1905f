"""What the state of a training holds beside its weights: how far it has come, and its optimiser's moments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fdm.config import Precision
from fdm.tensors import unfit


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
    raise unfit(path, "it does not say how far the training has come")


def resumed_precision(metadata: Mapping[str, str], path: Path) -> Precision:
    """The precision in which a denoiser's training began, from the metadata of its state: it goes on in that one.

    Raises:
        UserError: it is not there.
    """
    match metadata.get("precision"):
        case "32" | "bf16" as precision:
            return precision
    raise unfit(path, "it does not say in which precision the training began")


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
                raise unfit(path, f"the {key} of {name!r} is missing, or of another shape or type")
            # Moments follow their parameter, layout included. So does the step count of a fused optimiser; others keep it on the CPU.
            if key == "step":
                kept = moment.to(parameter.device) if optimizer.defaults.get("fused") else moment
            else:
                kept = torch.empty_like(parameter).copy_(moment)
            optimizer.state[parameter][key] = kept.detach()
