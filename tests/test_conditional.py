"""Restoration, ILVR, variations and interpolations against closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fdm import operators
from fdm.config import SamplingConfig
from fdm.evaluation.oracle import (
    ExactDenoiser,
    calibration_images,
    image_covariance,
    relative_error,
)
from fdm.processes import Process, build_process
from fdm.processes.gaussian import Config as GaussianConfig
from fdm.processes.scale_space import Config as ScaleSpaceConfig
from fdm.processes.staged import Config as StagedConfig
from fdm.sampling.conditional import (
    Reverse,
    ddnm,
    ilvr,
    interpolate,
    project,
    require_plain,
    restore,
    slerp,
    start,
    vary,
)
from fdm.sampling.sampler import draw
from fdm.sampling.solvers import Denoiser, build_solver

BLUR = {"kind": "blur", "width": 0.8}
RESIZE = {"kind": "resize"}
BILINEAR = {"kind": "resize", "operator": "bilinear"}


def staged(*transforms: dict[str, Any], side: int = 8, **keys: Any) -> Process:
    config = StagedConfig(process="staged", transforms=transforms, **keys)  # type: ignore[arg-type]
    calibration = build_process(config, 1, side).calibrate(calibration_images(image_covariance(side, 1)))
    return build_process(config, 1, side, calibration)


def ssd(side: int = 8, levels: int = 2, **keys: Any) -> Process:
    return build_process(ScaleSpaceConfig(process="scale-space", levels=levels, **keys), 1, side)


def reverse(process: Process, covariance: Tensor, steps: int, solver: str = "ancestral", **keys: Any) -> Reverse:
    """With the best denoiser for Gaussian images, in float64."""
    chosen = build_solver(SamplingConfig.model_validate({"solver": solver, **keys}))
    denoiser = ExactDenoiser(process, covariance)
    return Reverse(process, denoiser, chosen, process.plan(steps), seed=0, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrix_of(operator: operators.Separable) -> Tensor:
    return torch.kron(operator.matrix, operator.matrix)


@pytest.mark.parametrize(
    "operator",
    [operators.box(8, 2), operators.box(8, 4), operators.bilinear_down(8, 2), operators.gaussian(8, 0.5)],
    ids=["box", "box4", "bilinear", "gaussian"],
)
def test_the_projection_is_exact_and_orthogonal(operator: operators.Separable) -> None:
    x, truth = random(5, 3, 8, 8), random(5, 3, 8, 8, seed=1)
    y = operator.apply(truth)
    found = project(operator, x, y)
    torch.testing.assert_close(operator.apply(found), y, rtol=0, atol=1e-10)
    torch.testing.assert_close(project(operator, found, y), found, rtol=0, atol=1e-10)
    # The nearest such image: what was added lies in the row space, so it is orthogonal to the null space.
    plain = torch.linalg.lstsq(matrix_of(operator), (y - operator.apply(x)).flatten(2).flatten(0, 1).mT, driver="gelsd")
    torch.testing.assert_close((found - x).flatten(2).flatten(0, 1), plain.solution.mT, rtol=0, atol=1e-9)


def test_the_projection_leaves_alone_what_the_blur_hides() -> None:
    operator, cutoff = operators.gaussian(8, 1.5), 0.05
    x, truth = random(4, 1, 8, 8), random(4, 1, 8, 8, seed=1)
    found = project(operator, x, operator.apply(truth), cutoff)
    values, basis = operators.eigenbasis(operator)
    kept = values.abs() >= cutoff * float(values.abs().max())
    assert 0 < int(kept.sum()) < kept.numel()
    wanted = torch.where(kept, basis.adjoint(truth), basis.adjoint(x))
    torch.testing.assert_close(basis.adjoint(found), wanted, rtol=0, atol=1e-10)


def test_projection_in_single_precision_is_consistent() -> None:
    operator = operators.box(32, 2)
    x, y = random(4, 1, 32, 32).float(), random(4, 1, 16, 16, seed=1).float()
    assert float((operator.apply(project(operator, x, y).double()) - y.double()).abs().max()) < 1e-6


PROCESSES = {
    "box": (staged(RESIZE), 1),
    "box-2": (staged(RESIZE, RESIZE), 2),
    "bilinear": (staged(BILINEAR), 1),
    "blur": (staged(BLUR, BLUR), 2),
    "mixed": (staged(BLUR, RESIZE), 2),
    "fixed": (staged(RESIZE, RESIZE, interpolation=False), 1),
    "ssd": (ssd(), 1),
    "ssd-2": (ssd(levels=3), 2),
    "ssd-interp": (ssd(levels=3, interpolation=True, target="v", rescaling="dim"), 2),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_the_first_state_has_the_law_of_the_forward_process(name: str) -> None:
    """Closed form against the covariance and cross-covariance that ``example`` gives at that time."""
    process, level = PROCESSES[name]
    measurement = process.measurement(level)
    n, shape = 64, process.stages[measurement.stage].shape
    m = shape[1] * shape[2]
    basis, noise = torch.eye(n).double().reshape(n, 1, 8, 8), torch.eye(m).double().reshape(m, *shape)
    start_of = process.stages[measurement.stage].start
    times = torch.full((n,), start_of, dtype=torch.float64)
    signal = process.example(basis, times, measurement.stage, torch.zeros(n, *shape).double()).z.flatten(1).mT
    white = process.example(torch.zeros(m, 1, 8, 8).double(), times[:1].expand(m), measurement.stage, noise).z
    y = measurement.operators[0].apply(basis)
    found = start(process, measurement, y, torch.zeros(n, *shape).double()).z.flatten(1).mT
    torch.testing.assert_close(found, signal, rtol=0, atol=1e-12)
    blank = start(process, measurement, torch.zeros(m, *shape).double(), noise).z
    torch.testing.assert_close(blank, white, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("solver", ["ancestral", "ddim", "multistep2"])
def test_projected_results_are_consistent_to_the_last_step(name: str, solver: str) -> None:
    process, level = PROCESSES[name]
    measurement, covariance = process.measurement(level), image_covariance(8, 1)
    y = measurement.operators[0].apply(random(3, 1, 8, 8))
    x = restore(reverse(process, covariance, 12, solver), measurement, y, range(3), projected=True)
    assert x.shape == (3, 1, 8, 8)
    torch.testing.assert_close(measurement.operators[0].apply(x), y, rtol=0, atol=1e-8)
    loose = restore(reverse(process, covariance, 12, solver), measurement, y, range(3), projected=False)
    assert float((measurement.operators[0].apply(loose) - y).abs().max()) > 1e-3


@dataclass(frozen=True)
class Injected(Reverse):
    """White noise only at the event ``only``: one unit vector of it for each image; none elsewhere."""

    only: int = -1

    def noise(self, samples: Sequence[int], event: int, shape: Sequence[int]) -> Tensor:
        if event == self.only:
            return torch.eye(len(samples), dtype=self.dtype).reshape(len(samples), *shape)
        return torch.zeros(len(samples), *shape, dtype=self.dtype)


def law(run: Reverse, level: int, projected: bool) -> tuple[Tensor, Tensor]:
    """Matrix of the mean, y -> E[x | y], and the covariance (n, n) given y, both exact: every step is affine."""
    process, measurement = run.process, run.process.measurement(level)
    first, shape = run.index(measurement.stage, measurement.t), process.stages[measurement.stage].shape
    parts = {name: getattr(run, name) for name in ("process", "denoise", "solver", "plan", "seed", "dtype")}
    eye = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    mean = restore(Injected(**parts), measurement, eye, range(len(eye)), projected=projected).flatten(1).mT
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    drawing = [
        (number + 1, process.shape_after(event))
        for number, event in enumerate(run.plan)
        if number >= first and process.needs_noise(event, run.solver.eta)
    ]
    for event, own in [(first, shape), *drawing]:
        y = torch.zeros(math.prod(own), *shape, dtype=torch.float64)
        found = restore(Injected(**parts, only=event), measurement, y, range(len(y)), projected=projected).flatten(1)
        covariance += found.mT @ found
    return mean, covariance


def commuting(side: int, factors: tuple[int, ...]) -> Tensor:
    """(1, n, n): a covariance that does not mix what box down-sampling keeps and drops, at every factor; else arbitrary."""
    n = side * side
    base = image_covariance(side, 1)[0] + 0.05 * torch.eye(n, dtype=torch.float64)
    whole, rest = torch.zeros(n, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    for factor in sorted(factors, reverse=True):
        operator = matrix_of(operators.box(side, factor))
        keeps = torch.linalg.pinv(operator) @ operator
        part = keeps - (torch.eye(n).double() - rest)
        whole, rest = whole + part @ base @ part, rest - part
    return (whole + rest @ base @ rest)[None]


@pytest.mark.parametrize("factors", [(2,), (2, 4)])
def test_projected_restoration_draws_from_the_posterior(factors: tuple[int, ...]) -> None:
    """Where the covariance does not mix what f keeps and drops: x | y ~ N(f^+ y, Q C Q), Q = I - f^+ f, as N grows."""
    covariance = commuting(4, factors)
    process = staged(*[RESIZE] * len(factors), side=4)
    level = len(factors)
    operator = matrix_of(process.measurement(level).operators[0])
    gain = covariance[0] @ operator.mT @ torch.linalg.inv(operator @ covariance[0] @ operator.mT)
    posterior = covariance[0] - gain @ operator @ covariance[0]
    errors = []
    for steps in (20, 80):
        mean, found = law(reverse(process, covariance, steps * len(process.stages), "ddim"), level, projected=True)
        torch.testing.assert_close(mean, torch.linalg.pinv(operator), rtol=0, atol=1e-8)
        torch.testing.assert_close(mean, gain, rtol=0, atol=1e-8)
        errors.append(relative_error(found, posterior))
    assert errors[1] < 0.35 * errors[0] and errors[1] < 0.05


def test_unprojected_restoration_draws_given_the_noised_measurement() -> None:
    """x | z, z = alpha y + sigma eps: mean K alpha y, covariance C - K alpha F C + sigma^2 K K^T, K = Cov(x, z) Cov(z)^-1."""
    covariance = commuting(4, (2,))
    process = staged(RESIZE, side=4)
    measurement = process.measurement(1)
    f = matrix_of(measurement.operators[0])
    level = process.level(measurement.t, measurement.stage)
    alpha, sigma = float(level.alpha), float(level.sigma)
    c = covariance[0]
    cov_z = alpha**2 * f @ c @ f.mT + sigma**2 * torch.eye(len(f)).double()
    k = alpha * c @ f.mT @ torch.linalg.inv(cov_z)
    errors = []
    for steps in (20, 80):
        mean, found = law(reverse(process, covariance, steps), 1, projected=False)
        # A mean of means is exact for every number of steps.
        torch.testing.assert_close(mean, alpha * k, rtol=0, atol=1e-10)
        errors.append(relative_error(found, c - k @ cov_z @ k.mT + sigma**2 * k @ k.mT))
    assert errors[1] < 0.4 * errors[0] and errors[1] < 0.2


@pytest.mark.parametrize("name", ["box", "box-2", "blur", "ssd"])
def test_restoring_random_measurements_gives_the_law_of_the_data(name: str) -> None:
    """y = f(x) with x from the data, averaged over y: unprojected restoration then samples the data, as the method says."""
    process, level = PROCESSES[name]
    covariance = image_covariance(8, 1)
    operator = matrix_of(process.measurement(level).operators[0])
    errors = []
    for steps in (10, 40):
        mean, given = law(reverse(process, covariance, steps * len(process.stages), "ddim"), level, projected=False)
        errors.append(relative_error(mean @ operator @ covariance[0] @ operator.mT @ mean.mT + given, covariance[0]))
    assert errors[1] < 0.4 * errors[0] and errors[1] < 0.1


@pytest.mark.parametrize("operator", [operators.box(8, 2), operators.gaussian(8, 0.5)], ids=["box", "blur"])
def test_ilvr_ends_with_the_content_of_the_measurement(operator: operators.Separable) -> None:
    covariance = image_covariance(8, 1)
    process = build_process(GaussianConfig(process="gaussian"), 1, 8)
    y = operator.apply(random(3, 1, 8, 8))
    x = ilvr(reverse(process, covariance, 12), operator, y, range(3))
    torch.testing.assert_close(operator.apply(x), y, rtol=0, atol=1e-10)
    other = ilvr(reverse(process, covariance, 12), operator, y, range(3, 6))
    torch.testing.assert_close(operator.apply(other), y, rtol=0, atol=1e-10)
    if operator.rows < operator.columns:
        assert float((x - other).abs().max()) > 0.1


def test_ddnm_draws_from_the_posterior() -> None:
    """Where the covariance does not mix what f keeps and drops: f^+ y is the mean, the variance of Q C Q around it, y is kept."""
    covariance, operator, count = commuting(4, (2,)), operators.box(4, 2), 2000
    process = build_process(GaussianConfig(process="gaussian"), 1, 4)
    y = operator.apply(random(1, 1, 4, 4)).expand(count, -1, -1, -1)
    x = ddnm(reverse(process, covariance, 100), operator, y, range(count))
    torch.testing.assert_close(operator.apply(x), y, rtol=0, atol=1e-10)
    matrix = matrix_of(operator)
    rest = torch.eye(16, dtype=torch.float64) - torch.linalg.pinv(matrix) @ matrix
    wanted = float((rest @ covariance[0] @ rest).trace())
    around = (x - operator.pseudo_inverse(y)).flatten(1)
    assert float(around.mean(0).square().sum()) < 0.01 * wanted
    assert float(around.square().sum(1).mean()) == pytest.approx(wanted, rel=0.1)


def test_what_ilvr_and_ddnm_cannot_work_with() -> None:
    require_plain(build_process(GaussianConfig(process="gaussian"), 1, 8), (1, 8, 8))
    require_plain(staged(), (1, 8, 8))
    for process in (staged(RESIZE), ssd()):
        with pytest.raises(ValueError, match="ILVR and DDNM need"):
            require_plain(process, (1, 8, 8))


@pytest.mark.parametrize("name", ["box-2", "blur"])
def test_variations_share_what_lies_above(name: str) -> None:
    """The held state is shared exactly, through the jump; the coarse signal as far as the state tells it."""
    process, samples = PROCESSES[name][0], range(32)
    run = reverse(process, image_covariance(8, 1), 24)
    hold = run.index(1, process.stages[1].start)
    held = run.follow(run.prior(samples), samples, stop=hold)
    first, second = (run.step(held, hold, range(k, k + 32)).z for k in (0, 32))
    f = process.measurement(1).operators[0]
    torch.testing.assert_close(f.apply(first), f.apply(second), rtol=0, atol=1e-12)
    coarse = f.apply(vary(run, 1, samples, 2))
    within, between = (coarse[0] - coarse[1]).square().mean(), (coarse[:, 1:] - coarse[:, :-1]).square().mean()
    assert 1e-8 < float(within) < 0.3 * float(between)


def test_the_first_variation_is_the_sample_itself() -> None:
    process, covariance = PROCESSES["box-2"][0], image_covariance(8, 1)
    run = replace(reverse(process, covariance, 12), dtype=torch.float32)
    exact = run.denoise
    run = replace(run, denoise=lambda z, t, stage: exact(z.double(), t, stage).float())
    sample = draw(process, run.denoise, run.solver, run.plan, 0, range(3), clip=False)
    assert torch.equal(vary(run, 2, range(3), 2)[0], sample)


def test_variations_and_interpolations_keep_the_classes_of_their_samples() -> None:
    """Class c adds c to every output; the sample of index i has class i mod 3, whatever it is varied into."""
    process = PROCESSES["box-2"][0]
    exact = reverse(process, image_covariance(8, 1), 12, "ddim")

    def told(samples: Sequence[int]) -> Denoiser:
        shift = torch.tensor([index % 3 for index in samples]).reshape(-1, 1, 1, 1)
        return lambda z, t, stage: exact.denoise(z.double(), t, stage).float() + shift

    run = replace(exact, dtype=torch.float32, denoise=told([0]), told=told)
    samples = draw(process, told(range(5)), run.solver, run.plan, 0, range(5), clip=False)
    assert torch.equal(vary(run, 1, range(5), 2)[0], samples)
    for sample in (1, 2):
        assert torch.allclose(interpolate(run, sample, 4, 3)[0], samples[sample], atol=1e-5)
    assert not torch.allclose(vary(replace(run, told=None), 1, range(5), 2)[0], samples, atol=1e-2)


def test_slerp_keeps_norms_and_angles() -> None:
    a, b = random(4, 2, 3, 3), random(4, 2, 3, 3, seed=1)
    a, b = (x / x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) * 5 for x in (a, b))
    whole = (a * b).sum(dim=(1, 2, 3)).div(25).acos()
    for weight in (0.0, 0.25, 0.5, 1.0):
        c = slerp(a, b, weight)
        torch.testing.assert_close(c.flatten(1).norm(dim=1), torch.full((4,), 5.0).double(), rtol=0, atol=1e-10)
        part = (a * c).sum(dim=(1, 2, 3)).div(25).clamp(-1, 1).acos()
        torch.testing.assert_close(part, weight * whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    longer = slerp(a, 2 * b, 0.5).flatten(1).norm(dim=1)
    torch.testing.assert_close(longer, torch.full((4,), 7.5).double(), rtol=0, atol=1e-10)


def test_interpolations_begin_and_end_with_their_priors() -> None:
    process, _ = PROCESSES["box-2"]
    run = reverse(process, image_covariance(8, 1), 12, "ddim")
    path = interpolate(run, 0, 1, 9)
    assert path.shape == (9, 1, 8, 8)
    torch.testing.assert_close(path[:1], run.follow(run.prior([0]), [0]).z, rtol=0, atol=1e-10)
    torch.testing.assert_close(path[-1:], run.follow(run.prior([1]), [0]).z, rtol=0, atol=1e-10)
    steps = (path[1:] - path[:-1]).flatten(1).norm(dim=1)
    assert float(steps.max()) < 0.5 * float((path[0] - path[-1]).norm()), "no step is a jump"


@pytest.mark.parametrize(
    ("process", "level"),
    [
        (build_process(GaussianConfig(process="gaussian"), 1, 8), 1),
        (staged(RESIZE), 2),
        (staged(RESIZE), 0),
        (ssd(), 2),
    ],
)
def test_what_is_no_measurement(process: Process, level: int) -> None:
    with pytest.raises(ValueError, match=r"no state|no transformed|no coarser"):
        process.measurement(level)
