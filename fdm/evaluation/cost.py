"""What a run costs: FLOPs, evaluations, memory. A multiply-add counts as two operations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

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


def sampling_flops(per_stage: Mapping[int, int], plan: list[Event]) -> int:
    """FLOPs of one sample: the network evaluations of the plan."""
    return sum(per_stage[event.stage] for event in plan if isinstance(event, Move))


def training_flops(per_stage: Mapping[int, int], images: Mapping[int, int]) -> int:
    """FLOPs of training on so many images per stage: forward, and twice that for backward."""
    return sum(3 * per_stage[stage] * count for stage, count in images.items())
