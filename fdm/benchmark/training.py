"""Where the seconds of a training step go, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import one_hot

from fdm.benchmark.clock import Timing
from fdm.benchmark.subject import Subject
from fdm.device import peak_memory, stopwatch
from fdm.evaluation.cost import flops_per_evaluation
from fdm.launch import ALONE, connect
from fdm.precision import choose_precision, native_bf16
from fdm.training.images import near
from fdm.training.latents import KnownLatents
from fdm.training.loop import Trainer


@dataclass(frozen=True)
class StageTraining:
    """Seconds of the training steps of one stage, by what they were spent on.

    Attributes:
        share: of the training steps.
        flops: of the network for one image, forward and backward.
        total: a whole step, which is ``prepare``, ``passes`` and ``update``.
        prepare: batch, times, noise, transforms and targets; latents are looked up, as in a training of several epochs.
        passes: forward and backward.
        update: clipping, optimiser and average.
        fetch: part of ``prepare``: indexing and conversion of the images.
    """

    stage: int
    shape: tuple[int, int, int]
    share: float
    batch: int
    flops: int
    total: Timing
    prepare: Timing
    passes: Timing
    update: Timing
    fetch: Timing

    @property
    def overhead(self) -> float:
        """Share of a step that is neither network nor optimiser: median over rounds."""
        return self.prepare.over(self.total).median

    @property
    def images_per_second(self) -> float:
        """Median."""
        return self.batch / self.total.median

    @property
    def rate(self) -> float:
        """FLOP/s of forward and backward."""
        return self.flops * self.batch / self.passes.median

    @property
    def headroom(self) -> Timing:
        """How many times as fast batches are fetched as they are used."""
        return self.total.over(self.fetch)


@dataclass(frozen=True)
class Training:
    """All stages of one experiment."""

    stages: tuple[StageTraining, ...]
    peak_memory_bytes: int

    @property
    def seconds_per_step(self) -> float:
        """Expected, as stages are drawn by their share."""
        return sum(stage.share * stage.total.median for stage in self.stages)

    @property
    def overhead(self) -> float:
        """Share of the expected step that is neither network nor optimiser."""
        return sum(stage.share * stage.overhead * stage.total.median for stage in self.stages) / self.seconds_per_step


def measure_training(subject: Subject, rounds: int) -> Training:
    """Take ``rounds`` steps of every stage, after two that are not counted; the batch is that of the subject's images."""
    experiment, process, device = subject.experiment, subject.process, subject.device
    training = experiment.training.model_copy(update={"batch": len(subject.images), "accumulate": 1})
    experiment = experiment.model_copy(update={"training": training})
    precision = choose_precision(training.precision, experiment.network, native_bf16(device))
    latents: KnownLatents | None = None
    if subject.codec and (needed := process.pretraining()):
        flip = experiment.dataset.flip
        latents = KnownLatents(subject.codec, needed, subject.images, flip, device, "latents", shown=False)
        process.attach(latents)
    images = near(subject.images, device)
    trainer = Trainer(experiment, 0, process, connect(ALONE, device), precision, latents)
    labels = torch.zeros(len(subject.images), dtype=torch.int64) if experiment.classes else None
    shares = trainer.shares / trainer.shares.sum()
    flops = flops_per_evaluation(trainer.network, process.stages)

    def step(number: int) -> tuple[float, ...]:
        began = stopwatch(device)
        stage, parts = trainer.prepare(number, images, labels)
        parts = list(parts)
        prepared = stopwatch(device)
        trainer.differentiate(number, stage, parts)
        differentiated = stopwatch(device)
        trainer.update(number)
        updated = stopwatch(device)
        trainer.fetch(number, images)
        return (
            updated - began,
            prepared - began,
            differentiated - prepared,
            updated - differentiated,
            stopwatch(device) - updated,
        )

    stages = []
    for stage in process.stages:
        trainer.shares = one_hot(torch.tensor(stage.index), len(process.stages)).double()
        timings = Timing.columns([step(number) for number in range(rounds + 2)][2:])
        share, triple = float(shares[stage.index]), 3 * flops[stage.index]
        stages.append(StageTraining(stage.index, stage.shape, share, len(subject.images), triple, *timings))
    return Training(tuple(stages), peak_memory(device))
