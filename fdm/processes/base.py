"""What every process offers to training, sampling and the oracle, and the formulas they share.

Names: z is the noisy state, x_t the signal in it (z = alpha x_t + sigma eps), x^k the clean signal of stage k,
delta = x^k - x_hat^k what the jump to stage k + 1 would lose. s < t is the next time on the way to data; s = 0 is data
itself, free of noise.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fdm.config import AutoencoderConfig, Frozen, Spacing
from fdm.discover import plugins
from fdm.operators import Separable
from fdm.processes.spacing import Span, position, times
from fdm.schedules import Level, Schedule
from fdm.transforms import Codec

Images = Float[Tensor, "b c h w"]
Times = Float[Tensor, " b"]
Target = Literal["v", "eps", "x"]


BLOCK_BYTES = 1 << 29
"""Of the images, in float64, that ``blocks`` puts together: all that processes are calibrated on, up to 64x64 pixels in colour."""


@dataclass(frozen=True)
class Stage:
    """One stage [start, end) of a process: the shape of its states and what the network returns there."""

    index: int
    start: float
    end: float
    shape: tuple[int, int, int]
    outputs: int
    """Channels of the network's output."""
    output_resolution: int
    """Side of the network's output; the state's own side except where a step raises the resolution."""
    weight: float | None = None
    """Relative frequency of training steps at this stage where it is not the length."""
    bounded: bool = True
    """Whether clean signals lie in [-1, 1], so that predictions may be clipped there; latents do not."""

    @property
    def length(self) -> float:
        return self.end - self.start

    @property
    def frequency(self) -> float:
        """Of training steps at this stage, relative to the other stages."""
        return self.length if self.weight is None else self.weight

    @property
    def result(self) -> tuple[int, int, int]:
        """Shape of the state after a move: a step that raises the resolution ends at the output's."""
        return (self.shape[0], self.output_resolution, self.output_resolution)


@dataclass(frozen=True)
class Pretraining:
    """The autoencoder that has to exist before a process can run.

    Attributes:
        config: architecture, losses and budget.
        shape: of the signals that it encodes.
        before: configurations of the transforms that make those signals of the data.
        signal: data (B, C, H, W) -> those signals.
    """

    config: AutoencoderConfig
    shape: tuple[int, int, int]
    before: tuple[Frozen, ...]
    signal: Callable[[Images], Images]


@dataclass(frozen=True)
class Example:
    """A training pair: what the network sees and what it should return; ``weight`` (B,) of each pair in the loss, or None."""

    z: Images
    target: Images
    weight: Times | None = None


@dataclass(frozen=True)
class Prediction:
    """What the network says about the data: the clean signal x^k of the stage, and delta (None where x_t = x^k)."""

    clean: Images
    delta: Images | None = None

    def extrapolate(self, earlier: Prediction, weight: float) -> Prediction:
        """(1 + weight) self - weight earlier, for both parts."""
        delta = None
        if self.delta is not None and earlier.delta is not None:
            delta = self.delta + weight * (self.delta - earlier.delta)
        return Prediction(self.clean + weight * (self.clean - earlier.clean), delta)


@dataclass(frozen=True)
class Measurement:
    """A coarser signal as a measurement y of the data, and where the reverse process is entered with it.

    Attributes:
        stage, t: the state there is z = alpha y + sigma eps; the event of the plan at this stage and time is the first.
        operators: for every stage that follows, the linear map from the clean signal predicted there to y; that of
            stage 0 maps the data.
    """

    stage: int
    t: float
    operators: Mapping[int, Separable]


@dataclass(frozen=True)
class Move:
    """One network evaluation: from time t to s < t inside a stage, or on into the next where the stage raises the resolution."""

    stage: int
    t: float
    s: float


@dataclass(frozen=True)
class Jump:
    """From the start of stage ``stage`` to the end of stage ``stage - 1``, at time t."""

    stage: int
    t: float


Event = Move | Jump


class Process(ABC):
    """A forward process and its reverse, stage by stage.

    Attributes:
        stages: from the finest (0, next to data) to the coarsest.
        linear: whether the closed-form oracle applies.
        exact: whether the reverse steps and jumps reproduce the law of the data for many steps; where they do not, the
            oracle's error stops at a structural floor.
        solvers: names of the solvers that exist for it.
        shared_network: whether one network serves all stages; else each has its own, which sees the stage's local time.
    """

    stages: tuple[Stage, ...]
    schedule: Schedule
    linear: bool = True
    exact: bool = True
    solvers: tuple[str, ...] = ("ancestral", "ddim", "multistep2")
    shared_network: bool = True

    @abstractmethod
    def log_snr(self, t: Times, stage: int) -> Times:
        """lambda of stage ``stage`` at times t, float64."""

    def training_times(self, t: Times) -> Times:
        """Times to train at, for times t (B,) drawn evenly over a stage: t, unless sampling asks the network at certain times only."""
        return t

    @abstractmethod
    def example(self, x: Images, t: Times, stage: int, eps: Images) -> Example:
        """State and network target for data x (B, C, H, W), times t (B,) inside the stage, noise of the stage's shape."""

    @abstractmethod
    def predict(self, output: Images, z: Images, t: float, stage: int, clip: bool) -> Prediction:
        """Turn the network's output at state z into a prediction; ``clip`` limits the signal to [-1, 1]."""

    @abstractmethod
    def signal(self, prediction: Prediction, t: float, stage: int) -> Images:
        """The predicted signal x_t."""

    @abstractmethod
    def jump(self, z: Images, prediction: Prediction, stage: int, noise: Images) -> Images:
        """State at the end of stage ``stage - 1``, given the one at the start of ``stage``; noise has the finer shape."""

    def signals(self, x: Images) -> list[Images]:
        """Clean signals x^0 … x^K of data x, one per stage."""
        return [x]

    def loss(self, output: Images, target: Images, weight: Times | None = None) -> Tensor:
        """Mean squared error, a scalar; ``weight`` is that of the example."""
        squared = (output - target).square()
        return squared.mean() if weight is None else (per_image(weight, squared) * squared).mean()

    def calibrate(self, images: Images) -> Mapping[str, Any]:
        """Measure on data (B, C, H, W) what the process needs to know about it; JSON-able, {} where nothing."""
        return {}

    def measurement(self, level: int) -> Measurement:
        """The signal that is ``level`` transforms away from the data as a measurement of it.

        Raises:
            ValueError: there is no such signal, or it is not a linear function of the data.
        """
        raise ValueError("no state of this process holds a down-sampled or blurred image and white noise alone")

    def prediction(self, clean: Images, stage: int) -> Prediction:
        """The prediction at ``stage`` whose clean signal is ``clean``, with the delta that belongs to it."""
        return Prediction(clean)

    def pretraining(self) -> Pretraining | None:
        """The autoencoder that ``attach`` has to bring before data or samples pass through the process; mostly None."""
        return None

    def attach(self, codec: Codec) -> None:
        """Bring the pretrained autoencoder."""
        raise ValueError("this process takes no autoencoder")

    def finish(self, z: Images) -> Images:
        """Image of the state at t = 0; the state itself except where that is a latent."""
        return z

    def check_solver(self, solver: str) -> None:
        """Raise ValueError where ``solver`` does not exist for this process."""
        if solver not in self.solvers:
            raise ValueError(f"solver {solver} does not exist for this process; it has {', '.join(self.solvers)}")

    def span(self, stage: int) -> Span:
        """Times from start to end of the diffusion that ``stage`` belongs to; 0 to 1 except where stages are whole diffusions."""
        return 0.0, 1.0

    def data_time(self, stage: int) -> float:
        """The time at which the states of ``stage`` are free of noise."""
        return self.span(stage)[0]

    def level(self, t: Times | float, stage: int) -> Level:
        """Noise levels at times t (float64 whatever comes in); data has alpha = 1, sigma = 0."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return Level.of(torch.where(t > self.data_time(stage), self.log_snr(t, stage), math.inf))

    def shape_after(self, event: Event) -> tuple[int, int, int]:
        """Shape of the state that ``event`` leaves, which is also that of its noise."""
        return self.stages[event.stage - 1].shape if isinstance(event, Jump) else self.stages[event.stage].result

    def needs_noise(self, event: Event, eta: float) -> bool:
        """Whether ``event`` draws noise: a jump, a step that raises the resolution, or one with eta > 0; never one into data."""
        if isinstance(event, Jump):
            return True
        into_data = event.s <= self.data_time(event.stage)
        return not into_data and (eta > 0 or self.stages[event.stage].result != self.stages[event.stage].shape)

    def prior(self, noise: Images) -> Images:
        """State at t = 1: pure noise, since alpha is negligible there."""
        return noise

    def at_steps(self, steps: int) -> Process:
        """The process for ``steps`` evaluations: this one, except where a network belongs to one number of steps."""
        return self

    def reverse(self, z: Images, prediction: Prediction, move: Move, *, eta: float, noise: Images | None) -> Images:
        """One reverse step q(z_s | z_t, x = prediction); eta = 1 ancestral, eta = 0 deterministic. [DDIM] eq. 12

        z_s = alpha_s x_s + sqrt(sigma_s^2 - eta^2 s~^2) (z_t - alpha_t x_t) / sigma_t + eta s~ noise, with
        s~^2 = sigma_s^2 (sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2) / sigma_t^2. With eta > 1 more of the old noise is replaced
        than by ancestral steps, at most all of it: eta s~ <= sigma_s.
        """
        now, then = self.level(move.t, move.stage), self.level(move.s, move.stage)
        x_t, x_s = self.signal(prediction, move.t, move.stage), self.signal(prediction, move.s, move.stage)
        # 1 - SNR_t / SNR_s = 1 - exp(lambda_t - lambda_s), without cancellation.
        posterior = float(then.sigma) * math.sqrt(-math.expm1(float(now.log_snr) - float(then.log_snr)))
        drawn = min(eta * posterior, float(then.sigma))
        kept = math.sqrt(float(then.sigma) ** 2 - drawn**2)
        z_s = float(then.alpha) * x_s + (kept / float(now.sigma)) * (z - float(now.alpha) * x_t)
        if drawn > 0:
            assert noise is not None
            z_s = z_s + drawn * noise
        return z_s

    def extrapolate(self, prediction: Prediction, earlier: Prediction, previous: Move, move: Move) -> Prediction:
        """The line through the last two predictions over time, at the middle of the step (docs/mathematics.md, "Solvers").

        D = (1 + 1/(2r)) D_t - 1/(2r) D_prev, r = h_prev / h, with steps h in t. [DPM++] has them in lambda, which is infinite at
        data and at noise: there the last steps would be the longest, and extrapolate what hardly changes any more.
        """
        return prediction.extrapolate(earlier, (move.t - move.s) / (2 * (previous.t - move.t)))

    def carry(self, earlier: Prediction, now: Prediction, stage: int) -> Prediction | None:
        """A prediction ``earlier`` at ``stage`` as one at the finer stage where ``now`` was made, or None: they have nothing in common."""
        return None

    def reverse_diffusion(self, z: Images, prediction: Prediction, move: Move, *, noise: Images) -> Images:
        """One step of the reverse stochastic differential equation, for processes that list ``reverse-diffusion``."""
        raise ValueError("solver reverse-diffusion does not exist for this process")

    def evaluations(self, stages: Sequence[Stage], steps: int, spacing: Spacing) -> list[int]:
        """How many of ``steps`` evaluations each of ``stages`` gets, by its length on the axis of ``spacing``."""

        def place(t: float, stage: Stage) -> float:
            return position(t, spacing, self.span(stage.index))

        return allot([place(stage.end, stage) - place(stage.start, stage) for stage in stages], steps)

    def plan(self, steps: int, spacing: Spacing = "uniform") -> list[Event]:
        """Moves and jumps from t = 1 to data with ``steps`` network evaluations.

        Every stage gets one evaluation and its share by length of the others (largest remainders), evenly on the axis of ``spacing``.

        Raises:
            ValueError: fewer steps than stages, or a process for which the spacing cannot be chosen.
        """
        events: list[Event] = []
        for stage, count in reversed(
            list(zip(self.stages, self.evaluations(self.stages, steps, spacing), strict=True))
        ):
            grid = times(stage.end, stage.start, count, spacing, self.span(stage.index))
            events += [Move(stage.index, t, s) for t, s in itertools.pairwise(grid)]
            if stage.index > 0:
                events.append(Jump(stage.index, stage.start))
        return events


def build_process(
    config: Frozen,
    channels: int,
    resolution: int,
    calibration: Mapping[str, Any] | None = None,
    codec: Codec | None = None,
) -> Process:
    """The process that a method's ``config`` describes, for images of shape (channels, resolution, resolution).

    Args:
        calibration: what ``calibrate`` of the same process returned for the training data, where it needs any.
        codec: the autoencoder that ``pretraining`` of the same process asks for, if any. Without it the process knows its
            stages, its plan and its levels, but data cannot pass through it.

    Raises:
        ValueError: the method does not fit the images.
    """
    module = plugins("processes")[config.process]  # type: ignore[attr-defined]
    process: Process = module.build(config, (channels, resolution, resolution), calibration)
    if codec is not None:
        process.attach(codec)
    return process


def allot(lengths: Sequence[float], steps: int) -> list[int]:
    """``steps`` evaluations shared out: one to each, the others by length (largest remainders).

    Raises:
        ValueError: fewer steps than lengths.
    """
    if steps < len(lengths):
        raise ValueError(f"{steps} steps cannot cover {len(lengths)} stages; every stage needs at least one")
    shares = [length * (steps - len(lengths)) for length in lengths]
    counts = [1 + math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda k: (math.floor(shares[k]) - shares[k], k))
    for k in by_remainder[: steps - sum(counts)]:
        counts[k] += 1
    return counts


def per_image(values: Tensor, like: Images) -> Tensor:
    """float64 (B,) -> (B, 1, 1, 1) in the dtype and on the device of ``like``."""
    return values.to(device=like.device, dtype=like.dtype).reshape(-1, 1, 1, 1)


def blocks(images: Images) -> Iterator[Images]:
    """The images in float64, so many at a time that memory lasts."""
    for block in images.split(max(1, BLOCK_BYTES // (8 * images[0].numel()))):
        yield block.to(torch.float64)


def network_target(target: Target, signal: Images, eps: Images, alpha: Tensor, sigma: Tensor) -> Images:
    """What the network should return for z = alpha signal + sigma eps; v = alpha eps - sigma signal. [v]"""
    if target == "v":
        return alpha * eps - sigma * signal
    return eps if target == "eps" else signal


def signal_from_output(target: Target, output: Images, z: Images, level: Level) -> Images:
    """The signal that a network output means at state z: the inverse of ``network_target``."""
    alpha, sigma = float(level.alpha), float(level.sigma)
    if target == "v":
        return alpha * z - sigma * output
    return (z - sigma * output) / alpha if target == "eps" else output


def stage_boundaries(boundaries: Literal["equal"] | Sequence[float], count: int) -> list[float]:
    """tau_0 = 0 < … < tau_{count} = 1 for ``count`` stages; explicit inner boundaries are given without 0 and 1.

    Raises:
        ValueError: not increasing inside (0, 1), or not count - 1 of them.
    """
    if boundaries == "equal":
        return [k / count for k in range(count + 1)]
    inner = [float(b) for b in boundaries]  # type: ignore[union-attr]
    if len(inner) != count - 1:
        raise ValueError(f"boundaries: {count} stages have {count - 1} inner boundaries, {len(inner)} are given")
    whole = [0.0, *inner, 1.0]
    if any(a >= b for a, b in zip(whole, whole[1:], strict=False)):
        raise ValueError(f"boundaries: must increase strictly inside (0, 1), not {inner}")
    return whole
