"""What a run costs: FLOPs, evaluations, memory. A multiply-add counts as two operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fdm.networks.autoencoder import Autoencoder
from fdm.processes import Event, Move, Process


@torch.no_grad()
def flops_per_evaluation(network: nn.Module, process: Process) -> dict[int, int]:
    """Forward FLOPs of one image at each stage, counted by torch (convolutions, matrix products, attention)."""
    counts = {}
    device = next(network.parameters()).device
    for stage in process.stages:
        z = torch.zeros(1, *stage.shape, device=device)
        with FlopCounterMode(display=False) as counter:
            network(z, torch.zeros(1, device=device), stage.index)
        counts[stage.index] = counter.get_total_flops()
    return counts


def cost_of_run(
    network: nn.Module,
    process: Process,
    steps: int,
    batch: int,
    train: Mapping[str, Any],
    sample: Mapping[str, Any],
    passes: int = 1,
) -> dict[str, Any]:
    """``cost.json`` of a denoiser, from its network and the records of its training and sampling.

    Args:
        steps: of the sampler, each of ``passes`` network evaluations.
        batch: images per training step.
        passes: 2 where guidance evaluates the network with and without class.
    """
    per_stage = flops_per_evaluation(network, process)
    seen = {stage: count * batch for stage, count in enumerate(train["stage_steps"])}
    return {
        "parameters": train["parameters"],
        "evaluations_per_sample": passes * steps,
        "flops_per_evaluation": {str(stage): flops for stage, flops in per_stage.items()},
        "flops_per_sample": passes * sampling_flops(per_stage, process.plan(steps)),
        "seconds_per_sample": sample["seconds"] / sample["count"],
        "peak_memory_bytes": sample["peak_memory_bytes"],
        "device": sample["device"],
        "training": {
            "images": train["images"],
            "steps": train["steps"],
            "seconds": train["seconds"],
            "images_per_second": train["images"] / train["seconds"],
            "flops": training_flops(per_stage, seen),
        },
    }


def add_autoencoder(cost: dict[str, Any], model: Autoencoder, pretrain: Mapping[str, Any]) -> dict[str, Any]:
    """``cost`` with the one decoding that every sample needs, and what the autoencoder's pretraining took (its record)."""
    encode, decode = autoencoder_flops(model)
    return cost | {
        "flops_per_sample": cost["flops_per_sample"] + decode,
        "autoencoder": {
            "parameters": pretrain["parameters"],
            "encode_flops": encode,
            "decode_flops": decode,
            "images": pretrain["images"],
            "seconds": pretrain["seconds"],
        },
    }


@torch.no_grad()
def autoencoder_flops(model: Autoencoder) -> tuple[int, int]:
    """FLOPs of encoding and of decoding one image."""
    device = next(model.parameters()).device
    counts = []
    for function, shape in ((model.encode, model.shape), (model.decode, model.latent_shape)):
        with FlopCounterMode(display=False) as counter:
            function(torch.zeros(1, *shape, device=device))
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def sampling_flops(per_stage: Mapping[int, int], plan: list[Event]) -> int:
    """FLOPs of one sample: the network evaluations of the plan."""
    return sum(per_stage[event.stage] for event in plan if isinstance(event, Move))


def training_flops(per_stage: Mapping[int, int], images: Mapping[int, int]) -> int:
    """FLOPs of training on so many images per stage: forward, and twice that for backward."""
    return sum(3 * per_stage[stage] * count for stage, count in images.items())
