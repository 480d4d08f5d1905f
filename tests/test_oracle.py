"""The closed-form oracle: convergence orders and floors of every solver, and the oracle itself against plain matrices."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from fdm.config import SamplingConfig, Spacing
from fdm.evaluation.oracle import (
    ExactDenoiser,
    calibration_images,
    frechet_error,
    image_covariance,
    limit,
    relative_error,
    sample_covariance,
    to_columns,
    to_images,
    verify,
)
from fdm.processes import Process, build_process
from fdm.processes.gaussian import Config as GaussianConfig
from fdm.processes.staged import Config as StagedConfig
from fdm.sampling.solvers import Solver, build_solver

SOLVERS = {
    "ancestral": Solver("ancestral", eta=1.0),
    "ddim": Solver("ddim", eta=0.0),
    "multistep2": Solver("multistep2", eta=0.0, multistep=True, order=2),
}
STOCHASTIC = build_solver(SamplingConfig(solver="multistep2", eta=1))


def process(operator: str, side: int = 16, channels: int = 1, **keys: Any) -> Process:
    config = StagedConfig(process="staged", transforms=[{"kind": "resize", "operator": operator}] * 2, **keys)
    covariance = image_covariance(side, channels)
    calibration = build_process(config, channels, side).calibrate(calibration_images(covariance))
    return build_process(config, channels, side, calibration)


@cache  # the same error serves several tests
def error(operator: str, solver: str, steps: int, side: int = 16, channels: int = 1, **keys: Any) -> float:
    covariance = image_covariance(side, channels)
    return relative_error(
        sample_covariance(process(operator, side, channels, **keys), SOLVERS[solver], steps, covariance), covariance
    )


def slope(errors: dict[int, float]) -> float:
    return float(np.polyfit(np.log(list(errors)), np.log(list(errors.values())), 1)[0])


def test_frechet_error_is_that_of_fid_in_pixels() -> None:
    """Against the general formula for laws that do not commute; and a half of every deviation, nothing left, nothing lost."""
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(2, 3, 6, 6, generator=generator, dtype=torch.float64)
    found, wanted = roots @ roots.mT
    distance = sum(
        np.trace(s + c - 2 * scipy.linalg.sqrtm(s @ c).real) for s, c in zip(found.numpy(), wanted.numpy(), strict=True)
    )
    total = float(wanted.diagonal(dim1=1, dim2=2).sum())
    assert frechet_error(found, wanted) == pytest.approx(math.sqrt(distance / total), rel=1e-9)
    assert frechet_error(wanted, wanted) < 1e-7
    assert frechet_error(wanted / 4, wanted) == pytest.approx(0.5)
    assert frechet_error(0 * wanted, wanted) == pytest.approx(1)


def test_lost_detail_is_seen_by_the_frechet_error() -> None:
    """Fifteen of sixteen dimensions without variance: the covariance's error hardly tells, the distance does."""
    covariance = image_covariance(4, 1)
    values, vectors = torch.linalg.eigh(covariance)
    values[:, :-1] = 0
    blurred = (vectors * values[:, None, :]) @ vectors.mT
    lost = 1 - float(values.sum() / covariance.diagonal(dim1=1, dim2=2).sum())
    assert relative_error(blurred, covariance) < lost < frechet_error(blurred, covariance) == pytest.approx(lost**0.5)


def test_orders_hold_by_the_frechet_error() -> None:
    covariance = image_covariance(16, 1)
    solvers = [SOLVERS["ancestral"], STOCHASTIC]
    first, second = verify(process("box"), solvers, covariance, (100, 200, 400), measure=frechet_error)
    assert first.order == pytest.approx(1, abs=0.15) and first.floor is None
    assert second.order > 1.6 and second.floor is None


@pytest.mark.parametrize("operator", ["box", "bilinear"])
@pytest.mark.parametrize("solver", ["ancestral", "ddim"])
def test_first_order_solvers(operator: str, solver: str) -> None:
    errors = {n: error(operator, solver, n, rescaling="dim") for n in (200, 400, 1000)}
    assert slope(errors) == pytest.approx(-1, abs=0.1)
    assert errors[1000] <= 0.01


@pytest.mark.parametrize("operator", ["box", "bilinear"])
def test_second_order_solver(operator: str) -> None:
    errors = {n: error(operator, "multistep2", n, rescaling="dim") for n in (100, 200, 400)}
    assert slope(errors) <= -1.6
    for first in ("ancestral", "ddim"):
        assert 4 * errors[200] <= error(operator, first, 200, rescaling="dim")


def spaced(process: Process, solver: str, steps: int, spacing: Spacing) -> float:
    covariance = image_covariance(16, 1)
    return relative_error(sample_covariance(process, SOLVERS[solver], steps, covariance, spacing=spacing), covariance)


@pytest.mark.parametrize("steps", [50, 200])
def test_stochastic_second_order_needs_a_quarter_of_the_evaluations(steps: int) -> None:
    three, covariance = process("box", rescaling="dim"), image_covariance(16, 1)
    few = relative_error(sample_covariance(three, STOCHASTIC, steps // 4, covariance), covariance)
    assert few < 0.4 * spaced(three, "ancestral", steps, "uniform")


def test_noise_keeps_the_second_order() -> None:
    three, covariance = process("box", rescaling="dim"), image_covariance(16, 1)
    errors = {
        n: relative_error(sample_covariance(three, STOCHASTIC, n, covariance), covariance) for n in (50, 200, 400)
    }
    assert slope({n: errors[n] for n in (200, 400)}) <= -1.8
    assert errors[50] < error("box", "multistep2", 50, rescaling="dim") < error("box", "ancestral", 50, rescaling="dim")


def test_a_jump_does_not_cost_the_second_order_its_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is carried over, each stage begins with a step of first order."""
    three = process("box", rescaling="dim")
    covariance = image_covariance(16, 1)
    carried = relative_error(sample_covariance(three, STOCHASTIC, 9, covariance), covariance)
    monkeypatch.setattr(three, "carry", lambda *_: None)
    assert carried < 0.7 * relative_error(sample_covariance(three, STOCHASTIC, 9, covariance), covariance)


@pytest.mark.parametrize(
    ("solver", "steps", "expected"),
    [("ancestral", 100, 0.0763), ("ancestral", 400, 0.0196), ("ddim", 100, 0.0725)],
)
def test_values_of_an_independent_implementation(solver: str, steps: int, expected: float) -> None:
    """Three equal stages, box: figures from the contract; its time grid is clipped a little differently."""
    assert error("box", solver, steps, rescaling="dim") == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(("steps", "in_lambda"), [(100, 0.0220), (200, 0.0067), (400, 0.0020)])
def test_second_order_over_time_is_closer_than_over_lambda(steps: int, in_lambda: float) -> None:
    """The same solver with its steps measured in lambda, as in [DPM++], in that independent implementation."""
    assert error("box", "multistep2", steps, rescaling="dim") < 0.2 * in_lambda


@pytest.mark.parametrize("operator", ["box", "bilinear"])
@pytest.mark.parametrize("keys", [{"interpolation": False}, {"rescaling": "none"}])
@pytest.mark.parametrize("solver", ["ancestral", "ddim", "multistep2"])
def test_lossy_jumps_stop_at_a_floor(operator: str, keys: dict[str, Any], solver: str) -> None:
    keys = {"rescaling": "dim", **keys}
    lossy, whole = process(operator, 8, **keys), process(operator, 8, rescaling="dim")
    assert whole.exact and not lossy.exact
    (verdict,) = verify(lossy, [SOLVERS[solver]], image_covariance(8, 1), (100, 400, 1600))
    assert verdict.floor is not None and verdict.floor > 1e-3
    (verdict,) = verify(whole, [SOLVERS[solver]], image_covariance(8, 1), (100, 400, 1600))
    assert verdict.floor is None


def test_operator_prediction_is_as_exact_as_double() -> None:
    for solver in SOLVERS:
        double, operator = (error("box", solver, 200, 8, predict=p) for p in ("double", "operator"))
        assert operator == pytest.approx(double, rel=0.05)


def test_three_channels_scale_as_one() -> None:
    """Channels do not mix: the three-channel error follows from one-channel errors at the three variances."""
    whole = image_covariance(8, 3)
    three = sample_covariance(process("box", 8, 3), SOLVERS["ancestral"], 60, whole)
    for channel in range(3):
        one = sample_covariance(process("box", 8, 1), SOLVERS["ancestral"], 60, whole[channel : channel + 1])
        torch.testing.assert_close(three[channel], one[0], rtol=0, atol=1e-10)
    assert relative_error(three, whole) < 0.2


def test_three_channels_at_full_size() -> None:
    errors = {n: error("box", "ddim", n, 16, 3) for n in (100, 200)}
    assert slope(errors) == pytest.approx(-1, abs=0.1)


def test_the_oracle_equals_a_plain_recursion_for_ddpm() -> None:
    """DDPM with diagonal C: every eigenvalue follows a scalar recursion, written out here."""
    side, steps = 4, 30
    covariance = image_covariance(side, 1)
    ddpm = build_process(GaussianConfig(process="gaussian"), 1, side)
    found = sample_covariance(ddpm, SOLVERS["ancestral"], steps, covariance)
    c = torch.linalg.eigvalsh(covariance[0]).numpy()
    b = math.atan(math.exp(-7.5))
    angle = [b + (math.pi / 2 - 2 * b) * n / steps for n in range(steps, 0, -1)]
    grid = [(math.cos(a), math.sin(a)) for a in angle] + [(1.0, 0.0)]
    s = np.ones_like(c)
    for (alpha_t, sigma_t), (alpha_s, sigma_s) in zip(grid, grid[1:], strict=False):
        ratio = alpha_t / alpha_s
        shrink = alpha_t * c / (alpha_t**2 * c + sigma_t**2)  # E[x | z] = shrink z
        pull = ratio * sigma_s**2 / sigma_t**2
        factor = alpha_s * shrink + pull * (1 - alpha_t * shrink)
        s = factor**2 * s + sigma_s**2 - pull**2 * sigma_t**2
    np.testing.assert_allclose(np.sort(torch.linalg.eigvalsh(found[0]).numpy()), np.sort(s), rtol=1e-8, atol=1e-10)


def test_the_exact_denoiser_is_a_regression() -> None:
    """E[target | z] leaves a residual that is uncorrelated with z, on a large Gaussian sample."""
    staged, covariance = process("box", 4, 1), image_covariance(4, 1)
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(covariance[0])
    count, t = 200_000, 0.2
    x = (torch.randn(count, 16, generator=generator, dtype=torch.float64) @ root.mT).reshape(count, 1, 4, 4)
    eps = torch.randn(count, 1, 4, 4, generator=generator, dtype=torch.float64)
    example = staged.example(x, torch.full((count,), t, dtype=torch.float64), 0, eps)
    residual = example.target - ExactDenoiser(staged, covariance)(example.z, t, 0)
    cross = residual.flatten(1).mT @ example.z.flatten(1) / count
    assert float(cross.abs().max()) < 0.01
    assert float((example.target.flatten(1).mT @ example.z.flatten(1) / count).abs().max()) > 0.1


def test_covariance_has_the_stated_variance() -> None:
    covariance = image_covariance(16, 3)
    assert float(covariance.diagonal(dim1=1, dim2=2).mean()) == pytest.approx(0.25, rel=1e-12)
    x = torch.randn(2, 12, 5, dtype=torch.float64)[:, :9]
    torch.testing.assert_close(to_columns(to_images(x, 3)), x)


def test_a_limit_is_not_seen_where_an_error_only_falls_slowly_or_more_slowly_than_before() -> None:
    steps = (50, 200, 1000)
    assert limit({n: 3 * n**-0.7 for n in steps}) is None, "slower than 1 / N, and to nothing"
    assert limit({n: 9 / n**2 + 0.01 / n for n in steps}) is None, "second order, then first"
    assert limit({n: 5 / n for n in steps}) is None
    assert limit({n: 0.004 + 5 / n for n in steps}) == pytest.approx(0.004)
    assert limit({n: 0.02 + 5 / n for n in steps[1:]}) == pytest.approx(0.02), "two numbers take 1 / N for granted"
    assert limit({50: 0.03, 200: 0.02, 1000: 0.04}) > 0.04, "it grows"
