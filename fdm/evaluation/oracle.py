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
Shape = tuple[int, int, int]

NULL_SPACE = 1e-12
"""Eigenvalues of a covariance below this share of the largest are those of directions without variance."""

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


def to_images(columns: Float[Tensor, "c gn m"], side: int) -> Float[Tensor, "m gc h w"]:
    """Columns of one matrix per data channel, as a batch of images.

    States and outputs may have several groups of the data's channels (a noisy image and its condition; a signal and delta):
    rows are (group, pixel), the images' channels (group, channel).
    """
    return columns.unflatten(1, (-1, side, side)).permute(4, 1, 0, 2, 3).flatten(1, 2).contiguous()


def to_columns(images: Float[Tensor, "m gc h w"], groups: int = 1) -> Float[Tensor, "c gn m"]:
    """The inverse of ``to_images``."""
    return images.unflatten(1, (groups, -1)).permute(2, 1, 3, 4, 0).flatten(1, 3)


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
        columns = to_columns(z, self._groups(z.shape[1]))
        return to_images(self._gain(t, stage) @ columns, self.process.stages[stage].output_resolution)

    def _groups(self, channels: int) -> int:
        return channels // self.covariance.shape[0]

    def _make_gain(self, t: float, stage: int) -> Float[Tensor, "c o n"]:
        """Cov(y, z) Cov(z)^{-1}, from the linear maps x -> (z, y) and eps -> (z, y) that ``example`` defines."""
        channels, n = self.covariance.shape[0], self.covariance.shape[-1]
        shape = self.process.stages[stage].shape
        signal_z, signal_y = self._maps(
            t, stage, to_images(torch.eye(n).double().expand(channels, n, n), math.isqrt(n)), None
        )
        m = self._groups(shape[0]) * shape[1] * shape[2]
        noise_z, noise_y = self._maps(t, stage, None, to_images(torch.eye(m).double().expand(channels, m, m), shape[1]))
        cov_zx = signal_z @ self.covariance
        cov_z = cov_zx @ signal_z.mT + noise_z @ noise_z.mT
        cov_yz = signal_y @ cov_zx.mT + noise_y @ noise_z.mT
        if self._groups(shape[0]) == 1:
            return torch.linalg.solve(cov_z, cov_yz.mT).mT
        # An up-sampled image beside the noisy one does not fill its pixels: Cov(z) has a null space, where z never is.
        return cov_yz @ torch.linalg.pinv(cov_z, rtol=NULL_SPACE, hermitian=True)

    def _maps(self, t: float, stage: int, x: Tensor | None, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        basis = x if x is not None else eps
        assert basis is not None
        count = basis.shape[0]
        if x is None:
            channels, n = self.covariance.shape[0], self.covariance.shape[-1]
            x = torch.zeros(count, channels, math.isqrt(n), math.isqrt(n), dtype=torch.float64)
        if eps is None:
            eps = torch.zeros(count, *self.process.stages[stage].shape, dtype=torch.float64)
        times = torch.full((count,), t, dtype=torch.float64)
        example = self.process.example(x, times, stage, eps)
        z, y = (to_columns(part, self._groups(part.shape[1])) for part in (example.z, example.target))
        return z, y


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
    shape = process.stages[-1].shape
    joint = _white(shape, channels)
    previous: Move | None = None
    plan = process.plan(steps)
    for event, following in zip(plan, [*plan[1:], None], strict=True):
        keep = following is not None and (solver.multistep or isinstance(following, Jump))
        after = process.shape_after(event)
        white = _white(after, channels)

        def step(
            columns: Tensor, noise: Tensor, event: Event, shape: Shape, previous: Move | None, keep: bool
        ) -> Tensor:
            state = _unpack(columns, shape, previous)
            return _pack(solver.advance(process, denoiser, state, event, noise, clip=False), keep, channels)

        # S <- M S M^T + V: M on the columns of S, then on those of (M S)^T.
        half = step(joint, torch.zeros(joint.shape[-1], *after).double(), event, shape, previous, keep)
        moved = step(half.mT, torch.zeros(half.shape[1], *after).double(), event, shape, previous, keep)
        if process.needs_noise(event, solver.eta):
            nothing = torch.zeros(channels, joint.shape[1], white.shape[1], dtype=torch.float64)
            injected = step(nothing, to_images(white, after[1]), event, shape, previous, keep)
            moved = moved + injected @ injected.mT
        joint, shape, previous = moved, after, event if isinstance(event, Move) else None
        if progress:
            progress()
    for _ in range(2):
        joint = to_columns(process.finish(_unpack(joint, shape, None).z)).mT
    return joint


def _white(shape: Shape, channels: int) -> Tensor:
    """Covariance (channels, rows, rows) of white noise of ``shape``, a whole number of groups of channels."""
    return torch.eye(math.prod(shape) // channels, dtype=torch.float64).expand(channels, -1, -1)


def _unpack(columns: Tensor, shape: Shape, move: Move | None) -> State:
    """Columns (c, rows, m) of (z, clean, delta) as the m states that they are; z has ``shape``."""
    pixels = shape[1] * shape[2]
    size = shape[0] // len(columns) * pixels
    z, *rest = (to_images(part, shape[1]) for part in (columns[:, :size], *columns[:, size:].split(pixels, dim=1)))
    return State(z, Prediction(*rest), move) if rest else State(z)


def _pack(state: State, keep_prediction: bool, channels: int) -> Tensor:
    parts = [state.z]
    if keep_prediction and state.prediction is not None:
        parts += [part for part in (state.prediction.clean, state.prediction.delta) if part is not None]
    return torch.cat([to_columns(part, part.shape[1] // channels) for part in parts], dim=1)


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
