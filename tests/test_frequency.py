"""Processes with levels per frequency (blur diffusion, blurring diffusion) and inverse heat dissipation, in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from fdm import operators
from fdm.errors import UserError
from fdm.evaluation.oracle import calibration_images, image_covariance, relative_error, sample_covariance
from fdm.evaluation.verify import choose, verify_methods
from fdm.processes import Move, Prediction, base, build_process
from fdm.processes import blur_diffusion as blur_diffusion_module
from fdm.processes import blurring as blurring_module
from fdm.processes import ihdm as ihdm_module
from fdm.processes.blur_diffusion import BlurDiffusion, exponents
from fdm.processes.frequency import FrequencyProcess
from fdm.processes.gaussian import Config as GaussianConfig
from fdm.processes.ihdm import InverseHeat
from fdm.sampling.sampler import draw
from fdm.sampling.solvers import Solver
from fdm.schedules import ScheduleConfig

F64 = torch.float64
KINDS = ["quartic", "cubic", "quadratic", "linear", "log", "triangular"]
SOLVERS = {
    "ancestral": Solver("ancestral", eta=1.0),
    "ddim": Solver("ddim", eta=0.0),
    "multistep2": Solver("multistep2", eta=0.0, multistep=True, order=2),
    "reverse-diffusion": Solver("reverse-diffusion", eta=1.0, discretised=True),
}
BETAS = torch.from_numpy(np.linspace(1e-4, 0.02, 1000))


def blur_diffusion(side: int = 8, channels: int = 1, **keys: Any) -> BlurDiffusion:
    config = blur_diffusion_module.Config(process="blur-diffusion", **keys)
    process = build_process(config, channels, side)
    assert isinstance(process, BlurDiffusion)
    return process


def blurring(side: int = 8, channels: int = 1, **keys: Any) -> FrequencyProcess:
    process = build_process(blurring_module.Config(process="blurring", **keys), channels, side)
    assert isinstance(process, FrequencyProcess)
    return process


def ihdm(side: int = 8, channels: int = 1, calibrated: Tensor | None = None, **keys: Any) -> InverseHeat:
    config = ihdm_module.Config(process="ihdm", **keys)
    process = build_process(config, channels, side)
    if calibrated is not None:
        process = build_process(config, channels, side, process.calibrate(calibrated))
    assert isinstance(process, InverseHeat)
    return process


def images(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=F64)


def dense(process: FrequencyProcess, factors: Tensor) -> Tensor:
    """V diag(factors) V^T as a plain (n^2, n^2) matrix."""
    flat = torch.kron(process.basis.matrix, process.basis.matrix)
    return flat @ (factors.expand(process.basis.rows, process.basis.rows).flatten()[:, None] * flat.mT)


targets = st.sampled_from(["eps", "v", "x"])
sides = st.sampled_from([4, 5, 8])
blur_diffusions = st.builds(
    blur_diffusion,
    side=sides,
    channels=st.sampled_from([1, 3]),
    f_type=st.sampled_from(KINDS),
    strength=st.floats(0, 0.3),
    width=st.floats(0.3, 0.6),
    boundary=st.sampled_from(["zero", "reflect"]),
    fine_to_coarse=st.booleans(),
    target=targets,
)
frequency_processes = st.one_of(
    blur_diffusions,
    st.builds(
        blurring,
        side=sides,
        channels=st.sampled_from([1, 3]),
        blur_max=st.floats(0, 20),
        least=st.floats(0.001, 0.1),
        target=targets,
    ),
)
times = st.floats(0.002, 1)


@given(blur_diffusions, st.integers(1, 1000))
def test_marginal_is_the_composition_of_the_discrete_steps(process: BlurDiffusion, last: int) -> None:
    """x_i = sqrt(1 - beta_i) W^{f(i)} x_{i-1} + noise of covariance I - (1 - beta_i) W^{2 f(i)}, with dense matrices."""
    side, config = process.stages[0].shape[1], process.config
    blur = operators.gaussian(side, config.width, config.boundary).matrix
    w = torch.kron(blur, blur)
    w = torch.eye(side**2, dtype=F64) - w if config.fine_to_coarse else w
    values, vectors = torch.linalg.eigh(w)
    logs = values.clamp(blur_diffusion_module.SMALLEST, 1).log()
    f = exponents(config.f_type, config.strength, 1000)
    mean, covariance = torch.ones(side**2, dtype=F64), torch.zeros(side**2, dtype=F64)
    for i in range(1, last + 1):  # W is symmetric, so its eigenbasis serves all steps
        step = (1 - BETAS[i - 1]).sqrt() * torch.exp(f[i] * logs)
        mean, covariance = step * mean, step**2 * covariance + 1 - step**2
    signal, noise = (vectors @ (part[:, None] * vectors.mT) for part in (mean, covariance))
    spectrum = process.spectrum(last / 1000)
    torch.testing.assert_close(dense(process, spectrum.alpha), signal, rtol=0, atol=1e-10)
    torch.testing.assert_close(dense(process, spectrum.sigma.square()), noise, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        dense(process, spectrum.attenuation) * spectrum.log_amplitude.exp(), signal, rtol=0, atol=1e-10
    )


@given(frequency_processes, times)
def test_states_are_signal_and_noise(process: FrequencyProcess, t: float) -> None:
    """``example`` is the two dense maps, image by image and channel by channel."""
    channels, side, _ = process.stages[0].shape
    x, eps = images(2, channels, side), images(2, channels, side, 1)
    z = process.example(x, torch.tensor([t, t / 2], dtype=F64), 0, eps).z
    for row, time in enumerate((t, t / 2)):
        spectrum = process.spectrum(time)
        plain = x[row].flatten(1) @ dense(process, spectrum.alpha) + eps[row].flatten(1) @ dense(
            process, spectrum.sigma
        )
        torch.testing.assert_close(z[row].flatten(1), plain, rtol=0, atol=1e-10)


@given(frequency_processes, times, times)
def test_ancestral_step_is_gaussian_conditioning(process: FrequencyProcess, a: float, b: float) -> None:
    """z_t = R z_s + noise; the reverse step is the law of z_s given z_t and x, from dense matrices."""
    s, t = min(a, b), max(a, b)
    assume(t - s > 1e-3)
    channels, side, _ = process.stages[0].shape
    x, z = images(2, channels, side), images(2, channels, side, 1)
    now, then = process.spectrum(t), process.spectrum(s)
    # A step deblurs by the ratio of levels, and rounding errors with it.
    assume(float((then.log_alpha - now.log_alpha).max()) < math.log(1e3))
    forward = dense(process, (now.log_alpha - then.log_alpha).exp())
    cov_s, cov_t = (dense(process, level.sigma.square()) for level in (then, now))
    added = cov_t - forward @ cov_s @ forward
    assert float(torch.linalg.eigvalsh(added).min()) > -1e-12, "a forward step exists"
    gain = torch.linalg.solve(cov_t, forward @ cov_s).mT
    mean_s, mean_t = (x.flatten(2) @ dense(process, level.alpha) for level in (then, now))
    mean = mean_s + (z.flatten(2) - mean_t) @ gain.mT
    covariance = cov_s - gain @ forward @ cov_s
    truth = Prediction(process.filter(now.attenuation, x))
    silent = torch.zeros_like(z)
    found = process.reverse(z, truth, Move(0, t, s), eta=1.0, noise=silent)
    torch.testing.assert_close(found.flatten(2), mean, rtol=0, atol=1e-10)
    basis = torch.eye(side**2, dtype=F64).reshape(-1, 1, side, side).expand(-1, channels, -1, -1)
    nothing = torch.zeros_like(basis)
    spread = process.reverse(nothing, Prediction(nothing), Move(0, t, s), eta=1.0, noise=basis)[:, 0].flatten(1)
    torch.testing.assert_close(spread.mT @ spread, covariance, rtol=0, atol=1e-10)
    # Deterministic: the same noise at the other time.
    eps = images(2, channels, side, 2)
    z_t, z_s = (process.filter(level.alpha, x) + process.filter(level.sigma, eps) for level in (now, then))
    moved = process.reverse(z_t, truth, Move(0, t, s), eta=0.0, noise=None)
    torch.testing.assert_close(moved, z_s, rtol=0, atol=1e-10)


@given(frequency_processes, times)
def test_the_network_target_determines_the_signal(process: FrequencyProcess, t: float) -> None:
    channels, side, _ = process.stages[0].shape
    x, eps = images(2, channels, side), images(2, channels, side, 1)
    example = process.example(x, torch.full((2,), t, dtype=F64), 0, eps)
    found = process.predict(example.target, example.z, t, 0, clip=False)
    wanted = process.filter(process.spectrum(t).attenuation, x)
    torch.testing.assert_close(found.clean, wanted, rtol=0, atol=1e-10)
    # One step into data from the exact prediction is data.
    done = process.reverse(example.z, found, Move(0, t, 0.0), eta=1.0, noise=torch.zeros(()))
    ratio = float(process.spectrum(t).attenuation.min())
    torch.testing.assert_close(done, x, rtol=0, atol=1e-12 / ratio + 1e-10)


@given(frequency_processes, times, times)
def test_extrapolation_of_a_constant_changes_nothing(process: FrequencyProcess, a: float, b: float) -> None:
    s, t = min(a, b), max(a, b)
    assume(t - s > 1e-2 and t < 0.97)
    x = images(2, *process.stages[0].shape[:2])
    early, late = (Prediction(process.filter(process.spectrum(time).attenuation, x)) for time in (t + 0.02, t))
    earlier, now = (process.spectrum(time) for time in (t + 0.02, t))
    assume(float((now.log_alpha - earlier.log_alpha).max()) < math.log(1e3))
    found = process.extrapolate(late, early, Move(0, t + 0.02, t), Move(0, t, s))
    weight = (t - s) / 0.04
    torch.testing.assert_close(found.clean, late.clean, rtol=0, atol=1e-11 * (1 + weight))


@given(blur_diffusions, st.integers(1, 999), st.integers(1, 300))
def test_reverse_diffusion_is_equation_19(process: BlurDiffusion, i: int, length: int) -> None:
    """x + (x - A^{1/2} x) + (I - A) score + (I - A)^{1/2} noise, with dense matrices and the true score of q(x_t | x)."""
    t, s = min(i + length, 1000) / 1000, i / 1000
    channels, side, _ = process.stages[0].shape
    x, z, noise = (images(2, channels, side, seed) for seed in range(3))
    now, then = process.spectrum(t), process.spectrum(s)
    half = dense(process, (now.log_alpha - then.log_alpha).exp())
    lost = torch.eye(side**2, dtype=F64) - half @ half
    values, vectors = torch.linalg.eigh(lost)
    root = vectors @ (values.clamp_min(0).sqrt()[:, None] * vectors.mT)
    residual = z.flatten(2) - x.flatten(2) @ dense(process, now.alpha)
    score = -torch.linalg.solve(dense(process, now.sigma.square()), residual.flatten(0, 1).mT).mT.reshape(
        residual.shape
    )
    plain = 2 * z.flatten(2) - z.flatten(2) @ half + score @ lost + noise.flatten(2) @ root
    truth = Prediction(process.filter(now.attenuation, x))
    found = process.reverse_diffusion(z, truth, Move(0, t, s), noise=noise)
    torch.testing.assert_close(found.flatten(2), plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_exponents(kind: Any) -> None:
    f = exponents(kind, 0.14, 1000)
    assert f.shape == (1001,) and float(f[0]) == 0 and float(f.max()) == pytest.approx(0.14)
    peak = 500 if kind == "triangular" else 1000
    assert int(f.argmax()) == peak and bool((f[1 : peak + 1] >= f[:peak]).all())
    assert kind != "triangular" or float(f[1000]) == 0
    expected = {"linear": 1 / 2, "quadratic": 1 / 4, "cubic": 1 / 8, "quartic": 1 / 16, "triangular": 1}
    assert float(f[500]) == pytest.approx(0.14 * expected.get(kind, math.log(500) / math.log(1000)), rel=1e-12)


def test_without_blur_it_is_ddpm() -> None:
    x, eps, t = images(5, 3, 4), images(5, 3, 4, 1), torch.tensor([0.001, 0.2, 0.5, 0.8, 1.0], dtype=F64)
    ddpm = build_process(GaussianConfig(process="gaussian", schedule=ScheduleConfig(kind="linear-beta")), 3, 4)
    wanted = ddpm.example(x, t, 0, eps)
    for process in (
        blur_diffusion(4, 3, strength=0, target="v"),
        blurring(4, 3, blur_max=0, target="v", schedule={"kind": "linear-beta"}),
    ):
        found = process.example(x, t, 0, eps)
        torch.testing.assert_close(found.z, wanted.z, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.target, wanted.target, rtol=0, atol=1e-12)


@given(st.floats(0.001, 1), st.floats(0, 20), st.floats(0.001, 1))
def test_blurring_levels(t: float, blur_max: float, least: float) -> None:
    """d_t written out for one frequency, (2, 1) of 4."""
    process = blurring(4, blur_max=blur_max, least=least)
    width = blur_max * math.sin(math.pi * t / 2) ** 2
    d = (1 - least) * math.exp(-((math.pi / 4) ** 2) * (4 + 1) * width**2 / 2) + least
    spectrum, level = process.spectrum(t), process.level(t, 0)
    assert float(spectrum.attenuation[2, 1]) == pytest.approx(d, rel=1e-10)
    assert float(spectrum.alpha[0, 0]) == pytest.approx(float(level.alpha), rel=1e-10)
    assert float(spectrum.sigma) == pytest.approx(float(level.sigma), rel=1e-10)


# -- the oracle ----------------------------------------------------------------------------------------------------


def plain_error(w: Tensor, covariance: Tensor, sampler: str, n: int = 1000) -> float:
    """E of the discrete chain of n = 1000 (or 4000: each step in four) by a recursion on dense matrices, for any W."""
    values, vectors = torch.linalg.eigh(w)
    c = vectors.mT @ covariance @ vectors
    parts = n // 1000
    f = exponents("quartic", 0.14, 1000)[1:]
    log_a = ((torch.log1p(-BETAS)[:, None] + 2 * f[:, None] * values.log()) / parts).repeat_interleave(parts, 0)
    a, a_bar = log_a.exp(), torch.cat([torch.zeros(1, len(w), dtype=F64), log_a.cumsum(0)]).exp()
    s = torch.eye(len(w), dtype=F64)
    for i in range(n, 0, -1):
        now, before, step = a_bar[i], a_bar[i - 1], a[i - 1]
        mean_map = c * now.sqrt() @ torch.linalg.inv(now.sqrt()[:, None] * c * now.sqrt() + torch.diag(1 - now))
        if sampler == "ancestral":  # [DDPM] eq. 7 for each frequency
            move = (before.sqrt() * (1 - step) / (1 - now))[:, None] * mean_map
            move = move + torch.diag(step.sqrt() * (1 - before) / (1 - now))
            noise = (1 - before) * (1 - step) / (1 - now)
        else:
            score = (now.sqrt()[:, None] * mean_map - torch.eye(len(w), dtype=F64)) / (1 - now)[:, None]
            move = torch.diag(2 - step.sqrt()) + (1 - step)[:, None] * score
            noise = (1 - step) * (i > 1)
        s = move @ s @ move.mT + torch.diag(noise)
    return float(torch.linalg.norm(s - c) / torch.linalg.norm(c))


@pytest.mark.parametrize(("sampler", "expected"), [("ancestral", 0.0060), ("reverse-diffusion", 0.0036)])
def test_one_dimensional_values(sampler: str, expected: float) -> None:
    """n = 16, spectrum (1 + k)^-2: figures of an independent implementation at N = 1000."""
    basis = operators.dct_basis(16).matrix
    c = basis @ ((1 + torch.arange(16, dtype=F64)) ** -2.0)[:, None].mul(basis.mT)
    c = c / c.diagonal().mean()
    assert plain_error(operators.gaussian(16, 0.4, "zero").matrix, c, sampler) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("sampler", ["ancestral", "reverse-diffusion"])
def test_the_oracle_equals_the_plain_recursion(sampler: str) -> None:
    covariance = image_covariance(4, 1)
    found = relative_error(sample_covariance(blur_diffusion(4), SOLVERS[sampler], 1000, covariance), covariance)
    blur = operators.gaussian(4, 0.4, "zero").matrix
    assert found == pytest.approx(plain_error(torch.kron(blur, blur), covariance[0], sampler), rel=1e-6)


def test_at_full_size() -> None:
    covariance = image_covariance(16, 1)
    process = blur_diffusion(16)
    assert relative_error(sample_covariance(process, SOLVERS["ancestral"], 1000, covariance), covariance) <= 0.01


@pytest.mark.parametrize("name", ["blur-diffusion", "blurring"])
def test_second_order_convergence(name: str) -> None:
    """Up to the floor that a start from white noise leaves: alpha is small at t = 1, not zero."""
    covariance = image_covariance(8, 1)
    process = blur_diffusion() if name == "blur-diffusion" else blurring()
    errors = [
        relative_error(sample_covariance(process, SOLVERS["multistep2"], n, covariance), covariance) for n in (25, 100)
    ]
    assert math.log(errors[0] / errors[1], 4) >= 1.45
    first = relative_error(sample_covariance(process, SOLVERS["ddim"], 100, covariance), covariance)
    assert errors[1] < first / 5


def test_fine_to_coarse_converges_too() -> None:
    covariance = image_covariance(4, 3)
    for keys in ({"boundary": "zero"}, {"boundary": "reflect"}):
        process = blur_diffusion(4, 3, fine_to_coarse=True, **keys)
        errors = [
            relative_error(sample_covariance(process, SOLVERS["ddim"], n, covariance), covariance) for n in (100, 400)
        ]
        assert math.log(errors[0] / errors[1], 4) == pytest.approx(1, abs=0.2) and errors[1] < 0.05


# -- inverse heat dissipation --------------------------------------------------------------------------------------


@given(st.integers(2, 200))
def test_heat_dissipation_is_trained_at_the_times_it_is_sampled_at(steps: int) -> None:
    process = ihdm(8, 1, steps=steps)
    drawn = (torch.arange(4 * steps, dtype=F64) + 0.5) / (4 * steps)
    told = process.training_times(drawn)
    assert sorted(set(told.tolist())) == pytest.approx(sorted(event.t for event in process.plan(steps)), abs=1e-12)
    assert torch.equal(process.index(told), process.index(drawn))


@given(st.integers(2, 40), sides, st.sampled_from([1, 3]), st.data())
def test_heat_dissipation_states(steps: int, side: int, channels: int, data: st.DataObject) -> None:
    """u_k = A_k x + sigma eps, A_k the heat equation; the target leads to A_{k-1} x; the last step gives x."""
    process = ihdm(side, channels, steps=steps)
    k = data.draw(st.integers(1, steps))
    x, eps = images(2, channels, side), images(2, channels, side, 1)
    example = process.example(x, torch.full((2,), k / steps, dtype=F64), 0, eps)
    widths = [0.0, *np.geomspace(0.5, 0.75 * side, steps)]

    def heat(index: int) -> Tensor:
        return operators.heat(side, widths[index] ** 2 / 2).apply(x)

    torch.testing.assert_close(example.z, heat(k) + 0.01 * eps, rtol=0, atol=1e-10)
    found = process.predict(example.target, example.z, k / steps, 0, clip=False)
    torch.testing.assert_close(found.clean, heat(k - 1), rtol=0, atol=1e-10)
    move = Move(0, k / steps, (k - 1) / steps)
    moved = process.reverse(example.z, found, move, eta=1.0, noise=eps)
    torch.testing.assert_close(moved, heat(k - 1) + (0.0125 * eps if k > 1 else 0), rtol=0, atol=1e-10)


@given(st.integers(2, 1000))
def test_the_plan_meets_the_trained_steps(steps: int) -> None:
    process = ihdm(steps=steps)
    plan = process.plan(steps)
    assert [int(process.index(event.t)) for event in plan] == list(range(steps, 0, -1))
    assert int(process.index(torch.tensor([0.0], dtype=F64))) == 1


def test_heat_dissipation_is_langevin_dynamics_in_short_steps() -> None:
    """Of noise delta in place of sqrt(2) sigma: every variance ends at delta^2 / (2 sigma^2) of what it should be."""
    covariance = image_covariance(4, 1)

    def error(ratio: float) -> float:
        process = ihdm(4, 1, calibration_images(covariance), sigma=0.1, delta=0.1 * ratio)
        return relative_error(sample_covariance(process, SOLVERS["ancestral"], 1000, covariance), covariance)

    assert error(1.25) == pytest.approx(1 - 1.25**2 / 2, rel=0.02)
    assert error(math.sqrt(2)) < 0.02


def test_heat_dissipation_starts_from_the_law_of_the_data() -> None:
    """Mean and covariance of u_K, fitted to the data, to 1e-10; all that is not fitted is sigma noise."""
    channels, side = 3, 6
    x = images(300, channels, side, 3) @ torch.linspace(0.1, 1, side * side, dtype=F64).reshape(side, side) + 0.3
    process = ihdm(side, channels, x, steps=10)
    blurred = process.blur(x, torch.tensor(10)).flatten(1)
    mean = process.prior(torch.zeros(1, channels, side, side, dtype=F64)).flatten(1)
    torch.testing.assert_close(mean[0], blurred.mean(0), rtol=0, atol=1e-2)
    n = channels * side * side
    root = process.prior(torch.eye(n, dtype=F64).reshape(n, channels, side, side)).flatten(1) - mean
    wanted = torch.cov(blurred.mT, correction=0) + 0.01**2 * torch.eye(n, dtype=F64)
    torch.testing.assert_close(root.mT @ root, wanted, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="calibrate on data"):
        ihdm().prior(torch.zeros(1, 1, 8, 8))


def test_ihdm_is_calibrated_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x, process = images(7, 1, 8), ihdm(steps=10)
    whole = process.calibrate(x)
    monkeypatch.setattr(base, "BLOCK_BYTES", 2 * 8 * 8 * 8)  # of two images; the last block has one
    for key, value in process.calibrate(x).items():
        torch.testing.assert_close(torch.tensor(value), torch.tensor(whole[key]), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ihdm(steps=20).plan(30), "20 steps it is trained for, not 30"),
        (lambda: ihdm(steps=20).plan(20, "cosine"), "uniform steps it is trained for, not spacing cosine"),
        (lambda: ihdm().check_solver("ddim"), "ddim does not exist for this process; it has ancestral"),
        (lambda: blurring().check_solver("reverse-diffusion"), "reverse-diffusion does not exist"),
        (lambda: ihdm(blur_max=0.05), "not above blur_min"),
        (lambda: blurring().jump(*[None] * 4), "no jumps"),
        (lambda: ihdm().jump(*[None] * 4), "no jumps"),
        (lambda: blurring().reverse_diffusion(*[None] * 3, noise=None), "does not exist"),
    ],
)
def test_what_does_not_exist_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# -- training, sampling, command line ------------------------------------------------------------------------------


def test_fine_to_coarse_and_log_samples_are_finite() -> None:
    for keys in ({"fine_to_coarse": True, "boundary": "reflect"}, {"f_type": "log", "strength": 0.6}):
        for target in ("eps", "v", "x"):
            process = blur_diffusion(8, 3, target=target, **keys)
            for solver in SOLVERS.values():
                samples = draw(process, lambda z, t, stage: 0.9 * z, solver, process.plan(50), 0, range(2))
                assert samples.dtype == torch.float32 and torch.isfinite(samples).all()


def test_solvers_of_the_command_line(project: Path) -> None:
    chosen = choose(["blur:blur-diffusion", "blur:fdm-blur-u", "blur:blurring"], None, False, [])
    rows = verify_methods(chosen, [10, 20], [], 4, 1)
    found = [(row.experiment, row.solver) for row in rows]
    three = ["ancestral", "ddim", "multistep2"]
    assert found == [
        *(("blur-diffusion", name) for name in [*three, "reverse-diffusion"]),
        *(("fdm-blur-u", name) for name in three),
        *(("blurring", name) for name in three),
    ]
    with pytest.raises(UserError, match="fdm-blur-u: .*reverse-diffusion does not exist for this process"):
        verify_methods(chosen, [10, 20], ["reverse-diffusion"], 4, 1)
    few = verify_methods(chosen, [10, 20], ["reverse-diffusion"], 4, 1, skip=True)
    assert [(row.experiment, row.solver) for row in few] == [("blur-diffusion", "reverse-diffusion")]


def test_spacing_and_noise_of_the_command_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = choose(["blur:fdm-blur-u", "family:ihdm"], None, False, [])
    with pytest.raises(UserError, match="ihdm takes the uniform steps it is trained for, not spacing cosine"):
        verify_methods(chosen, [10, 20], [], 4, 1, spacing="cosine")
    even, cosine, noisy = (
        verify_methods(chosen, [10, 20], ["multistep2"], 4, 1, skip=True, **keys)  # type: ignore[arg-type]
        for keys in ({}, {"spacing": "cosine"}, {"spacing": "cosine", "eta": 1.0})
    )
    assert "ihdm: passed over" in capsys.readouterr().err
    assert [row.experiment for row in cosine] == ["fdm-blur-u"]
    assert len({rows[0].errors[20] for rows in (even, cosine, noisy)}) == 3
