"""Scale Space Diffusion: the state is down-sampled while it diffuses, and one call denoises and raises the resolution. [SSD]

q(z_t | x) = N(alpha_t x^l, sigma_t^2 I) at level l, x^l = M_{0:l} x. Two kinds of stage, from data to noise: 2l keeps the
resolution of level l, 2l - 1 raises it from level l to l - 1. A raising step leaves at the boundary tau_l itself and lands
inside level l - 1, so that the resolution changes in the first step of every finer level and costs no evaluation of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from fdm.config import Frozen, PositiveFloat, Spacing
from fdm.operators import Separable
from fdm.processes.base import (
    Event,
    Example,
    Images,
    Measurement,
    Move,
    Prediction,
    Process,
    Stage,
    Target,
    Times,
    network_target,
    per_image,
    signal_from_output,
)
from fdm.processes.levels import MOST_LEVELS, ResolutionSchedule, down_sampling, level_sides
from fdm.processes.spacing import times
from fdm.schedules import ScheduleConfig, build_schedule

RANK = 1e-12
"""Eigenvalues of M^T M below this are those of the directions that M drops."""


class Config(Frozen):
    """Levels, when they change, and how the signal moves inside them. The defaults are the published method's."""

    process: Literal["scale-space"]
    schedule: ScheduleConfig = Field(default_factory=lambda: ScheduleConfig(kind="linear-beta"))
    target: Target = Field("x", description="of calls that keep the resolution; those that raise it predict x")
    levels: Annotated[int, Field(ge=1, le=MOST_LEVELS)] | tuple[Annotated[int, Field(gt=0)], ...] = Field(
        3, description="number of levels, or their sides in pixels from the finest"
    )
    factor: Annotated[int, Field(ge=2)] = Field(2, description="between levels, where only their number is given")
    operator: Literal["box", "bilinear"] = "box"
    resolution_schedule: ResolutionSchedule = ResolutionSchedule()
    interpolation: bool = Field(False, description="move the signal inside a level, as f-DM does (ssd-interp)")
    rescaling: Literal["none", "dim"] = Field(
        "none", description="dim: multiply the SNR by the ratio of pixels at each coarser level, as f-DM does"
    )
    min_snr: PositiveFloat | None = Field(5.0, description="loss weight min(SNR, this) of the error of x; null: none")
    raising_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of training steps for calls that raise the resolution, all boundaries together"
    )

    @field_validator("levels")
    @classmethod
    def _decreasing(cls, levels: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if not isinstance(levels, int):
            if not 1 <= len(levels) <= MOST_LEVELS:
                raise ValueError(f"1 to {MOST_LEVELS} levels, not {len(levels)}")
            if any(a <= b for a, b in itertools.pairwise(levels)):
                raise ValueError(f"sides must decrease, not {list(levels)}")
        return levels

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.interpolation and self.target == "eps":
            # x_t = ((1-u) I + u M^+ M) x^l is singular at u = 1, so an estimate of eps does not determine x^l.
            raise ValueError("interpolation needs target x or v; eps does not determine the clean signal")
        return self


class ScaleSpace(Process):
    """Levels of decreasing resolution, joined by exact Gaussian posteriors.

    Args:
        config: the method.
        shape: (channels, side, side) of the data.

    Raises:
        ValueError: the levels do not fit the side.
    """

    def __init__(
        self, config: Config, shape: tuple[int, int, int], calibration: Mapping[str, Any] | None = None
    ) -> None:
        self.config = config
        self.schedule = build_schedule(config.schedule)
        channels = shape[0]
        sides = level_sides(config.levels, config.factor, shape[1])
        self.down = [down_sampling(config.operator, a, b) for a, b in itertools.pairwise(sides)]
        self.boundaries = config.resolution_schedule.boundaries(len(sides))
        self._last = len(sides) - 1
        ratios = [(a / b) ** 2 if config.rescaling == "dim" else 1.0 for a, b in itertools.pairwise(sides)]
        self._offsets = [0.0, *itertools.accumulate(math.log(ratio) for ratio in ratios)]
        # A raising step drops nothing where the signal moves and kappa M M^T -> I, kappa -> the ratio of SNR.
        even = [math.isclose(ratio * (m.even or 0.0), 1.0) for ratio, m in zip(ratios, self.down, strict=True)]
        self.exact = self._last == 0 or (config.interpolation and all(even))
        stages: list[Stage] = []
        for level, side in enumerate(sides):
            tau, end = self.boundaries[level : level + 2]
            if level > 0:
                # Used at one time only, whatever the number of steps; that is where it is trained.
                share = config.raising_share / self._last
                stages.append(Stage(2 * level - 1, tau, tau, (channels, side, side), channels, sides[level - 1], share))
            weight = (1 - config.raising_share) * (end - tau) if self._last else None
            stages.append(Stage(2 * level, tau, end, (channels, side, side), channels, side, weight))
        self.stages = tuple(stages)

    def measurement(self, level: int) -> Measurement:
        """x^l, l = ``level``: it is the signal at tau_l, where the step begins that raises the resolution to level l - 1."""
        if not 1 <= level <= self._last:
            raise ValueError(f"it has no coarser level {level}; there are {self._last}")
        operators: dict[int, Separable] = {}
        for fine in reversed(range(level)):
            operator = operators[2 * fine + 2] @ self.down[fine] if operators else self.down[fine]
            operators |= {2 * fine + 1: operator, 2 * fine: operator}
        return Measurement(2 * level - 1, self.boundaries[level], operators)

    def prediction(self, clean: Images, stage: int) -> Prediction:
        return Prediction(clean, self._delta(clean, _predicted(stage)))

    def log_snr(self, t: Times, stage: int) -> Times:
        return self.schedule.log_snr(t) + self._offsets[_level(stage)]

    def signals(self, x: Images) -> list[Images]:
        """The clean signal that the network predicts at each stage."""
        levels = self._levels(x, self._last)
        return [levels[_predicted(stage.index)] for stage in self.stages]

    def example(self, x: Images, t: Times, stage: int, eps: Images) -> Example:
        level = self.level(t, stage)
        alpha, sigma = per_image(level.alpha, x), per_image(level.sigma, x)
        levels = self._levels(x, _level(stage))
        clean = levels[-1]
        z = alpha * self._moved(clean, self._delta(clean, _level(stage)), t, _level(stage)) + sigma * eps
        if _raises(stage):
            return Example(z, levels[_predicted(stage)], self._weight(level.log_snr, "x"))
        weight = self._weight(level.log_snr, self.config.target)
        if self.config.target == "v" and self._moves(_level(stage)):
            # v of the clean signal in the same state: alpha z - sigma v = x^l. It is the usual v where x_t = x^l.
            return Example(z, (alpha * z - clean) / sigma, weight)
        return Example(z, network_target(self.config.target, clean, eps, alpha, sigma), weight)

    def predict(self, output: Images, z: Images, t: float, stage: int, clip: bool) -> Prediction:
        target = "x" if _raises(stage) else self.config.target
        clean = signal_from_output(target, output, z, self.level(t, stage))
        clean = clean.clamp(-1, 1) if clip else clean
        return Prediction(clean, self._delta(clean, _predicted(stage)))

    def signal(self, prediction: Prediction, t: float, stage: int) -> Images:
        """The predicted signal x_t in the state, at the state's resolution."""
        level = _level(stage)
        if not _raises(stage):
            return self._moved(prediction.clean, prediction.delta, t, level)
        coarse = self.down[level - 1].apply(prediction.clean)
        return self._moved(coarse, self._delta(coarse, level), t, level)

    def reverse(self, z: Images, prediction: Prediction, move: Move, *, eta: float, noise: Images | None) -> Images:
        """One reverse step; a raising one draws q(z_s | z_t, x) with z_t = c M z_s + …, c = alpha_t / alpha_s. [SSD]

        With kappa = c^2 sigma_s^2 / sigma_t^2 = SNR_t / SNR_s the posterior has the mean
        alpha_s x_s + (sigma_s^2 / sigma_t^2) c M^T (z_t - alpha_t x_t) and the covariance sigma_s^2 (I - kappa M^T M). For
        other eta, in the manner of [DDIM], the directions that M keeps have eta^2 times that variance and the rest of
        sigma_s^2 from the noise in z_t; those that it drops are new and always drawn. z_s has the law of level l - 1 for
        every eta.
        """
        if not _raises(move.stage):
            return super().reverse(z, prediction, move, eta=eta, noise=noise)
        now, then = self.level(move.t, move.stage), self.level(move.s, move.stage - 1)
        down, kappa = self.down[_level(move.stage) - 1], math.exp(float(now.log_snr) - float(then.log_snr))

        def fresh(v: Tensor) -> Tensor:
            return torch.where(v > RANK, (eta**2 * (1 - kappa * v)).clamp(0, 1), 1.0)

        def kept(v: Tensor) -> Tensor:
            # Over sqrt(v), because M^T brings that factor along.
            return torch.where(v > RANK, ((1 - fresh(v)) / v.clamp_min(RANK)).sqrt(), 0.0)

        old_noise = (z - float(now.alpha) * self.signal(prediction, move.t, move.stage)) / float(now.sigma)
        x_s = self._moved(prediction.clean, prediction.delta, move.s, _predicted(move.stage))
        z_s = float(then.alpha) * x_s + float(then.sigma) * down.adjoint(down.cogram(kept, old_noise))
        if float(then.sigma) > 0:
            assert noise is not None
            z_s = z_s + float(then.sigma) * down.spread(lambda v: fresh(v).sqrt(), noise)
        return z_s

    def jump(self, z: Images, prediction: Prediction, stage: int, noise: Images) -> Images:
        raise ValueError("Scale Space Diffusion has no jumps of their own; a move raises the resolution")

    def plan(self, steps: int, spacing: Spacing = "uniform") -> list[Event]:
        """Moves from t = 1 to data: even steps in every level, the first of which comes from the coarser level.

        Raises:
            ValueError: fewer steps than levels, or a posterior of this discretisation is not positive definite.
        """
        keeping = self.stages[::2]
        events: list[Event] = []
        for stage, count in reversed(list(zip(keeping, self.evaluations(keeping, steps, spacing), strict=True))):
            grid = times(stage.end, stage.start, count, spacing, self.span(stage.index))
            first = stage.index + 1 if stage.index < keeping[-1].index else stage.index
            events += [Move(stage.index if n else first, t, s) for n, (t, s) in enumerate(itertools.pairwise(grid))]
        for event in events:
            if isinstance(event, Move) and _raises(event.stage):
                self._check_posterior(event, steps)
        return events

    def _check_posterior(self, move: Move, steps: int) -> None:
        """sigma_t^2 I >= c^2 sigma_s^2 M M^T, that is (SNR_t / SNR_s) ||M||^2 <= 1."""
        now, then = self.level(move.t, move.stage), self.level(move.s, move.stage - 1)
        down = self.down[_level(move.stage) - 1]
        excess = math.exp(float(now.log_snr) - float(then.log_snr)) * down.norm_squared
        if excess > 1 + 1e-9:
            raise ValueError(
                f"with {steps} steps the posterior from {down.rows}x{down.rows} to {down.columns}x{down.columns} pixels at "
                f"t = {move.t:.4f} is not positive definite: SNR_t / SNR_s ||M||^2 = {excess:.4f} > 1. "
                f"Use operator box, rescaling none, or fewer steps"
            )

    def _levels(self, x: Images, last: int) -> list[Images]:
        """x^0 … x^last."""
        levels = [x]
        for down in self.down[:last]:
            levels.append(down.apply(levels[-1]))
        return levels

    def _moves(self, level: int) -> bool:
        return self.config.interpolation and level < self._last

    def _delta(self, clean: Images, level: int) -> Images | None:
        """x^l - M^+ M x^l, what the next level lacks; None where the signal does not move."""
        if not self._moves(level):
            return None
        down = self.down[level]
        return clean - down.pseudo_inverse(down.apply(clean))

    def _moved(self, clean: Images, delta: Images | None, t: Times | float, level: int) -> Images:
        """x_t = x^l - u delta, u = (t - tau_l) / (tau_{l+1} - tau_l); t one time or one per image."""
        if delta is None:
            return clean
        start, end = self.boundaries[level : level + 2]
        u = (torch.as_tensor(t, dtype=torch.float64) - start) / (end - start)
        return clean - (per_image(u, clean) if u.ndim else float(u)) * delta

    def _weight(self, log_snr: Times, target: Target) -> Times | None:
        """min(SNR, cap) per squared error of x; an error of eps is sqrt(SNR) times that of x, of v 1 / sigma times."""
        if self.config.min_snr is None:
            return None
        snr = torch.exp(log_snr)
        weight = snr.clamp_max(self.config.min_snr)
        if target == "x":
            return weight
        return weight / (snr if target == "eps" else 1 + snr)


def _level(stage: int) -> int:
    """Level of the state at a stage."""
    return (stage + 1) // 2


def _predicted(stage: int) -> int:
    """Level of the network's prediction at a stage."""
    return stage // 2


def _raises(stage: int) -> bool:
    return stage % 2 == 1


build = ScaleSpace
