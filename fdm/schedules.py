"""Noise schedules: t in [0, 1] <-> lambda = log SNR, decreasing, variance preserving (alpha^2 + sigma^2 = 1)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor

from fdm.config import Frozen, PositiveFloat
from fdm.device import Constant

Times = Float[Tensor, "*b"]


class ScheduleConfig(Frozen):
    """Which schedule; ``shift`` multiplies the signal-to-noise ratio by a constant."""

    kind: Literal["cosine", "linear-beta"] = "cosine"
    shift: PositiveFloat = 1.0
    lambda_min: float = -15.0
    lambda_max: float = 15.0

    @model_validator(mode="after")
    def _ordered(self) -> ScheduleConfig:
        if self.lambda_min >= self.lambda_max:
            raise ValueError(f"lambda_min={self.lambda_min} must be below lambda_max={self.lambda_max}")
        return self


@dataclass(frozen=True)
class Level:
    """Signal and noise levels at some times: alpha = sqrt(sigmoid(lambda)), sigma = sqrt(sigmoid(-lambda)), float64."""

    log_snr: Tensor
    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, log_snr: Tensor) -> Level:
        """Levels for given log SNR (float64); +inf is noise-free data: alpha = 1 and sigma = 0 exactly."""
        return cls(log_snr, torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt())


class Schedule(ABC):
    """A decreasing bijection t <-> lambda on [0, 1]."""

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self._shift = math.log(config.shift)

    def log_snr(self, t: Times) -> Times:
        """lambda(t), float64, for t in [0, 1]."""
        return self._log_snr(t.to(torch.float64)) + self._shift

    def time(self, log_snr: Times) -> Times:
        """The inverse: t with lambda(t) = log_snr, float64, clamped to [0, 1]."""
        return self._time(log_snr.to(torch.float64) - self._shift).clamp(0, 1)

    @abstractmethod
    def _log_snr(self, t: Times) -> Times: ...

    @abstractmethod
    def _time(self, log_snr: Times) -> Times: ...


class Cosine(Schedule):
    """lambda(t) = -2 log tan(a t + b), with a and b so that lambda runs from lambda_max to lambda_min.

    [v] (2202.00512): the cosine schedule, truncated by a linear change of the angle.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        super().__init__(config)
        self._b = math.atan(math.exp(-config.lambda_max / 2))
        self._a = math.atan(math.exp(-config.lambda_min / 2)) - self._b

    def _log_snr(self, t: Times) -> Times:
        return -2 * torch.log(torch.tan(self._a * t + self._b))

    def _time(self, log_snr: Times) -> Times:
        return (torch.atan(torch.exp(-log_snr / 2)) - self._b) / self._a


class LinearBeta(Schedule):
    """[DDPM] beta from 1e-4 to 0.02 over N = 1000 steps: t = n / N gives the n-th cumulative product exactly.

    In between, log alpha^2 is linear in t. Times before lambda_max is reached (3e-6 by default) count as that time.
    """

    STEPS = 1000

    def __init__(self, config: ScheduleConfig) -> None:
        super().__init__(config)
        betas = np.linspace(1e-4, 0.02, self.STEPS)
        self._log_alpha2 = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
        self._grid = np.arange(self.STEPS + 1) / self.STEPS
        self._table = Constant(torch.from_numpy(self._log_alpha2))
        self._first = float(self._raw_time(np.array(config.lambda_max)))

    def _raw_time(self, log_snr: np.ndarray) -> np.ndarray:
        log_alpha2 = -np.logaddexp(0.0, -log_snr)  # log sigmoid(lambda)
        return np.interp(-log_alpha2, -self._log_alpha2, self._grid)

    def _log_snr(self, t: Times) -> Times:
        if t.device.type != "cpu":
            return self._at_once(t)
        n = t.detach().numpy().clip(self._first, 1.0)
        log_alpha2 = np.interp(n, self._grid, self._log_alpha2)
        value = log_alpha2 - np.log(-np.expm1(log_alpha2))
        return torch.as_tensor(value, dtype=torch.float64)

    def _at_once(self, t: Times) -> Times:
        """The same on the device of ``t``, which need not wait for the CPU."""
        position = t.clamp(self._first, 1.0) * self.STEPS
        whole = position.floor().clamp_max(self.STEPS - 1).long()
        table = self._table.on(t.device)
        log_alpha2 = table[whole].lerp(table[whole + 1], position - whole)
        return log_alpha2 - torch.log(-torch.expm1(log_alpha2))

    def _time(self, log_snr: Times) -> Times:
        return torch.as_tensor(self._raw_time(log_snr.detach().cpu().numpy()), dtype=torch.float64).to(log_snr.device)


def build_schedule(config: ScheduleConfig) -> Schedule:
    """The schedule that ``config`` names."""
    return {"cosine": Cosine, "linear-beta": LinearBeta}[config.kind](config)
