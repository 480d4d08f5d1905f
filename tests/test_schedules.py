"""Schedules: bijections, variance preserving, and equal to their published definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fdm.schedules import Level, LinearBeta, ScheduleConfig, build_schedule

configs = st.builds(
    ScheduleConfig,
    kind=st.sampled_from(["cosine", "linear-beta"]),
    shift=st.floats(0.1, 10),
    lambda_max=st.floats(12, 15),
    lambda_min=st.floats(-15, -8),
)


@given(configs, st.floats(5e-3, 1))
def test_time_and_log_snr_round_trip(config: ScheduleConfig, t: float) -> None:
    schedule = build_schedule(config)
    time = torch.tensor([t], dtype=torch.float64)
    found = schedule.time(schedule.log_snr(time))
    assert float(found) == pytest.approx(t, abs=1e-10)
    torch.testing.assert_close(schedule.log_snr(found), schedule.log_snr(time), rtol=1e-9, atol=1e-9)


@given(configs)
def test_log_snr_decreases(config: ScheduleConfig) -> None:
    values = build_schedule(config).log_snr(torch.linspace(1e-3, 1, 500, dtype=torch.float64))
    assert (values.diff() < 0).all()


@given(st.floats(-30, 30))
def test_levels_preserve_variance(log_snr: float) -> None:
    level = Level.of(torch.tensor(log_snr, dtype=torch.float64))
    assert float(level.alpha**2 + level.sigma**2) == pytest.approx(1, abs=1e-14)
    assert float(2 * (level.alpha / level.sigma).log()) == pytest.approx(log_snr, abs=1e-12)


def test_data_has_no_noise() -> None:
    level = Level.of(torch.tensor(math.inf, dtype=torch.float64))
    assert float(level.alpha) == 1 and float(level.sigma) == 0


def test_cosine_is_cosine() -> None:
    schedule = build_schedule(ScheduleConfig(lambda_min=-40, lambda_max=40))
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    alpha = Level.of(schedule.log_snr(t)).alpha
    torch.testing.assert_close(alpha, torch.cos(math.pi / 2 * t), rtol=0, atol=1e-8)


def test_cosine_ends_at_its_limits() -> None:
    schedule = build_schedule(ScheduleConfig(lambda_min=-9, lambda_max=11, shift=2.0))
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)) - math.log(2)
    torch.testing.assert_close(ends, torch.tensor([11.0, -9.0], dtype=torch.float64), rtol=0, atol=1e-9)


def test_linear_beta_is_the_cumulative_product() -> None:
    schedule = build_schedule(ScheduleConfig(kind="linear-beta"))
    product = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    n = np.array([1, 2, 10, 500, 999, 1000])
    alpha = Level.of(schedule.log_snr(torch.from_numpy(n / 1000))).alpha
    np.testing.assert_allclose(alpha.square().numpy(), product[n - 1], rtol=1e-12)


def test_linear_beta_on_a_gpu_is_that_of_the_cpu() -> None:
    schedule = build_schedule(ScheduleConfig(kind="linear-beta"))
    assert isinstance(schedule, LinearBeta)
    t = torch.cat([torch.linspace(0, 1, 4001, dtype=torch.float64), torch.tensor([1e-7, 5e-5, 0.99999])])
    torch.testing.assert_close(schedule._at_once(t), schedule.log_snr(t), rtol=1e-12, atol=1e-11)


def test_limits_must_be_ordered() -> None:
    with pytest.raises(ValueError, match="must be below"):
        ScheduleConfig(lambda_min=3, lambda_max=2)
