"""The closed-form oracle: how far a process and a solver are from exact, with no network and no Monte Carlo.

For data x ~ N(0, C) the best network of a linear process is known in closed form, E[target | z] = Cov(target, z) Cov(z)^{-1} z,
and every reverse step is linear, so the covariance S of the final sample can be propagated exactly. The error
E = ||S - C||_F / ||C||_F as a function of the number of network evaluations is then a property of the method. A process that
converges has E -> 0; one whose jumps lose information stops at a floor, its structural bias.

What runs here is the very code that trains and samples: targets come from ``Process.example``, steps from ``Solver.advance``;
only the network is replaced. All operators act on each channel alike, so in the eigenbasis of the channel covariance the
channels are independent; ``covariance`` holds one (n, n) matrix for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.fft import dct
from torch import Tensor

from fdm.errors import UserError
from fdm.processes import Event, Jump, Move, Prediction, Process
from fdm.sampling.solvers import Solver, State

Covariance = Float[Tensor, "channels n n"]

FLOOR_SHARE = 0.15
"""An extrapolated limit below this share of the last error is not told apart from zero."""

CHANNEL_VARIANCES = (1.8, 0.9, 0.3)
"""Eigenvalues of a colour covariance, with mean 1: natural images have one strong channel (luminance) and two weak ones."""


def image_covariance(side: int, channels: int, exponent: float = 3.0, variance: float = 0.25) -> Covariance:
    """Covariances of images that are smooth as natural ones are: diagonal in the DCT basis, spectrum (1 + |k|)^-exponent.

    Args:
        side: pixels per side; n = side**2.
        channels: 1, or 3 with variances in the ratio of ``CHANNEL_VARIANCES``.
        exponent: of the power spectrum.
        variance: mean variance of a pixel, over channels.
    """
    basis = torch.from_numpy(dct(np.eye(side), axis=0, norm="ortho"))  # rows are frequencies
    k = torch.arange(side, dtype=torch.float64)
    spectrum = (1 + (k[:, None] ** 2 + k[None, :] ** 2).sqrt()) ** -exponent
    spectrum = spectrum / spectrum.mean() * variance
    flat = torch.kron(basis, basis)
    one = flat.mT @ (spectrum.flatten()[:, None] * flat)
    scales = torch.tensor(CHANNEL_VARIANCES if channels == 3 else (1.0,) * channels, dtype=torch.float64)
    return scales[:, None, None] * one


def to_images(columns: Float[Tensor, "c n m"], side: int) -> Float[Tensor, "m c h w"]:
    """Columns of one matrix per channel, as a batch of images."""
    return columns.permute(2, 0, 1).unflatten(2, (side, side)).contiguous()


def to_columns(images: Float[Tensor, "m c h w"]) -> Float[Tensor, "c n m"]:
    """The inverse of ``to_images``."""
    return images.flatten(2).permute(1, 2, 0)


def calibration_images(covariance: Covariance) -> Float[Tensor, "m c h w"]:
    """Images whose second moments are ``covariance`` up to scale: what ``Process.calibrate`` needs for exact ratios."""
    values, vectors = torch.linalg.eigh(covariance)
    return to_images(vectors * values.clamp_min(0).sqrt()[:, None, :], math.isqrt(covariance.shape[-1]))


class ExactDenoiser:
    """The best possible network for Gaussian data: z -> E[target | z], a matrix per channel for every (t, stage)."""

    def __init__(self, process: Process, covariance: Covariance) -> None:
        self.process = process
        self.covariance = covariance
        self._gain = cache(self._make_gain)

    def __call__(self, z: Tensor, t: float, stage: int) -> Tensor:
        outputs, side = self.process.stages[stage].outputs, self.process.stages[stage].output_resolution
        result = self._gain(t, stage) @ to_columns(z)
        return to_images(result.unflatten(1, (-1, side * side)).flatten(0, 1), side)[
            :, _interleave(z.shape[1], outputs)
        ]

    def _make_gain(self, t: float, stage: int) -> Float[Tensor, "c o n"]:
        """Cov(y, z) Cov(z)^{-1}, from the linear maps x -> (z, y) and eps -> (z, y) that ``example`` defines."""
        channels, n = self.covariance.shape[0], self.covariance.shape[-1]
        shape = self.process.stages[stage].shape
        signal_z, signal_y = self._maps(
            t, stage, to_images(torch.eye(n).double().expand(channels, n, n), math.isqrt(n)), None
        )
        m = shape[1] * shape[2]
        noise_z, noise_y = self._maps(t, stage, None, to_images(torch.eye(m).double().expand(channels, m, m), shape[1]))
        cov_zx = signal_z @ self.covariance
        cov_z = cov_zx @ signal_z.mT + noise_z @ noise_z.mT
        cov_yz = signal_y @ cov_zx.mT + noise_y @ noise_z.mT
        return torch.linalg.solve(cov_z, cov_yz.mT).mT

    def state_maps(self, t: float, stage: int) -> tuple[Float[Tensor, "c m n"], Float[Tensor, "c m m"]]:
        """S and N of the state z = S x + N eps, a matrix per channel."""
        channels, n = self.covariance.shape[0], self.covariance.shape[-1]
        shape = self.process.stages[stage].shape
        m = shape[1] * shape[2]
        x = to_images(torch.eye(n).double().expand(channels, n, n), math.isqrt(n))
        eps = to_images(torch.eye(m).double().expand(channels, m, m), shape[1])
        return self._maps(t, stage, x, None)[0], self._maps(t, stage, None, eps)[0]

    def _maps(self, t: float, stage: int, x: Tensor | None, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        basis = x if x is not None else eps
        assert basis is not None
        count = basis.shape[0]
        if x is None:
            x = torch.zeros(count, *self.process.stages[0].shape, dtype=torch.float64)
        if eps is None:
            eps = torch.zeros(count, *self.process.stages[stage].shape, dtype=torch.float64)
        times = torch.full((count,), t, dtype=torch.float64)
        example = self.process.example(x, times, stage, eps)
        channels = x.shape[1]
        # Output channels come in groups of `channels` (signal, delta); each group belongs to the same data channels.
        y = to_columns(example.target).unflatten(0, (-1, channels)).transpose(0, 1).flatten(1, 2)
        return to_columns(example.z), y


def _interleave(channels: int, outputs: int) -> list[int]:
    """Order that turns (channel, group) into the network's (group, channel)."""
    groups = outputs // channels
    return [channel * groups + group for group in range(groups) for channel in range(channels)]


def sample_covariance(
    process: Process,
    solver: Solver,
    steps: int,
    covariance: Covariance,
    denoiser: ExactDenoiser | None = None,
    progress: Callable[[], None] | None = None,
) -> Covariance:
    """Covariance (channels, n, n) of the samples that ``solver`` draws with ``steps`` evaluations of the exact network.

    The state that is propagated is z, with the last prediction beside it where the next event reads it.
    """
    denoiser = denoiser or ExactDenoiser(process, covariance)
    channels = covariance.shape[0]
    side = process.stages[-1].shape[1]
    joint = torch.eye(side * side, dtype=torch.float64).expand(channels, -1, -1)
    previous: Move | None = None
    plan = process.plan(steps)
    for event, following in zip(plan, [*plan[1:], None], strict=True):
        keep = following is not None and (solver.multistep or isinstance(following, Jump))
        after_side = process.shape_after(event)[1]
        basis = torch.eye(after_side**2, dtype=torch.float64).expand(channels, -1, -1)

        def step(columns: Tensor, noise: Tensor, event: Event, side: int, previous: Move | None, keep: bool) -> Tensor:
            state = _unpack(columns, side, previous)
            return _pack(solver.advance(process, denoiser, state, event, noise, clip=False), keep)

        still = to_images(torch.zeros(channels, after_side**2, joint.shape[-1], dtype=torch.float64), after_side)
        # S <- M S M^T + V: M on the columns of S, then on those of (M S)^T.
        half = step(joint, still, event, side, previous, keep)
        still = to_images(torch.zeros(channels, after_side**2, half.shape[1], dtype=torch.float64), after_side)
        moved = step(half.mT, still, event, side, previous, keep)
        if process.needs_noise(event, solver.eta):
            nothing = torch.zeros(channels, joint.shape[1], after_side**2, dtype=torch.float64)
            injected = step(nothing, to_images(basis, after_side), event, side, previous, keep)
            moved = moved + injected @ injected.mT
        joint, side, previous = moved, after_side, event if isinstance(event, Move) else None
        if progress:
            progress()
    return joint


def _unpack(columns: Tensor, side: int, move: Move | None) -> State:
    """Columns (c, parts * n, m) of (z, clean, delta) as the m states that they are."""
    z, *rest = (to_images(part, side) for part in columns.split(side * side, dim=1))
    return State(z, Prediction(*rest), move) if rest else State(z)


def _pack(state: State, keep_prediction: bool) -> Tensor:
    parts = [state.z]
    if keep_prediction and state.prediction is not None:
        parts += [part for part in (state.prediction.clean, state.prediction.delta) if part is not None]
    return torch.cat([to_columns(part) for part in parts], dim=1)


@dataclass(frozen=True)
class Verdict:
    """Errors of one process and solver, and what they say.

    Attributes:
        errors: E by number of evaluations.
        order: minus the slope of log E against log N, least squares.
        floor: the limit of E for N -> infinity, extrapolated from the two largest N, where it is a notable share of the last
            error; else None.
    """

    errors: dict[int, float]
    order: float
    floor: float | None


def relative_error(found: Covariance, wanted: Covariance) -> float:
    """||found - wanted||_F / ||wanted||_F over all channels."""
    return float(torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted))


def require_linear(process: Process) -> None:
    """Raise UserError where there is no closed form."""
    if not process.linear:
        raise UserError(
            "the closed-form oracle needs linear transforms and exact reverse steps: not a learned transform, not ihdm"
        )


def verify(
    process: Process,
    solver: Solver,
    covariance: Covariance,
    steps: Sequence[int] = (50, 200, 1000),
    progress: Callable[[], None] | None = None,
) -> Verdict:
    """Run the oracle at several numbers of evaluations (increasing).

    Raises:
        UserError: the process is not linear, so that there is no closed form.
    """
    require_linear(process)
    errors = {
        n: relative_error(sample_covariance(process, solver, n, covariance, progress=progress), covariance)
        for n in steps
    }
    logs = np.log(np.array([list(errors), list(errors.values())], dtype=float))
    order = -float(np.polyfit(logs[0], logs[1], 1)[0])
    # Richardson: where E = floor + a / N, two values give the floor. Faster decay makes it negative, never positive.
    (n1, e1), (n2, e2) = list(errors.items())[-2:]
    floor = (n2 * e2 - n1 * e1) / (n2 - n1)
    return Verdict(errors, order, floor if floor > FLOOR_SHARE * e2 else None)
