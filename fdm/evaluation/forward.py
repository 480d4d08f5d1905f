"""What a process does to images, apart from any network: signal over noise, information, noisy images, oracle error.

Information is in closed form for the oracle's Gaussian images x ~ N(0, C): with z = S x + N eps,

    I(z; x) = 1/2 log2 det(I + (N N^T)^{-1} S C S^T)  bits,

S and N being the maps of ``Process.example``. A smaller image of z, B z, has I(B z; x) <= I(z; x); where both agree the
finer pixels of z say nothing about x. A clean image has infinite information, one of 8 bits per pixel has not: rounding
adds noise of variance q = (2 / 255)^2 / 12, so that I = 1/2 log2 det(I + B C B^T / q).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fdm.config import Frozen, SamplingConfig
from fdm.evaluation.oracle import Covariance, ExactDenoiser, calibration_images, image_covariance, verify
from fdm.operators import box
from fdm.processes import Process, Stage, build_process
from fdm.sampling.solvers import build_solver
from fdm.store import write_arrays

POINTS = 32
"""Times over [0, 1], shared out among the stages by length; every stage gets both its ends."""
SHOWN = 2
SIDE = 16
"""Of the Gaussian images, pixels: what `fdm verify` takes."""
ORACLE_SIDE = 8
ORACLE_STEPS = (10, 30, 100, 300)
"""The error of every experiment's own solver, on images small enough for every evaluation to afford it."""
EARLIEST = 1e-3
"""First time that is looked at, after that of data, where there is no noise and signal over noise is infinite."""
QUANTISATION = (2 / 255) ** 2 / 12
"""Variance of rounding [-1, 1] to 256 levels."""


def write_forward(
    path: Path, process: Process, method: Frozen, sampling: SamplingConfig, images: Float[Tensor, "b c h w"]
) -> None:
    """``forward.npz`` of a process that may be used (calibrated, with its autoencoder) and a few training images.

    ``t``, ``stage``, ``energy`` (total signal energy over noise variance) and ``dimension``, all (F,); ``information`` (F, L),
    bits in the state and in the state made 2, 4, … times smaller, NaN where it has no such size, F = 0 where there is no
    closed form; ``oracle_steps`` and ``oracle_error``, E(N) of the experiment's solver on 8x8 images, and ``oracle_floor``, its structural limit (not a number: none); ``image_side`` and ``image_information`` (L,), of clean 8-bit images. ``frame_t``, ``frame_stage`` and
    ``z_<j>``: noisy states of the first images at start, middle and end of each stage, with the same noise for every method.
    """
    moments = [(float(t), stage) for stage in process.stages if stage.length > 0 for t in _times(process, stage)]
    arrays: dict[str, np.ndarray] = {
        "t": np.array([t for t, _ in moments]),
        "stage": np.array([stage.index for _, stage in moments]),
        "dimension": np.array([float(np.prod(_own(stage))) for _, stage in moments]),
        "energy": np.array([_energy(process, images, t, stage) for t, stage in moments]),
        **_information(method, images.shape[1], min(SIDE, images.shape[-1]), moments),
        **_oracle(method, sampling, images.shape[1], min(ORACLE_SIDE, images.shape[-1])),
    }
    frames = [
        (max(stage.start + share * stage.length, _first(process, stage)), stage)
        for stage in process.stages
        if stage.length > 0
        for share in (0.0, 0.5, 1.0)
    ]
    arrays |= {"frame_t": np.array([t for t, _ in frames]), "frame_stage": np.array([s.index for _, s in frames])}
    for j, (t, stage) in enumerate(frames):
        x = images[:SHOWN]
        z = process.example(x, _full(t, x), stage.index, _noise(stage, x)).z
        arrays[f"z_{j}"] = z.cpu().numpy().astype(np.float16)
    write_arrays(path, arrays, compressed=True)


def state_information(maps: tuple[Tensor, Tensor], covariance: Covariance) -> float:
    """I(z; x) in bits for z = S x + N eps; ``maps`` are S (c, m, n) and N (c, m, m)."""
    signal, noise = maps
    own = noise @ noise.mT
    both = own + signal @ covariance @ signal.mT
    # Float64 rounding can leave a little less than nothing at t = 1.
    return max(float(torch.logdet(both).sum() - torch.logdet(own).sum()) / (2 * np.log(2)), 0.0)


def image_information(covariance: Covariance, side: int, small: int) -> float:
    """Bits in a clean 8-bit image of ``small`` pixels a side, averaged from one of ``side``."""
    down = _down(side, small)
    identity = torch.eye(small**2, dtype=torch.float64).expand(len(covariance), -1, -1)
    return state_information((down.expand(len(covariance), -1, -1), QUANTISATION**0.5 * identity), covariance)


def _information(method: Frozen, channels: int, side: int, moments: list[tuple[float, Stage]]) -> dict[str, np.ndarray]:
    sides = [side >> level for level in range(side.bit_length()) if (side >> level) >= 2 and side % (1 << level) == 0]
    covariance = image_covariance(side, channels)
    clean = np.array([image_information(covariance, side, small) for small in sides])
    found = {"image_side": np.array(sides), "image_information": clean}
    process = _gaussian_process(method, channels, side, covariance)
    if process is None:
        return found | {"information": np.zeros((0, len(sides)))}
    denoiser = ExactDenoiser(process, covariance)
    table = np.full((len(moments), len(sides)), np.nan)
    for row, (t, stage) in zip(table, moments, strict=True):
        depth, here, _ = process.stages[stage.index].shape
        if depth != channels:
            continue  # a state with its condition beside it is not one image
        signal, noise = denoiser.state_maps(t, stage.index)
        for level in range(len(sides)):
            if here >> level >= 2:
                down = _down(here, here >> level)
                row[level] = state_information((down @ signal, down @ noise), covariance)
    return found | {"information": table}


def _oracle(method: Frozen, sampling: SamplingConfig, channels: int, side: int) -> dict[str, np.ndarray]:
    covariance = image_covariance(side, channels)
    process = _gaussian_process(method, channels, side, covariance)
    # At least one step for each stage.
    steps = [count for count in ORACLE_STEPS if process is not None and count >= len(process.stages)]
    if process is None or len(steps) < 2:
        return {"oracle_steps": np.zeros(0, np.int64), "oracle_error": np.zeros(0), "oracle_floor": np.array(np.nan)}
    (verdict,) = verify(process, [build_solver(sampling)], covariance, steps, spacing=sampling.spacing)
    return {
        "oracle_steps": np.array(steps),
        "oracle_error": np.array(list(verdict.errors.values())),
        "oracle_floor": np.array(np.nan if verdict.floor is None else verdict.floor),
    }


def _gaussian_process(method: Frozen, channels: int, side: int, covariance: Covariance) -> Process | None:
    """The process for the oracle's images; None where it has no closed form or does not fit their size."""
    try:
        process = build_process(method, channels, side)
        if not process.linear:
            return None
        return build_process(method, channels, side, process.calibrate(calibration_images(covariance)))
    except ValueError:
        return None


def _down(side: int, small: int) -> Float[Tensor, "m n"]:
    """Averaging of flattened images from ``side`` to ``small`` pixels."""
    if side == small:
        return torch.eye(side**2, dtype=torch.float64)
    matrix = box(side, side // small).matrix
    return torch.kron(matrix, matrix)


def _first(process: Process, stage: Stage) -> float:
    """Where ``stage`` starts to be looked at."""
    return max(stage.start, process.data_time(stage.index) + EARLIEST)


def _times(process: Process, stage: Stage) -> np.ndarray:
    """Both ends and times between, closer together towards data, where signal over noise changes fastest."""
    share = np.linspace(0, 1, max(3, round(POINTS * stage.length))) ** 2
    first = _first(process, stage)
    return np.append(first + (stage.end - first) * share[:-1], stage.end)


def _energy(process: Process, images: Tensor, t: float, stage: Stage) -> float:
    """Mean energy of the signal in an image's state over the mean variance of its noise, per element."""
    times, eps, (depth, _, _) = _full(t, images), _noise(stage, images), _own(stage)
    state = process.example(images, times, stage.index, eps).z[:, :depth]
    signal = process.example(images, times, stage.index, torch.zeros_like(eps)).z[:, :depth]
    return float(signal.square().sum((1, 2, 3)).mean() / (state - signal).square().mean())


def _own(stage: Stage) -> tuple[int, int, int]:
    """Shape of the image in a state, without the condition that a super-resolution stage has beside it."""
    depth, height, width = stage.shape
    return min(depth, stage.outputs), height, width


def _noise(stage: Stage, x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(stage.shape[1])  # the same for every method of these sizes
    return torch.randn(len(x), *stage.shape, generator=generator, dtype=torch.float32).to(x)


def _full(t: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.float64, device=x.device)
