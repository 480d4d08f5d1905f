"""`fdm show`: what an experiment would cost, before it is run."""

from __future__ import annotations

import time

import torch
from rich.console import Console
from rich.table import Table

from fdm.evaluation.cost import flops_per_evaluation, sampling_flops
from fdm.experiment import Experiment
from fdm.networks.build import build_network
from fdm.processes import Move, build_process

PROBE_BATCH = 8


def _seconds(network: torch.nn.Module, z: torch.Tensor, stage: int, backward: bool) -> float:
    """Best of three passes of one batch, after one to warm up."""
    times = []
    for _ in range(4):
        began = time.perf_counter()
        with torch.set_grad_enabled(backward):
            output = network(z, torch.zeros(len(z)), stage)
            if backward:
                output.square().mean().backward()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def print_estimate(experiment: Experiment, console: Console | None = None) -> None:
    """Parameters, FLOPs and measured speed per stage, and the time that training and sampling would take on this machine."""
    console = console or Console()
    process = build_process(experiment.method, experiment.dataset.channels, experiment.dataset.resolution)
    network = build_network(experiment.network, experiment.dataset.resolution, process, experiment.classes)
    per_stage = flops_per_evaluation(network, process)
    plan, passes = process.plan(experiment.sampling.steps), experiment.sampling.passes
    moves = [event.stage for event in plan if isinstance(event, Move)]
    evaluations = [passes * moves.count(stage.index) for stage in process.stages]
    batch = min(PROBE_BATCH, experiment.training.batch)

    table = Table(title=f"{experiment.title}: stages, from data to noise")
    for name in (
        "stage",
        "t",
        "state",
        "training share",
        "evaluations",
        "MFLOP / evaluation",
        "train img/s",
        "sample img/s",
    ):
        table.add_column(name, justify="left" if name in ("stage", "t", "state") else "right")
    training = sampling = 0.0
    frequencies = sum(stage.frequency for stage in process.stages)
    for stage, count in zip(process.stages, evaluations, strict=True):
        z = torch.zeros(batch, *stage.shape)
        train, infer = _seconds(network, z, stage.index, True) / batch, _seconds(network, z, stage.index, False) / batch
        share = stage.frequency / frequencies
        training += share * train * experiment.training.images
        sampling += count * infer
        table.add_row(
            str(stage.index),
            f"{stage.start:.3f} – {stage.end:.3f}",
            "×".join(map(str, stage.shape)),
            f"{share:.0%}",
            str(count),
            f"{per_stage[stage.index] / 1e6:,.1f}",
            f"{1 / train:,.0f}",
            f"{1 / infer:,.0f}",
        )
    console.print(table)
    count = experiment.sampling.count
    console.print(
        f"{sum(p.numel() for p in network.parameters()):,} parameters · {passes * experiment.sampling.steps} evaluations and "
        f"{passes * sampling_flops(per_stage, plan) / 1e9:,.2f} GFLOP per sample (a multiply-add counts as two)\n"
        f"on this machine's CPU ({torch.get_num_threads()} threads, batches of {batch}): training "
        f"≈ {training / 60:,.1f} min for {experiment.training.images:,} images, {count:,} samples ≈ {count * sampling / 60:,.1f} min"
    )
