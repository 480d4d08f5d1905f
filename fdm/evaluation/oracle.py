"""The closed-form oracle: how far a process and a solver are from exact, with no network and no Monte Carlo.

For data x ~ N(0, C) the best network of a linear process is known in closed form, E[target | z] = Cov(target, z) Cov(z)^{-1} z,
and every reverse step is linear, so the covariance S of the final sample can be propagated exactly. The error
E = ||S - C||_F / ||C||_F as a function of the number of network evaluations is then a property of the method. A process that
converges has E -> 0; one whose jumps lose information stops at a floor, its structural bias.

E squares variances, and those of smooth images differ by orders of magnitude: it is the error of the few coarsest frequencies. The
Frechet distance between the two laws, F, weighs standard deviations, so that detail counts as well (``frechet_error``).

What runs here is the very code that trains and samples: targets come from ``Process.example``, steps from ``Solver.advance``;
only the network is replaced. All operators act on each channel alike, so in the eigenbasis of the channel covariance the
channels are independent; ``covariance`` holds one (n, n) matrix for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.fft import dct
from scipy.optimize import brentq
from torch import Tensor

from fdm.config import Spacing
from fdm.errors import UserError
from fdm.processes import Event, Jump, Move, Prediction, Process
from fdm.sampling.solvers import Solver, State

Covariance = Float[Tensor, "channels n n"]
Measure = Callable[[Covariance, Covariance], float]
Shape = tuple[int, int, int]

NULL_SPACE = 1e-12
"""Eigenvalues of a covariance below this share of the largest are those of directions without variance."""

FLOOR_SHARE = 0.15
"""An extrapolated limit below this share of the last error is not told apart from zero."""
NEGLIGIBLE = 1e-4
"""What may be left of a limit that the start is to blame for. Cascades have 2e-5, as each of their diffusions starts from noise, not
the first alone; `blurring` 7e-5 at the other end, where its schedule stops at lambda = 10."""

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
    """Images of mean 0 and covariance ``covariance``, exactly, for ``Process.calibrate``: the same in all that it measures.

    Every image is in one channel only, so that channels are uncorrelated; each comes with its negative.
    """
    channels, n, _ = covariance.shape
    values, vectors = torch.linalg.eigh(covariance)
    roots = vectors * (channels * n * values.clamp_min(0)).sqrt()[:, None, :]
    apart = (torch.eye(channels, dtype=roots.dtype)[:, None, :, None] * roots[:, :, None, :]).flatten(2)
    images = to_images(apart, math.isqrt(n))
    return torch.cat([images, -images])


class ExactDenoiser:
    """The best possible network for Gaussian data: z -> E[target | z], a matrix per channel for every (t, stage)."""

    def __init__(self, process: Process, covariance: Covariance) -> None:
        self.process = process
        self.covariance = covariance
        self._gain = lru_cache(maxsize=4)(self._make_gain)  # the last few times are all that a plan comes back to

    def __call__(self, z: Tensor, t: float, stage: int) -> Tensor:
        columns = to_columns(z, self._groups(z.shape[1]))
        return to_images(self._gain(t, stage) @ columns, self.process.stages[stage].output_resolution)

    def _groups(self, channels: int) -> int:
        return channels // self.covariance.shape[0]

    def _make_gain(self, t: float, stage: int) -> Float[Tensor, "c o n"]:
        """Cov(y, z) Cov(z)^{-1}."""
        cov_z, cov_yz = self.moments(t, stage)
        if self._groups(self.process.stages[stage].shape[0]) == 1:
            return torch.linalg.solve(cov_z, cov_yz.mT).mT
        # An up-sampled image beside the noisy one does not fill its pixels: Cov(z) has a null space, where z never is.
        return cov_yz @ torch.linalg.pinv(cov_z, rtol=NULL_SPACE, hermitian=True)

    def moments(self, t: float, stage: int) -> tuple[Float[Tensor, "c n n"], Float[Tensor, "c o n"]]:
        """Cov(z) and Cov(y, z), from the linear maps x -> (z, y) and eps -> (z, y) that ``example`` defines."""
        (signal_z, signal_y), (noise_z, noise_y) = self._responses(t, stage)
        cov_zx = signal_z @ self.covariance
        cov_z = cov_zx @ signal_z.mT + noise_z @ noise_z.mT
        cov_yz = signal_y @ cov_zx.mT + noise_y @ noise_z.mT
        return cov_z, cov_yz

    def state_maps(self, t: float, stage: int) -> tuple[Float[Tensor, "c m n"], Float[Tensor, "c m m"]]:
        """S and N of the state z = S x + N eps, a matrix per channel."""
        (signal, _), (noise, _) = self._responses(t, stage)
        return signal, noise

    def _responses(self, t: float, stage: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(z, y) of every basis image x without noise, and of every basis noise without image."""
        channels, n = self.covariance.shape[0], self.covariance.shape[-1]
        shape = self.process.stages[stage].shape
        x = to_images(torch.eye(n).double().expand(channels, n, n), math.isqrt(n))
        return self._maps(t, stage, x, None), self._maps(t, stage, None, to_images(_white(shape, channels), shape[1]))

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
    spacing: Spacing = "uniform",
) -> Covariance:
    """Covariance (channels, n, n) of the samples that ``solver`` draws with ``steps`` evaluations of the exact network.

    Args:
        denoiser: the network, where it is not the exact one of this process and data.
        spacing: of the steps in time.
    """
    return sample_covariances(process, [solver], steps, covariance, denoiser=denoiser, spacing=spacing)[0]


def sample_covariances(
    process: Process,
    solvers: Sequence[Solver],
    steps: int,
    covariance: Covariance,
    progress: Callable[[], None] | None = None,
    true_start: bool = False,
    denoiser: ExactDenoiser | None = None,
    spacing: Spacing = "uniform",
) -> list[Covariance]:
    """The same for several solvers, which go hand in hand and share the exact network.

    Args:
        progress: called after every event of every solver.
        true_start: start from the law of z at t = 1 in place of the sampler's own start, white noise for example.
    """
    process = process.at_steps(steps)
    denoiser = denoiser or ExactDenoiser(process, covariance)
    start = (
        denoiser.moments(1.0, len(process.stages) - 1)[0] if true_start else prior_covariance(process, len(covariance))
    )
    joints: tuple[Covariance, ...] = ()
    plan = process.plan(steps, spacing)
    for joints in zip(*(_propagate(process, solver, plan, start, denoiser) for solver in solvers), strict=True):
        for _ in joints:
            if progress:
                progress()
    return list(joints)


def prior_covariance(process: Process, channels: int) -> Covariance:
    """Of the state that a sampler starts from, as its response to each coordinate of white noise."""
    shape = process.stages[-1].shape
    basis = to_images(_white(shape, channels), shape[1])
    root = to_columns(process.prior(basis) - process.prior(torch.zeros_like(basis)), shape[0] // channels)
    return root @ root.mT


def _propagate(
    process: Process, solver: Solver, plan: Sequence[Event], start: Covariance, denoiser: ExactDenoiser
) -> Iterator[Covariance]:
    """The covariance of the state after each event of the plan.

    The state that is propagated is z, with the last prediction beside it where the next event reads it.
    """
    channels = len(start)
    shape = process.stages[-1].shape
    joint = start
    previous: Move | None = None  # the one that the prediction beside z served
    for event, following in zip(plan, [*plan[1:], None], strict=True):
        keep = following is not None and (solver.multistep or isinstance(following, Jump))
        after = process.shape_after(event)
        white = _white(after, channels)

        def step(
            columns: Tensor, noise: Tensor, event: Event, shape: Shape, previous: Move | None, keep: bool
        ) -> Tensor:
            side = process.stages[previous.stage].output_resolution if previous else 0
            state = _unpack(columns, shape, previous, side)
            return _pack(solver.advance(process, denoiser, state, event, noise, clip=False), keep, channels)

        # S <- M S M^T + V: M on the columns of S, then on those of (M S)^T.
        half = step(joint, torch.zeros(joint.shape[-1], *after).double(), event, shape, previous, keep)
        moved = step(half.mT, torch.zeros(half.shape[1], *after).double(), event, shape, previous, keep)
        if process.needs_noise(event, solver.eta):
            nothing = torch.zeros(channels, joint.shape[1], white.shape[1], dtype=torch.float64)
            injected = step(nothing, to_images(white, after[1]), event, shape, previous, keep)
            moved = moved + injected @ injected.mT
        served = event if isinstance(event, Move) else previous
        joint, shape, previous = moved, after, served if keep else None
        if following is None:
            for _ in range(2):
                joint = to_columns(process.finish(_unpack(joint, shape).z)).mT
        yield joint


def _white(shape: Shape, channels: int) -> Tensor:
    """Covariance (channels, rows, rows) of white noise of ``shape``, a whole number of groups of channels."""
    return torch.eye(math.prod(shape) // channels, dtype=torch.float64).expand(channels, -1, -1)


def _unpack(columns: Tensor, shape: Shape, move: Move | None = None, side: int = 0) -> State:
    """Columns (c, rows, m) of (z, clean, delta) as the m states that they are; z has ``shape``, the others ``side`` pixels a side."""
    size = shape[0] // len(columns) * shape[1] * shape[2]
    z = to_images(columns[:, :size], shape[1])
    if columns.shape[1] == size:
        return State(z)
    return State(z, Prediction(*(to_images(part, side) for part in columns[:, size:].split(side**2, dim=1))), move)


def _pack(state: State, keep_prediction: bool, channels: int) -> Tensor:
    parts = [state.z]
    if keep_prediction and state.prediction is not None:
        parts += [part for part in (state.prediction.clean, state.prediction.delta) if part is not None]
    return torch.cat([to_columns(part, part.shape[1] // channels) for part in parts], dim=1)


@dataclass(frozen=True)
class Verdict:
    """Errors of one process and solver by one measure, E for example, and what they say.

    Attributes:
        errors: E by number of evaluations.
        order: minus the slope of log E against log N, least squares.
        floor: the limit of E for N -> infinity, extrapolated from the largest N (``limit``), where it is a notable share of
            the last error; else None. Structural: steps or jumps lose something.
        start: such a limit that is there only because a sampler starts from white noise, where z at t = 1 has a trace of
            signal, up to ``NEGLIGIBLE``; else None.
    """

    errors: dict[int, float]
    order: float
    floor: float | None = None
    start: float | None = None

    @property
    def limit(self) -> float | None:
        """Where E stops, for whichever reason; None where it falls to zero."""
        return self.start if self.floor is None else self.floor


def relative_error(found: Covariance, wanted: Covariance) -> float:
    """||found - wanted||_F / ||wanted||_F over all channels."""
    return float(torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted))


def frechet_error(found: Covariance, wanted: Covariance) -> float:
    """Frechet (Wasserstein-2) distance between N(0, found) and N(0, wanted), over the root of the total variance of ``wanted``.

    sqrt(tr(S + C - 2 (C^1/2 S C^1/2)^1/2) / tr C) over all channels: 1 for samples without any variance. It is what FID measures in
    features, taken in pixels. Rounding leaves about 1e-8 of equal laws.
    """
    values, vectors = torch.linalg.eigh(wanted)
    root = vectors * values.clamp_min(0).sqrt()[:, None, :]
    overlap = torch.linalg.eigvalsh(root.mT @ found @ root).clamp_min(0).sqrt().sum()
    total = values.sum()
    distance = float(found.diagonal(dim1=1, dim2=2).sum() + total - 2 * overlap)
    return math.sqrt(max(distance, 0.0) / float(total))


def require_linear(process: Process) -> None:
    """Raise UserError where there is no closed form."""
    if not process.linear:
        raise UserError("the closed-form oracle needs a linear process, and this one has a learned transform")


def verify(
    process: Process,
    solvers: Sequence[Solver],
    covariance: Covariance,
    steps: Sequence[int] = (50, 200, 1000),
    progress: Callable[[], None] | None = None,
    spacing: Spacing = "uniform",
    measure: Measure = relative_error,
) -> list[Verdict]:
    """Run the oracle at several numbers of evaluations (increasing, at least two), for each solver; errors by ``measure``.

    Where an error stops, the three largest numbers are run again from the true law of z at t = 1, which tells the end of the
    schedule from a loss on the way.

    Raises:
        UserError: the process is not linear, so that there is no closed form.
    """
    require_linear(process)

    def errors(solvers: Sequence[Solver], steps: Sequence[int], true_start: bool) -> list[dict[int, float]]:
        found: list[dict[int, float]] = [{} for _ in solvers]
        for n in steps:
            told = None if true_start else progress
            results = sample_covariances(process, solvers, n, covariance, told, true_start, spacing=spacing)
            for into, result in zip(found, results, strict=True):
                into[n] = measure(result, covariance)
        return found

    verdicts = []
    for found in errors(solvers, steps, False):
        logs = np.log(np.array([list(found), list(found.values())], dtype=float))
        verdicts.append(Verdict(found, -float(np.polyfit(logs[0], logs[1], 1)[0]), limit(found)))
    stopped = [index for index, verdict in enumerate(verdicts) if verdict.floor is not None]
    if stopped:
        for index, found in zip(stopped, errors([solvers[i] for i in stopped], steps[-3:], True), strict=True):
            if (limit(found) or 0.0) <= NEGLIGIBLE:
                verdicts[index] = replace(verdicts[index], floor=None, start=verdicts[index].floor)
    return verdicts


def limit(errors: Mapping[int, float]) -> float | None:
    """The limit of E for many steps, where it is a notable share of the last error; else None.

    The smaller of two extrapolations, of which each is fooled where the other is not: E = floor + a / N through the last two
    numbers of evaluations (fooled by errors that fall more slowly than 1 / N all the way down), and E = floor + a / N^p
    through the last three, where there are three (fooled by an order that falls from 2 to 1).
    """
    counts, values = np.array(list(errors))[-3:], np.array(list(errors.values()))[-3:]
    (n1, n2), (e1, e2) = counts[-2:], values[-2:]
    floor = float((n2 * e2 - n1 * e1) / (n2 - n1))
    if len(values) == 3 and e2 < e1:

        def slowing(floor: float) -> float:
            """How much the order falls from the first pair to the second once ``floor`` is taken off; 0 at the fit."""
            orders = -np.diff(np.log(values - floor)) / np.diff(np.log(counts))
            return float(orders[0] - orders[1])

        top = float(e2) * (1 - 1e-9)
        floor = min(floor, brentq(slowing, 0.0, top) if slowing(0.0) > 0 > slowing(top) else 0.0)
    return floor if floor > FLOOR_SHARE * e2 else None
