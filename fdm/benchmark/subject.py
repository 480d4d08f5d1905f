"""What is timed: an experiment's process and network with random weights, which cost what trained ones do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fdm.data import to_float
from fdm.evaluation.cost import StandIn
from fdm.experiment import Experiment
from fdm.networks.autoencoder import Autoencoder
from fdm.networks.build import build_network
from fdm.processes import Process, build_process

CALIBRATION_IMAGES = 16


@dataclass(frozen=True)
class Subject:
    """An experiment ready to be timed.

    Attributes:
        codec: the autoencoder of its process, or None.
        images: (B, C, H, W) uint8 noise, on the CPU.
    """

    experiment: Experiment
    process: Process
    network: nn.Module
    codec: Autoencoder | None
    images: Tensor
    device: torch.device


def subject_of(experiment: Experiment, batch: int, device: torch.device) -> Subject:
    """Build ``experiment`` for batches of ``batch`` images; an autoencoder that it needs has random weights too."""
    dataset = experiment.dataset
    generator = torch.Generator().manual_seed(0)
    shape = (max(batch, CALIBRATION_IMAGES), dataset.channels, dataset.resolution, dataset.resolution)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    needed = build_process(experiment.method, dataset.channels, dataset.resolution).pretraining()
    codec = Autoencoder(needed.config, needed.shape).to(device).eval().requires_grad_(False) if needed else None
    # Random weights may give constant latents, which cannot be calibrated; a constant stand-in of power 1 can.
    calibrating = StandIn(needed) if needed else None
    calibration = build_process(experiment.method, dataset.channels, dataset.resolution, codec=calibrating).calibrate(
        to_float(images)
    )
    process = build_process(experiment.method, dataset.channels, dataset.resolution, calibration, codec)
    network = build_network(experiment.network, dataset.resolution, process, experiment.classes)
    return Subject(experiment, process, network.to(device), codec, images[:batch], device)
