"""What a job asks a scheduler for: minutes and memory, from the counted cost of its step and an assumed speed.

A request that is too small costs little: a training saves before its time ends and goes on in another job, and a job that fails
for want of time or memory comes again with twice as much. One that is too large waits longer in the queue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fdm.evaluation.budget import Budget, budget_of
from fdm.evaluation.cost_table import Rate
from fdm.experiment import Experiment

Step = Literal["pretrain", "train", "sample", "evaluate"]
SAFETY = 3.0
"""So many times the estimated seconds are asked for: other machines, small batches, neighbours."""
START_MINUTES = 10
"""Beside the work itself: starting Python from a shared disk, reading data and weights, copying results."""
THREAD_GFLOPS = 80.0
"""Reached by one thread in training: 5.9 TFLOP in 77 seconds (`digits`, DDPM, AMD EPYC); wider networks reach more."""
FEATURE_FLOPS = 12e9
"""Of one image through Inception-v3, the larger of the feature networks, at 299x299 pixels."""
BASE_MB = 3000
"""Resident memory of Python, torch and a feature network, rounded up."""


@dataclass(frozen=True)
class Demand:
    """Before any limit of the cluster: whole minutes, and megabytes (10^6) of the machine's memory, not of a card's."""

    minutes: int
    memory_mb: int


def demand_of(
    step: Step, experiment: Experiment, images: int, threads: int = 1, gpus: int = 0, shards: int = 1
) -> Demand:
    """What a job of ``step`` of ``experiment`` with one seed takes.

    Args:
        images: of the training split; the reference of the scores counts as many.
        threads: that compute where there is no card.
        gpus: cards; by ``fdm.evaluation.cost_table`` each is an A100 at 30 % of its peak.
        shards: so many jobs share the work.
    """
    budget = budget_of(experiment)
    flops = _flops(step, budget, images) / shards
    seconds = (
        3600 * Rate().hours(flops, _precision(step, budget)) / gpus if gpus else flops / (THREAD_GFLOPS * 1e9 * threads)
    )
    return Demand(
        math.ceil(START_MINUTES + SAFETY * seconds / 60), math.ceil(BASE_MB + _bytes(step, budget, images, gpus) / 1e6)
    )


def _precision(step: Step, budget: Budget) -> str:
    if step == "train":
        return budget.precision
    return budget.experiment.sampling.precision if step == "sample" else "32"


def _flops(step: Step, budget: Budget, images: int) -> float:
    experiment = budget.experiment
    if step == "pretrain":
        # The perceptual and the adversarial loss are not counted in the budget: as much again.
        return 2 * budget.autoencoder.flops if budget.autoencoder else 0.0
    if step == "train":
        return budget.training_flops
    if step == "sample":
        return budget.sampling_flops
    passes = len(experiment.evaluation.features) * FEATURE_FLOPS
    return passes * (experiment.sampling.count + min(images, experiment.evaluation.reference_limit or images))


def _bytes(step: Step, budget: Budget, images: int, gpus: int) -> float:
    """Memory that grows with the experiment."""
    dataset, sampling = budget.experiment.dataset, budget.experiment.sampling
    pixels = dataset.channels * dataset.resolution**2
    if step in ("pretrain", "train"):
        # The training split is in memory, and while a checkpoint is written the state is there a second time.
        state = 2 * 20 * budget.parameters
        return images * pixels + (state if gpus else state + budget.memory_bytes)
    weights = 2 * 4 * budget.parameters
    drawn = 2 * sampling.count * pixels
    if step == "sample":
        # More than without a backward pass.
        kept = max(part.saved for part in budget.stages) * 4 * (sampling.micro_batch or sampling.batch)
        return weights + drawn + (0 if gpus else kept)
    features = 2 * 8 * 2048 * (sampling.count + images)
    return weights + drawn + images * pixels + features
