"""The one sampler loop: from noise to images, in batches and shards that do not change the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fdm.config import Precision
from fdm.experiment import Experiment
from fdm.networks.compilation import compile_network
from fdm.networks.unet import NO_CLASS
from fdm.precision import autocast
from fdm.processes import Event, Move, Process
from fdm.rng import sample_noise
from fdm.sampling.classes import class_cycle, classes_of
from fdm.sampling.solvers import Denoiser, Solver, State
from fdm.store import write_arrays

TRAJECTORY_FRAMES = 12

Observer = Callable[[Move, State], None]


def network_denoiser(
    network: torch.nn.Module,
    device: torch.device | str,
    labels: Int[Tensor, " b"] | None = None,
    guidance: float = 1.0,
    precision: Precision = "32",
    pixels: int | None = None,
) -> Denoiser:
    """The network as the solver calls it: one time for the whole batch.

    Args:
        pixels: of all states of one call of the network, at most; None for the whole batch at once. Memory then is level over the
            stages, and small stages still fill the machine.
        labels: class of each sample of the batch; None evaluates an unconditional network, or a conditional one without class.
        guidance: w of uncond + w (cond - uncond), which is valid for every target because all are affine in the data
            for a given state. [CFG] w = 1 and w = 0 evaluate one of the two alone, anything else both in one doubled batch.
    """

    def denoise(z: Tensor, t: float, stage: int) -> Tensor:
        size = max(1, pixels // (z.shape[2] * z.shape[3])) if pixels else len(z)
        with autocast(precision, torch.device(device)):
            if size >= len(z):
                return evaluate(z, t, stage, labels)
            told = repeat(None) if labels is None else labels.split(size)
            return torch.cat([evaluate(part, t, stage, own) for part, own in zip(z.split(size), told, strict=False)])

    def evaluate(z: Tensor, t: float, stage: int, labels: Tensor | None) -> Tensor:
        times = torch.full((len(z),), t, dtype=torch.float32, device=device)
        output: Tensor
        if labels is None or guidance == 0:
            output = network(z, times, stage)
        elif guidance == 1:
            output = network(z, times, stage, labels)
        else:
            told = torch.cat([labels, torch.full_like(labels, NO_CLASS)])
            with_class, without = network(z.repeat(2, 1, 1, 1), times.repeat(2), stage, told).float().chunk(2)
            output = without + guidance * (with_class - without)
        # A copy: CUDA graphs write all outputs to the same memory, and solvers keep predictions.
        return output.to(torch.float32, copy=True)

    return denoise


def class_denoiser(
    network: torch.nn.Module,
    device: torch.device | str,
    cycle: Sequence[int],
    guidance: float,
    precision: Precision = "32",
    pixels: int | None = None,
) -> Callable[[Sequence[int]], Denoiser]:
    """Global sample indices -> their denoiser: sample i has class ``cycle[i mod len]``, or none where the cycle is empty."""

    def denoiser(samples: Sequence[int]) -> Denoiser:
        labels = torch.tensor(classes_of(cycle, samples), device=device) if cycle else None
        return network_denoiser(network, device, labels, guidance, precision, pixels)

    return denoiser


def denoiser_of(
    experiment: Experiment, network: torch.nn.Module, device: torch.device
) -> Callable[[Sequence[int]], Denoiser]:
    """``class_denoiser`` with the classes, guidance, precision and micro-batches of an experiment's sampling.

    ``network`` is compiled in place where sampling says so.
    """
    config = experiment.sampling
    pixels = config.micro_batch and config.micro_batch * experiment.dataset.resolution**2
    cycle = class_cycle(config, experiment.classes)
    if config.compile:
        compile_network(network, graphs=True)
    return class_denoiser(network, device, cycle, config.guidance, config.precision, pixels)


@torch.inference_mode()
def draw(
    process: Process,
    denoise: Denoiser,
    solver: Solver,
    plan: Sequence[Event],
    seed: int,
    samples: Sequence[int],
    *,
    clip: bool = True,
    device: torch.device | str = "cpu",
    observe: Observer | None = None,
    tick: Callable[[], None] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Images (B, C, H, W) for the given global sample indices.

    Args:
        samples: indices; noise depends on (seed, index, event) alone.
        observe: called in each move, with the move, the state before it and the prediction made there.
        tick: called after every event.
    """

    def noise(event: int, shape: Sequence[int]) -> Tensor:
        return sample_noise(seed, samples, event, shape, device=device)

    state = State(process.prior(noise(0, process.stages[-1].shape)))
    for number, event in enumerate(plan, start=1):
        needed = process.needs_noise(event, solver.eta)
        fresh = noise(number, process.shape_after(event)) if needed else torch.zeros(())
        before = state
        state = solver.advance(process, denoise, state, event, fresh, clip=clip)
        if observe and isinstance(event, Move):
            observe(event, State(before.z, state.prediction, event))
        if tick:
            tick()
    return process.finish(state.z)


class Trajectory:
    """Records z and the denoised signal at about ``TRAJECTORY_FRAMES`` moves, evenly spread, first and last included."""

    def __init__(self, plan: Sequence[Event]) -> None:
        moves = [event for event in plan if isinstance(event, Move)]
        chosen = np.unique(np.linspace(0, len(moves) - 1, TRAJECTORY_FRAMES).round().astype(int))
        self._wanted = {moves[index] for index in chosen}
        self.times: list[float] = []
        self.stages: list[int] = []
        self.frames: dict[str, Any] = {}

    def __call__(self, move: Move, state: State) -> None:
        if move not in self._wanted:
            return
        assert state.prediction is not None
        index = len(self.times)
        self.times.append(move.t)
        self.stages.append(move.stage)
        self.frames[f"z_{index}"] = state.z.half().cpu().numpy()
        self.frames[f"x_{index}"] = state.prediction.clean.half().cpu().numpy()

    def save(self, path: Path) -> None:
        """Write ``t``, ``stage``, ``z_<j>`` and ``x_<j>``."""
        arrays = {"t": np.array(self.times), "stage": np.array(self.stages), **self.frames}
        write_arrays(path, arrays, compressed=True)
