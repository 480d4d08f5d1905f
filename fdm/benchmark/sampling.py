"""Where the seconds of sampling go: network, noise, arithmetic of the process, transfer of the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from torch import Tensor

from fdm.benchmark.clock import Timing
from fdm.benchmark.subject import Subject
from fdm.data import to_uint8
from fdm.device import stopwatch
from fdm.evaluation.cost import flops_per_evaluation, sampling_flops
from fdm.processes import Move
from fdm.rng import sample_noise
from fdm.sampling.sampler import denoiser_of, draw
from fdm.sampling.solvers import build_solver


@dataclass(frozen=True)
class Sampling:
    """Seconds of drawing one batch, by what they were spent on.

    Attributes:
        evaluations: of the network, per image.
        flops: of the network, for one image.
        network, autoencoder, noise, transfer: parts of ``total``.
    """

    batch: int
    evaluations: int
    flops: int
    total: Timing
    network: Timing
    autoencoder: Timing
    noise: Timing
    transfer: Timing

    @property
    def arithmetic(self) -> Timing:
        """What is left: schedules, predictions, reverse steps, jumps, and the loop around them."""
        named = np.array([t.values for t in (self.network, self.autoencoder, self.noise, self.transfer)])
        return Timing(tuple(map(float, np.array(self.total.values) - named.sum(0))))

    @property
    def overhead(self) -> float:
        """Share of the time that neither the network nor the autoencoder takes: median over the rounds."""
        spent = zip(self.network.values, self.autoencoder.values, strict=True)
        return 1 - Timing(tuple(map(sum, spent))).over(self.total).median

    @property
    def seconds_per_image(self) -> float:
        """Median, in a full batch."""
        return self.total.median / self.batch

    @property
    def rate(self) -> float:
        """FLOP/s that the network reaches while it computes."""
        return self.flops * self.batch / self.network.median


def measure_sampling(subject: Subject, rounds: int) -> Sampling:
    """Draw one batch ``rounds`` times, after one time that is not counted."""
    experiment, process, device = subject.experiment, subject.process, subject.device
    config = experiment.sampling
    network = subject.network.eval()
    process = process.at_steps(config.steps)
    plan, solver, batch = process.plan(config.steps, config.spacing), build_solver(config), len(subject.images)
    denoise = denoiser_of(experiment, network, device)(range(batch))
    spent = dict.fromkeys(("network", "autoencoder"), 0.0)

    def timed_codec(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            began = stopwatch(device)
            result = function(x)
            spent["autoencoder"] += stopwatch(device) - began
            return result

        return call

    if subject.codec:
        codec = SimpleNamespace(encode=timed_codec(subject.codec.encode), decode=timed_codec(subject.codec.decode))
        process.attach(codec)

    def timed(z: Tensor, t: float, stage: int) -> Tensor:
        began = stopwatch(device)
        output = denoise(z, t, stage)
        spent["network"] += stopwatch(device) - began
        return output

    rows = []
    for number in range(rounds + 1):
        spent.update(network=0.0, autoencoder=0.0)
        began = stopwatch(device)
        images = draw(process, timed, solver, plan, number, range(batch), clip=config.clip, device=device)
        drawn = stopwatch(device)
        to_uint8(images).cpu()
        transferred = stopwatch(device)
        # The same draws once more, alone.
        sample_noise(number, range(batch), 0, process.stages[-1].shape, device=device)
        for index, event in enumerate(plan, start=1):
            if process.needs_noise(event, solver.eta):
                sample_noise(number, range(batch), index, process.shape_after(event), device=device)
        noise = stopwatch(device) - transferred
        if number:
            rows.append((transferred - began, spent["network"], spent["autoencoder"], noise, transferred - drawn))
    if subject.codec:
        process.attach(subject.codec)
    return Sampling(
        batch,
        config.passes * sum(isinstance(event, Move) for event in plan),
        config.passes * sampling_flops(flops_per_evaluation(network, process.stages), plan),
        *Timing.columns(rows),
    )
