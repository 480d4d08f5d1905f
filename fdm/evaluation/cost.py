"""What a run costs: FLOPs, evaluations, memory. A multiply-add counts as two operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fdm.config import Frozen, Spacing
from fdm.networks.autoencoder import Autoencoder
from fdm.processes import Event, Move, Pretraining, Process, Stage, build_process


@dataclass(frozen=True)
class Passes:
    """How often one training image goes through the encoder and the decoder of a pretrained autoencoder."""

    encodings: int
    decodings: int


@torch.no_grad()
def flops_per_evaluation(network: nn.Module, stages: Sequence[Stage]) -> dict[int, int]:
    """Forward FLOPs of one image at each stage, counted by torch (convolutions, matrix products, attention)."""
    counts = {}
    device = next(network.parameters()).device
    for stage in stages:
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
    spacing: Spacing = "uniform",
) -> dict[str, Any]:
    """``cost.json`` of a denoiser, from its network and the records of its training and sampling.

    Args:
        steps: of the sampler, each of ``passes`` network evaluations.
        batch: images per training step.
        passes: 2 where guidance evaluates the network with and without class.
        spacing: of the sampler's steps.
    """
    per_stage = flops_per_evaluation(network, process.stages)
    return {
        "parameters": train["parameters"],
        "evaluations_per_sample": passes * steps,
        "flops_per_evaluation": {str(stage): flops for stage, flops in per_stage.items()},
        "flops_per_sample": passes * sampling_flops(per_stage, process.plan(steps, spacing)),
        "seconds_per_sample": sample["seconds"] / sample["count"],
        "peak_memory_bytes": sample["peak_memory_bytes"],
        "device": sample["device"],
        "training": {
            "images": train["images"],
            "steps": train["steps"],
            "seconds": train["seconds"],
            "images_per_second": train["images"] / train["seconds"],
            "flops": training_flops(per_stage, images_per_stage(train, batch)),
        },
    }


def images_per_stage(train: Mapping[str, Any], batch: int) -> dict[int, int]:
    """Images that each stage has seen, by the record of a training with ``batch`` images per step."""
    return {stage: count * batch for stage, count in enumerate(train["stage_steps"])}


def add_autoencoder(
    cost: dict[str, Any],
    model: Autoencoder,
    pretrain: Mapping[str, Any],
    passes: Mapping[int, Passes],
    images: Mapping[int, int],
    encoded: int | None = None,
) -> dict[str, Any]:
    """``cost`` with the one decoding that every sample needs, and with what the autoencoder adds to training.

    Args:
        pretrain: record of the autoencoder's pretraining, whose cost is given beside that of the denoiser.
        passes: of ``autoencoder_passes``.
        images: that each stage has seen.
        encoded: as in ``passes_flops``.
    """
    encode, decode = autoencoder_flops(model)
    training = cost["training"]
    return cost | {
        "flops_per_sample": cost["flops_per_sample"] + decode,
        "training": training | {"flops": training["flops"] + passes_flops(passes, images, encode, decode, encoded)},
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


class StandIn:
    """Constant signals of the right shapes in place of an autoencoder's; counts the images that pass each way."""

    def __init__(self, needed: Pretraining) -> None:
        self.shape, self.latent_shape = needed.shape, needed.config.latent_shape(needed.shape)
        self.encodings = self.decodings = 0

    def encode(self, x: Tensor) -> Tensor:
        self.encodings += len(x)
        return torch.ones(len(x), *self.latent_shape, dtype=x.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        self.decodings += len(latents)
        return torch.ones(len(latents), *self.shape, dtype=latents.dtype)


def autoencoder_passes(method: Frozen, channels: int, resolution: int) -> dict[int, Passes]:
    """Passes through the pretrained autoencoder that making one training pair takes, at each stage; {} without one.

    Counted, not derived: every stage makes one pair with a stand-in for the autoencoder.

    Args:
        method, channels, resolution: as for ``build_process``.
    """
    plain = build_process(method, channels, resolution)
    needed = plain.pretraining()
    if needed is None:
        return {}
    image = torch.ones(1, channels, resolution, resolution)
    calibration = build_process(method, channels, resolution, codec=StandIn(needed)).calibrate(image)
    passes = {}
    for stage in plain.stages:
        counter = StandIn(needed)
        process = build_process(method, channels, resolution, calibration, counter)
        middle = torch.tensor([(stage.start + stage.end) / 2], dtype=torch.float64)
        process.example(image, middle, stage.index, torch.zeros(1, *stage.shape))
        passes[stage.index] = Passes(counter.encodings, counter.decodings)
    return passes


def passes_flops(
    passes: Mapping[int, Passes], images: Mapping[int, int], encode: int, decode: int, encoded: int | None = None
) -> int:
    """FLOPs of the autoencoder in a training on so many images per stage; it is frozen, so there is no backward.

    Args:
        encoded: how many images were encoded, once and for all; None where it happened in every pass.
    """
    if encoded is None:
        encoded = sum(count.encodings * images[stage] for stage, count in passes.items())
    return encode * encoded + decode * sum(count.decodings * images[stage] for stage, count in passes.items())


def sampling_flops(per_stage: Mapping[int, int], plan: list[Event]) -> int:
    """FLOPs of one sample: the network evaluations of the plan."""
    return sum(per_stage[event.stage] for event in plan if isinstance(event, Move))


def training_flops(per_stage: Mapping[int, int], images: Mapping[int, int]) -> int:
    """FLOPs of training on so many images per stage: forward, and twice that for backward."""
    return sum(3 * per_stage[stage] * count for stage, count in images.items())
