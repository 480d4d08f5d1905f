"""Where the seconds of sampling go: network, noise, arithmetic of the process, transfer of the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

from fdm.benchmark.clock import Timing, unsplit
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
    def per_image(self) -> Timing:
        """Seconds of one image, in a full batch."""
        return Timing(tuple(seconds / self.batch for seconds in self.total.values))

    @property
    def seconds_per_image(self) -> float:
        """Median."""
        return self.per_image.median

    @property
    def rate(self) -> float:
        """FLOP/s that the network reaches while it computes."""
        return self.flops * self.batch / self.network.median


class _Clock:
    """Draws batches of one subject and keeps what the time went to."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.config = subject, subject.experiment.sampling
        self.process = subject.process.at_steps(self.config.steps)
        self.network = subject.network.eval()
        self.plan, self.solver = self.process.plan(self.config.steps, self.config.spacing), build_solver(self.config)
        self.samples = range(len(subject.images))
        self.rows: list[tuple[float, ...]] = []
        self._denoise = denoiser_of(subject.experiment, self.network, subject.device)(self.samples)
        self._spent = {"network": 0.0, "autoencoder": 0.0}

    def _timed(self, part: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: Any) -> Tensor:
            began = stopwatch(self.subject.device)
            result = function(*arguments)
            self._spent[part] += stopwatch(self.subject.device) - began
            return result

        return call

    def draw(self, number: int, counted: bool) -> None:
        """One batch, with noise of its own."""
        subject, device, samples = self.subject, self.subject.device, self.samples
        self._spent = dict.fromkeys(self._spent, 0.0)
        if codec := subject.codec:
            timed = SimpleNamespace(
                encode=self._timed("autoencoder", codec.encode), decode=self._timed("autoencoder", codec.decode)
            )
            self.process.attach(timed)
        began = stopwatch(device)
        images = self._images(number, self._timed("network", self._denoise))
        drawn = stopwatch(device)
        to_uint8(images).cpu()
        transferred = stopwatch(device)
        # The same draws once more, alone.
        sample_noise(number, samples, 0, self.process.stages[-1].shape, device=device)
        for index, event in enumerate(self.plan, start=1):
            if self.process.needs_noise(event, self.solver.eta):
                sample_noise(number, samples, index, self.process.shape_after(event), device=device)
        noise = stopwatch(device) - transferred
        if codec:
            self.process.attach(codec)
        row = (transferred - began, *self._spent.values(), noise, transferred - drawn)
        row = unsplit(row, lambda: to_uint8(self._images(number, self._denoise)).cpu(), device)
        if counted:
            self.rows.append(row)

    def _images(self, number: int, denoise: Callable[..., Tensor]) -> Tensor:
        clip, device = self.config.clip, self.subject.device
        return draw(self.process, denoise, self.solver, self.plan, number, self.samples, clip=clip, device=device)

    def result(self) -> Sampling:
        """What was kept."""
        passes = self.config.passes
        return Sampling(
            len(self.samples),
            passes * sum(isinstance(event, Move) for event in self.plan),
            passes * sampling_flops(flops_per_evaluation(self.network, self.process.stages), self.plan),
            *Timing.columns(self.rows),
        )


def measure_sampling(subjects: Sequence[Subject], rounds: int) -> list[Sampling]:
    """Draw one batch of each subject in turn, ``rounds`` times, after one time that is not counted."""
    clocks = [_Clock(subject) for subject in subjects]
    for number in range(rounds + 1):
        first = number % len(clocks)  # no subject is always the one after the pause
        for clock in (*clocks[first:], *clocks[:first]):
            clock.draw(number, counted=number > 0)
    return [clock.result() for clock in clocks]
