"""`fdm show`: what an experiment would cost, before it is run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from rich.console import Console

from fdm.console import new_table
from fdm.evaluation.budget import Budget, budget_of
from fdm.experiment import Experiment
from fdm.networks.build import build_network
from fdm.precision import autocast, choose_precision, native_bf16
from fdm.processes import build_process

PROBE_BATCH = 8
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Speed:
    """Seconds of one image on this machine's CPU at each stage, by short trials; the autoencoder of a latent is not in it.

    Attributes:
        train: forward and backward, without the optimiser's step.
        sample: one evaluation.
    """

    budget: Budget
    batch: int
    train: tuple[float, ...]
    sample: tuple[float, ...]

    @property
    def training_seconds(self) -> float:
        """Of the whole training."""
        parts = zip(self.budget.stages, self.train, strict=True)
        return self.budget.training_images * sum(part.share * seconds for part, seconds in parts)

    @property
    def sampling_seconds(self) -> float:
        """Of all samples."""
        parts = zip(self.budget.stages, self.sample, strict=True)
        return self.budget.experiment.sampling.count * sum(part.evaluations * seconds for part, seconds in parts)


def measure(experiment: Experiment) -> Speed:
    """Time a few training and sampling passes of every stage."""
    process = build_process(experiment.method, experiment.dataset.channels, experiment.dataset.resolution)
    network = build_network(experiment.network, experiment.dataset.resolution, process, experiment.classes)
    batch = min(PROBE_BATCH, experiment.training.batch)
    states = [(torch.zeros(batch, *stage.shape), stage.index) for stage in process.stages]
    training = choose_precision(experiment.training.precision, experiment.network, native_bf16(CPU))
    sampling = experiment.sampling.precision
    return Speed(
        budget_of(experiment),
        batch,
        tuple(_seconds(network, z, stage, training, True) / batch for z, stage in states),
        tuple(_seconds(network, z, stage, sampling, False) / batch for z, stage in states),
    )


def _seconds(network: torch.nn.Module, z: torch.Tensor, stage: int, precision: str, backward: bool) -> float:
    """Best of three passes of one batch, after one to warm up."""
    times = []
    for _ in range(4):
        began = time.perf_counter()
        with torch.set_grad_enabled(backward):
            with autocast(precision, CPU):
                output = network(z, torch.zeros(len(z)), stage)
            if backward:
                output.float().square().mean().backward()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def print_estimate(experiment: Experiment) -> None:
    """Parameters, FLOPs and measured speed per stage, and the time that training and sampling would take on this machine."""
    console = Console()
    speed = measure(experiment)
    budget = speed.budget
    table = new_table(
        f"{experiment.title}: stages, from data to noise",
        "stage",
        "t",
        "state",
        "training share",
        "evaluations",
        "MFLOP / evaluation",
        "train img/s",
        "sample img/s",
    )
    for part, train, sample in zip(budget.stages, speed.train, speed.sample, strict=True):
        stage = part.stage
        table.add_row(
            str(stage.index),
            f"{stage.start:.3f} – {stage.end:.3f}",
            "×".join(map(str, stage.shape)),
            f"{part.share:.0%}",
            str(part.evaluations),
            f"{part.flops / 1e6:,.1f}",
            f"{1 / train:,.0f}",
            f"{1 / sample:,.0f}",
        )
    console.print(table)
    console.print(
        f"{budget.parameters:,} parameters · {experiment.sampling.passes * experiment.sampling.steps} evaluations and "
        f"{budget.flops_per_sample / 1e9:,.2f} GFLOP per sample (a multiply-add counts as two)\n"
        f"on this machine's CPU ({torch.get_num_threads()} threads, batches of {speed.batch}): training "
        f"≈ {speed.training_seconds / 60:,.1f} min for {experiment.training.images:,} images, "
        f"{experiment.sampling.count:,} samples ≈ {speed.sampling_seconds / 60:,.1f} min"
    )
