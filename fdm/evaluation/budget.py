"""What an experiment would take: FLOPs, parameters and memory, counted on torch's meta device, which computes nothing.

No weights and no data are needed, so a network for 256x256 pixels costs as little to count as one for 8x8. A multiply-add
counts as two operations; a backward pass as two forward passes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from fdm.config import NetworkConfig, Precision
from fdm.evaluation.cost import (
    Passes,
    autoencoder_flops,
    autoencoder_passes,
    flops_per_evaluation,
)
from fdm.experiment import Experiment
from fdm.networks.autoencoder import Autoencoder
from fdm.networks.build import build_network
from fdm.networks.unet import UNet
from fdm.precision import choose_precision
from fdm.processes import Move, Pretraining, Process, Stage, build_process

STATE_COPIES = 5
"""Numbers of 4 bytes kept per weight while training: weight, gradient, the optimiser's two moments, the moving average."""


@dataclass(frozen=True)
class StageBudget:
    """What one stage takes.

    Attributes:
        share: of the training images.
        evaluations: of the network for one sample.
        flops: of one evaluation of one image, forward.
        saved: numbers kept for the backward pass of one image.
        passes: through the autoencoder, for one training image.
    """

    stage: Stage
    share: float
    evaluations: int
    flops: int
    saved: int
    passes: Passes


@dataclass(frozen=True)
class AutoencoderBudget:
    """What the pretrained autoencoder of an experiment takes; experiments with equal ``key`` share one."""

    key: Hashable
    parameters: int
    encode_flops: int
    decode_flops: int
    images: int

    @property
    def flops(self) -> int:
        """Of the pretraining: encoder and decoder, forward and backward; perceptual and adversarial losses come on top."""
        return 3 * (self.encode_flops + self.decode_flops) * self.images


@dataclass(frozen=True)
class Budget:
    """What one run (one experiment, one seed) takes."""

    experiment: Experiment
    parameters: int
    stages: tuple[StageBudget, ...]
    autoencoder: AutoencoderBudget | None

    @property
    def training_images(self) -> int:
        """Images seen, whole steps."""
        return self.experiment.training.steps * self.experiment.training.batch

    @property
    def training_flops(self) -> float:
        """Expected: stages are drawn by their frequency. The network forward and backward, the frozen autoencoder forward.

        As if every training pair were encoded anew; where images are encoded once (``fdm.training.latents``) it is less, but how many
        there are is not known without the data.
        """
        per_image = sum(part.share * 3 * part.flops for part in self.stages)
        if self.autoencoder:
            for part in self.stages:
                encode = part.passes.encodings * self.autoencoder.encode_flops
                per_image += part.share * (encode + part.passes.decodings * self.autoencoder.decode_flops)
        return per_image * self.training_images

    @property
    def flops_per_sample(self) -> int:
        """All evaluations of the plan, and the decoding of a latent."""
        evaluations = sum(part.evaluations * part.flops for part in self.stages)
        return evaluations + (self.autoencoder.decode_flops if self.autoencoder else 0)

    @property
    def sampling_flops(self) -> int:
        """Of all samples."""
        return self.flops_per_sample * self.experiment.sampling.count

    @property
    def precision(self) -> Precision:
        """Of the training, on a card that has bfloat16."""
        return choose_precision(self.experiment.training.precision, self.experiment.network, True)

    @property
    def memory_bytes(self) -> float:
        """Of training on one card: weights and all that is kept beside them, and the activations of one micro-batch.

        Activations are what autograd keeps at the stage that needs most. Under bf16 they have 2 bytes instead of 4, and each
        weight has a copy of 2 bytes. Workspaces, fragmentation and the data are not in it.
        """
        training = self.experiment.training
        half = self.precision == "bf16"
        kept = max(part.saved for part in self.stages) * (training.batch // training.accumulate)
        frozen = 4 * self.autoencoder.parameters if self.autoencoder else 0
        return self.parameters * (4 * STATE_COPIES + 2 * half) + kept * (2 if half else 4) + frozen


def budget_of(experiment: Experiment) -> Budget:
    """Count what ``experiment`` takes; nothing is trained, and neither data nor weights are read."""
    dataset = experiment.dataset
    process = build_process(experiment.method, dataset.channels, dataset.resolution)
    moves = [
        event.stage
        for event in process.plan(experiment.sampling.steps, experiment.sampling.spacing)
        if isinstance(event, Move)
    ]
    evaluations = [experiment.sampling.passes * moves.count(stage.index) for stage in process.stages]
    counts = [_evaluation(experiment.network, *_alone(stage, process, dataset.resolution)) for stage in process.stages]
    passes = autoencoder_passes(experiment.method, dataset.channels, dataset.resolution)
    frequencies = sum(stage.frequency for stage in process.stages)
    return Budget(
        experiment,
        _parameters(experiment, process),
        tuple(
            StageBudget(
                stage,
                stage.frequency / frequencies,
                evaluations[stage.index],
                *counts[stage.index],
                passes.get(stage.index, Passes(0, 0)),
            )
            for stage in process.stages
        ),
        _autoencoder(process.pretraining()),
    )


def _parameters(experiment: Experiment, process: Process) -> int:
    with torch.device("meta"):
        network = build_network(experiment.network, experiment.dataset.resolution, process, experiment.classes)
    return sum(parameter.numel() for parameter in network.parameters())


def _alone(stage: Stage, process: Process, resolution: int) -> tuple[int, Stage]:
    """What the network's path through ``stage`` depends on: its finest resolution, and the stage.

    Layers that stages share are wide enough for all of them; a stage with a network of its own shares none.
    """
    stages: Sequence[Stage] = process.stages
    if not process.shared_network:
        stages, resolution = (stage,), stage.output_resolution
    inputs = max(s.shape[0] for s in stages if s.shape[1:] == stage.shape[1:])
    outputs = max(s.outputs for s in stages if s.output_resolution == stage.output_resolution)
    return resolution, Stage(0, 0.0, 1.0, (inputs, *stage.shape[1:]), outputs, stage.output_resolution)


@cache
def _evaluation(config: NetworkConfig, resolution: int, stage: Stage) -> tuple[int, int]:
    """FLOPs and kept numbers of one image, for a network of this one stage. Experiments of a suite share many of them."""
    with torch.device("meta"):
        network = UNet(config, resolution, (stage,))
    return flops_per_evaluation(network, (stage,))[0], saved_numbers(network, stage)


def saved_numbers(network: UNet, stage: Stage) -> int:
    """Numbers that autograd keeps for the backward pass of one image, each buffer once, without the parameters."""
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    buffers: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            buffers[storage._cdata] = storage.nbytes() // x.element_size()
        return x

    device = next(network.parameters()).device
    z, t = torch.zeros(1, *stage.shape, device=device), torch.zeros(1, device=device)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        output = network(z, t, stage.index)
    assert output.requires_grad  # and holds the graph until here, so that no buffer's address is used twice
    return sum(buffers.values())


def _autoencoder(needed: Pretraining | None) -> AutoencoderBudget | None:
    if needed is None:
        return None
    with torch.device("meta"):
        model = Autoencoder(needed.config, needed.shape)
    encode, decode = autoencoder_flops(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    images = needed.config.steps * needed.config.batch
    return AutoencoderBudget((needed.config, needed.shape, needed.before), parameters, encode, decode, images)
