"""Conditional use without training for it: restoration, ILVR, DDNM, variations and interpolations. [fDM], methods §10

Noise is that of ``fdm.sampling.sampler``, a function of (seed, sample, event), so that what is not conditioned is the sample
that ``fdm sample`` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fdm.operators import Separable
from fdm.processes import Event, Measurement, Move, Prediction, Process
from fdm.rng import sample_noise
from fdm.sampling.solvers import Denoiser, Solver, State

Images = Float[Tensor, "b c h w"]


@dataclass(frozen=True)
class Reverse:
    """A reverse process, ready to run from any event of its plan to any other.

    Attributes:
        denoise: without class, where the network knows classes.
        clip: limit predicted signals to [-1, 1].
        tick: called after every event.
        told: global sample indices -> the denoiser that is told their classes, and guided, as when they are sampled.
    """

    process: Process
    denoise: Denoiser
    solver: Solver
    plan: Sequence[Event]
    seed: int
    clip: bool = False
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    tick: Callable[[], None] = lambda: None
    told: Callable[[Sequence[int]], Denoiser] | None = None

    def of(self, samples: Sequence[int]) -> Reverse:
        """The reverse process that ``fdm sample`` runs for these samples."""
        return replace(self, denoise=self.told(samples)) if self.told else self

    def noise(self, samples: Sequence[int], event: int, shape: Sequence[int]) -> Tensor:
        """White noise of an event: 0 is the prior, n + 1 the event ``plan[n]``."""
        return sample_noise(self.seed, samples, event, shape, dtype=self.dtype, device=self.device)

    def prior(self, samples: Sequence[int]) -> State:
        """The state at t = 1."""
        return State(self.process.prior(self.noise(samples, 0, self.process.stages[-1].shape)))

    def index(self, stage: int, t: float) -> int:
        """Of the event that leaves ``stage`` at its start t, where a state can be put in or held.

        Raises:
            ValueError: there is none.
        """
        for index, event in enumerate(self.plan):
            if event.stage == stage and event.t == t:
                return index
        raise ValueError(f"no step begins at t = {t:g} of stage {stage}")

    def step(self, state: State, number: int, samples: Sequence[int]) -> State:
        """The state after ``plan[number]``."""
        event, fresh = self.plan[number], torch.zeros(())
        if self.process.needs_noise(event, self.solver.eta):
            fresh = self.noise(samples, number + 1, self.process.shape_after(event))
        state = self.solver.advance(self.process, self.denoise, state, event, fresh, clip=self.clip)
        self.tick()
        return state

    def follow(self, state: State, samples: Sequence[int], first: int = 0, stop: int | None = None) -> State:
        """The state after ``plan[first:stop]``."""
        for number in range(first, len(self.plan) if stop is None else stop):
            state = self.step(state, number, samples)
        return state


def project(operator: Separable, x: Images, y: Images, cutoff: float | None = None) -> Images:
    """The image nearest to x with f(x) = y: x + f^+ (y - f x), in float64 inside, so that float32 costs no consistency.

    Args:
        cutoff: leave alone what f makes smaller than this share of its largest singular value; there y says little.
    """
    wide = x.double()
    return (wide + operator.pseudo_inverse(y.double() - operator.apply(wide), cutoff)).to(x.dtype)


def start(process: Process, measurement: Measurement, y: Images, noise: Images) -> State:
    """z = alpha y + sigma noise where the reverse process is entered; given y = f(x) it has the law of the forward process."""
    level = process.level(measurement.t, measurement.stage)
    # The prediction serves jumps that need one; the signal is known.
    return State(float(level.alpha) * y + float(level.sigma) * noise, Prediction(y))


@torch.inference_mode()
def restore(
    reverse: Reverse,
    measurement: Measurement,
    y: Images,
    samples: Sequence[int],
    *,
    projected: bool,
    cutoff: float | None = None,
) -> Images:
    """Images (B, C, H, W) for measurements y (B, …): the reverse process from the stage whose signal is y.

    A network that knows classes is told none. Unprojected, y enters through the first state alone. Projected, every predicted signal is moved to f(x) = y, the last
    one too, so that the result is consistent with y.

    Args:
        samples: indices that name the noise.
        cutoff: of ``project``.
    """
    process, first = reverse.process, reverse.index(measurement.stage, measurement.t)
    if projected:

        def correct(prediction: Prediction, stage: int) -> Prediction:
            return process.prediction(project(measurement.operators[stage], prediction.clean, y, cutoff), stage)

        reverse = replace(reverse, solver=replace(reverse.solver, correct=correct))
    # The noise that the event before would have used.
    state = start(process, measurement, y, reverse.noise(samples, first, y.shape[1:]))
    return process.finish(reverse.follow(state, samples, first).z)


def require_plain(process: Process, shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless every state is alpha x + sigma eps of the image x itself, as ILVR and DDNM need it."""
    if len(process.stages) == 1 and process.stages[0].shape == shape and process.pretraining() is None:
        x, eps = torch.randn(2, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        level = process.level(0.5, 0)
        z = process.example(x, torch.tensor([0.5], dtype=torch.float64), 0, eps).z
        if torch.allclose(z, level.alpha * x + level.sigma * eps):
            return
    raise ValueError("ILVR and DDNM need a process whose every state is the image and white noise, for example ddpm")


@torch.inference_mode()
def ilvr(
    reverse: Reverse, operator: Separable, y: Images, samples: Sequence[int], *, cutoff: float | None = None
) -> Images:
    """ILVR [2108.02938] on a standard diffusion process: after every step, what y knows of z is replaced by y, noised alike.

    z_s <- z_s + phi(alpha_s x + sigma_s eps) - phi(z_s) with the low-pass filter phi = f^+ f, which needs of x only f(x) = y.
    The paper's phi resizes down and up with bicubic filters; this one is the projection that belongs to the measurement.
    """
    process, plan = reverse.process, reverse.plan
    state = reverse.prior(samples)
    for number, event in enumerate(plan):
        assert isinstance(event, Move)  # one stage has no jumps
        state = reverse.step(state, number, samples)
        level = process.level(event.s, 0)
        low = float(level.alpha) * y
        if event.s > 0:
            # Events beyond the plan name noise that no step uses.
            fresh = reverse.noise(samples, len(plan) + 1 + number, process.stages[0].shape)
            low = low + float(level.sigma) * operator.apply(fresh)
        state = replace(state, z=project(operator, state.z, low, cutoff))
    return process.finish(state.z)


@torch.inference_mode()
def ddnm(
    reverse: Reverse, operator: Separable, y: Images, samples: Sequence[int], *, cutoff: float | None = None
) -> Images:
    """DDNM [2212.00490] on a standard diffusion process: every predicted image is moved to f(x) = y, the last one too.

    What projected restoration does with the predictions of f-DM, from white noise on: the difference between the two is the model's.
    """

    def correct(prediction: Prediction, stage: int) -> Prediction:
        return replace(prediction, clean=project(operator, prediction.clean, y, cutoff))

    reverse = replace(reverse, solver=replace(reverse.solver, correct=correct))
    return reverse.process.finish(reverse.follow(reverse.prior(samples), samples).z)


@torch.inference_mode()
def vary(reverse: Reverse, stage: int, samples: Sequence[int], variants: int) -> Float[Tensor, "v b c h w"]:
    """Images (variants, B, C, H, W) that share the state at the start of ``stage``; everything below it is drawn anew.

    The first variant is the sample itself; variant v goes on with the noise of sample i + v (largest index + 1).

    Raises:
        ValueError: the reverse process does not go on from the start of that stage.
    """
    reverse = reverse.of(samples)
    hold = reverse.index(stage, reverse.process.stages[stage].start)
    held = reverse.follow(reverse.prior(samples), samples, stop=hold)
    images = []
    for variant in range(variants):
        others = [sample + variant * (max(samples) + 1) for sample in samples]
        images.append(reverse.process.finish(reverse.follow(held, others, hold).z))
    return torch.stack(images)


@torch.inference_mode()
def interpolate(reverse: Reverse, sample: int, other: int, points: int) -> Float[Tensor, "points c h w"]:
    """Images along the great circle between the priors of two samples, at the coarsest stage.

    All later noise, and the class, are those of ``sample``, which is the first image; the last is ``other``'s prior with that noise. It takes
    a solver that draws no noise inside stages: the others forget the prior within a few steps.
    """
    reverse = reverse.of([sample] * points)
    first, last = (reverse.prior([index]).z for index in (sample, other))
    z = torch.cat([slerp(first, last, n / (points - 1)) for n in range(points)])
    return reverse.process.finish(reverse.follow(State(z), [sample] * points).z)


def slerp(a: Images, b: Images, weight: float) -> Images:
    """Between a (weight 0) and b (weight 1): directions along the great circle, norms linearly; image by image."""
    norms = [x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for x in (a, b)]
    a, b = a / norms[0], b / norms[1]
    cosine = (a * b).sum(dim=(1, 2, 3), keepdim=True).clamp(-1, 1)
    # Equal directions would give 0 / 0; a tiny angle gives their common direction.
    angle = cosine.acos().clamp_min(1e-6)
    direction = (torch.sin((1 - weight) * angle) * a + torch.sin(weight * angle) * b) / torch.sin(angle)
    return ((1 - weight) * norms[0] + weight * norms[1]) * direction
