"""Cascaded diffusion against closed forms in float64: laws of states and conditions, jumps, separate networks, the oracle."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from fdm.config import NetworkConfig
from fdm.data import open_store
from fdm.errors import UserError
from fdm.evaluation.cost import flops_per_evaluation
from fdm.evaluation.oracle import ExactDenoiser, image_covariance, relative_error, sample_covariance, verify
from fdm.experiment import load_experiment
from fdm.networks.build import build_network
from fdm.networks.unet import UNet
from fdm.processes import Jump, Move, Prediction, build_process
from fdm.processes.cascaded import Cascaded, Config
from fdm.processes.gaussian import Config as GaussianConfig
from fdm.sampling.sampler import draw, network_denoiser
from fdm.sampling.shards import missing_batches
from fdm.sampling.solvers import Solver, build_solver
from fdm.tensors import load_tensors
from fdm.training.loop import Trainer

F64 = torch.float64
SOLVERS = {
    "ancestral": Solver("ancestral", eta=1.0),
    "ddim": Solver("ddim", eta=0.0),
    "multistep2": Solver("multistep2", eta=0.0, multistep=True, order=2),
}


def cascaded(side: int = 8, channels: int = 1, **keys: Any) -> Cascaded:
    process = build_process(Config(process="cascaded", **keys), channels, side)
    assert isinstance(process, Cascaded)
    return process


def images(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=F64)


def at(process: Cascaded, stage: int, u: float) -> float:
    here = process.stages[stage]
    return here.start + u * here.length


def times(t: float, count: int) -> Tensor:
    return torch.full((count,), t, dtype=F64)


def down(process: Cascaded, x: Tensor) -> Tensor:
    """To the next resolution, by torch."""
    factor = process.config.factor
    if process.config.operator == "box":
        return avg_pool2d(x, factor)
    return interpolate(x, size=x.shape[-1] // factor, mode="bilinear", antialias=True, align_corners=False)


def up(process: Cascaded, x: Tensor) -> Tensor:
    """To the next finer resolution, by torch."""
    keys: dict[str, Any] = {"align_corners": False} if process.config.up_sampling == "bilinear" else {}
    return interpolate(x, scale_factor=float(process.config.factor), mode=process.config.up_sampling, **keys)


def matrix(function: Any, rows: int, side: int) -> Tensor:
    """The matrix of a linear map of images (m, rows / side^2, side, side)."""
    return function(torch.eye(rows, dtype=F64).reshape(rows, -1, side, side)).flatten(1).mT


processes = st.builds(
    lambda geometry, **keys: cascaded(side=geometry[0], levels=geometry[1], factor=geometry[2], **keys),
    geometry=st.sampled_from([(8, 2, 2), (8, 3, 2), (6, 2, 3), (12, 2, 3), (5, 1, 2)]),
    channels=st.sampled_from([1, 3]),
    operator=st.sampled_from(["box", "bilinear"]),
    up_sampling=st.sampled_from(["nearest", "bilinear"]),
    augmentation=st.one_of(st.just(0.0), st.floats(0.01, 0.95)),
    target=st.sampled_from(["v", "eps", "x"]),
    schedule=st.builds(lambda kind: {"kind": kind}, st.sampled_from(["cosine", "linear-beta"])),
)


@given(processes, st.data())
def test_an_example_has_the_claimed_law(process: Cascaded, data: st.DataObject) -> None:
    """(alpha_u x^k + sigma_u eps, g(alpha_a f x^k + sigma_a eps')): mean and noise covariance, the pooled eps' being white."""
    stage = data.draw(st.sampled_from(process.stages))
    u = data.draw(st.floats(0.02, 1))
    t, channels, side = at(process, stage.index, u), process.channels, stage.shape[1]
    u = (t - stage.start) / stage.length  # rounded as the process sees it
    a = process.config.augmentation
    own, augmented = (  # alpha^2 of the noisy image and of the condition
        torch.sigmoid(process.schedule.log_snr(torch.tensor(w, dtype=F64))) if w > 0 else torch.ones((), dtype=F64)
        for w in (u, a)
    )
    x = images(2, channels, process.stages[0].shape[1])
    clean = x
    for _ in range(stage.index):
        clean = down(process, clean)
    torch.testing.assert_close(process.signals(x)[stage.index], clean, rtol=0, atol=1e-12)
    mean = own.sqrt() * clean
    if stage.index < len(process.down):
        mean = torch.cat([mean, augmented.sqrt() * up(process, down(process, clean))], dim=1)
    z = process.example(x, times(t, 2), stage.index, torch.zeros(2, *stage.shape, dtype=F64)).z
    assert z.shape[1:] == stage.shape
    torch.testing.assert_close(z, mean, rtol=0, atol=1e-10)

    one = cascaded(process.stages[0].shape[1], 1, **process.config.model_dump(exclude={"process"}))
    shape = one.stages[stage.index].shape
    nothing = torch.zeros(math.prod(shape), 1, one.stages[0].shape[1], one.stages[0].shape[1], dtype=F64)

    def noisy(eps: Tensor) -> Tensor:
        return one.example(nothing, times(t, len(eps)), stage.index, eps).z

    noise = matrix(noisy, math.prod(shape), side)
    wanted = (1 - own) * torch.eye(side**2, dtype=F64)
    if shape[0] == 2:
        small = side // process.config.factor
        g = matrix(lambda y: up(process, y), small**2, small)
        wanted = torch.block_diag(wanted, (1 - augmented) * g @ g.mT)
    torch.testing.assert_close(noise @ noise.mT, wanted, rtol=0, atol=1e-10)


@given(processes, st.data())
def test_ancestral_step_is_gaussian_conditioning_and_keeps_the_condition(
    process: Cascaded, data: st.DataObject
) -> None:
    stage = data.draw(st.integers(0, len(process.stages) - 1))
    low, high = sorted(data.draw(st.lists(st.floats(0.02, 0.98), min_size=2, max_size=2, unique=True)))
    s, t = at(process, stage, low), at(process, stage, high)
    here, c = process.stages[stage], process.channels
    now, then = process.level(t, stage), process.level(s, stage)
    x = process.signals(images(2, c, process.stages[0].shape[1]))[stage]
    z = images(2, here.shape[0], here.shape[1], seed=1)
    cross = now.alpha / then.alpha * then.sigma**2  # Cov(z_t, z_s) given x
    mean = then.alpha * x + cross / now.sigma**2 * (z[:, :c] - now.alpha * x)
    variance = then.sigma**2 - cross**2 / now.sigma**2
    still = process.reverse(z, Prediction(x), Move(stage, t, s), eta=1.0, noise=torch.zeros_like(z))
    torch.testing.assert_close(still[:, :c], mean, rtol=0, atol=1e-10)
    moved = process.reverse(z, Prediction(x), Move(stage, t, s), eta=1.0, noise=torch.ones_like(z))
    torch.testing.assert_close((moved - still)[:, :c].square(), variance.expand_as(mean), rtol=0, atol=1e-10)
    for state in (still, moved, process.reverse(z, Prediction(x), Move(stage, t, s), eta=0.0, noise=None)):
        assert torch.equal(state[:, c:], z[:, c:])


@given(processes.filter(lambda process: len(process.stages) > 1), st.data())
def test_law_after_a_jump_is_that_of_an_example_at_u_1(process: Cascaded, data: st.DataObject) -> None:
    """Joint covariance of (noisy image, condition), for Gaussian data whose coarse images come from a perfect earlier stage."""
    keys = process.config.model_dump(exclude={"process"}) | {"schedule": {"lambda_min": -60}}  # alpha at u = 1 is 1e-13
    process = cascaded(process.stages[0].shape[1], 1, **keys)
    stage = data.draw(st.integers(1, len(process.stages) - 1))
    side, n = process.stages[0].shape[1], process.stages[0].shape[1] ** 2
    covariance = image_covariance(side, 1)[0]
    fine, coarse = process.stages[stage - 1], process.stages[stage]
    end = times(fine.end, 1)

    def example(x: Tensor, eps: Tensor) -> Tensor:
        return process.example(x, end.expand(len(x)), stage - 1, eps).z

    size = math.prod(fine.shape)
    signal = matrix(lambda x: example(x, torch.zeros(n, *fine.shape, dtype=F64)), n, side)
    noise = matrix(lambda e: example(torch.zeros(size, 1, side, side, dtype=F64), e), size, fine.shape[1])
    wanted = signal @ covariance @ signal.mT + noise @ noise.mT

    def coarse_state(x: Tensor) -> Tensor:
        """(x^{k+1}, anything): an image that is clean, beside a condition that no longer matters."""
        clean = process.signals(x)[stage]
        return torch.cat([clean] + [torch.full_like(clean, 7.0)] * (coarse.shape[0] - 1), dim=1)

    nothing = Prediction(torch.zeros(1))
    carried = matrix(
        lambda x: process.jump(coarse_state(x), nothing, stage, torch.zeros(n, *fine.shape, dtype=F64)), n, side
    )
    fresh = matrix(
        lambda e: process.jump(torch.zeros(size, *coarse.shape, dtype=F64), nothing, stage, e), size, fine.shape[1]
    )
    found = carried @ covariance @ carried.mT + fresh @ fresh.mT
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@given(processes, st.data())
def test_the_network_target_determines_the_data(process: Cascaded, data: st.DataObject) -> None:
    stage = data.draw(st.sampled_from(process.stages))
    t = at(process, stage.index, data.draw(st.floats(0.05, 0.9)))
    x, eps = images(2, process.channels, process.stages[0].shape[1]), images(2, *stage.shape[:2], seed=1)
    example = process.example(x, times(t, 2), stage.index, eps)
    assert example.target.shape[1:] == (stage.outputs, *stage.shape[1:])
    found = process.predict(example.target, example.z, t, stage.index, clip=False)
    torch.testing.assert_close(found.clean, process.signals(x)[stage.index], rtol=0, atol=1e-10)
    assert float(process.predict(9 * example.target, example.z, t, stage.index, clip=True).clean.abs().max()) <= 1


def test_every_stage_is_a_whole_diffusion() -> None:
    process = cascaded(8, 3, levels=3, boundaries=[0.2, 0.6])
    assert [stage.shape for stage in process.stages] == [(6, 8, 8), (6, 4, 4), (3, 2, 2)]
    assert [stage.outputs for stage in process.stages] == [3, 3, 3]
    for stage in process.stages:
        k = stage.index
        start, end = process.level(stage.start, k), process.level(stage.end, k)
        assert (float(start.alpha), float(start.sigma)) == (1.0, 0.0)
        assert float(end.log_snr) == float(process.schedule.log_snr(torch.ones((), dtype=F64)))
        assert not process.needs_noise(Move(k, stage.end, stage.start), eta=1)
        assert process.needs_noise(Move(k, stage.end, stage.start + 1e-6), eta=1)
        assert not process.needs_noise(Move(k, stage.end, stage.start + 1e-6), eta=0)
    plan = process.plan(10)
    assert [sum(isinstance(e, Move) and e.stage == k for e in plan) for k in range(3)] == [2, 4, 4]
    assert [e.stage for e in plan if isinstance(e, Jump)] == [2, 1]
    assert [process.shape_after(e) for e in plan if isinstance(e, Jump)] == [(6, 4, 4), (6, 8, 8)]
    z = images(2, 6, 8)
    assert torch.equal(process.finish(z), z[:, :3])
    # Each stage is a diffusion of its own, whose steps are shorter at both of its ends.
    for k, stage in enumerate(process.stages):
        lengths = [e.t - e.s for e in process.plan(20, "cosine") if isinstance(e, Move) and e.stage == k]
        assert sum(lengths) == pytest.approx(stage.length)
        assert lengths == pytest.approx(lengths[::-1]) and lengths[0] < 0.8 * max(lengths)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"levels": 4}, "4 levels of factor 2 do not fit images of 12x12"),
        ({"levels": 3, "boundaries": [0.5]}, "3 stages have 2 inner boundaries"),
        ({"augmentation": 1.0}, "less than 1"),
    ],
)
def test_bad_configurations(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cascaded(12, 1, **keys)


def test_a_network_that_does_not_fit_a_stage_is_named(project: Path) -> None:
    with pytest.raises(UserError, match="network of stage 2: resolution 2 cannot be halved 2 times"):
        load_experiment("cascaded:cascaded", ["method.levels=3"])


# -- the oracle -------------------------------------------------------------------------------------------------------


@cache  # the same error serves several tests
def error(solver: str, steps: int, side: int = 4, lambda_min: float = -30, **keys: Any) -> float:
    covariance = image_covariance(side, 1)
    process = cascaded(side, 1, schedule={"lambda_min": lambda_min}, **keys)
    return relative_error(sample_covariance(process, SOLVERS[solver], steps, covariance), covariance)


@pytest.mark.parametrize(
    ("solver", "fewer", "keys"),
    [
        ("ancestral", 200, {}),
        ("ddim", 100, {}),
        ("ddim", 100, {"augmentation": 0.0}),
        ("ddim", 100, {"augmentation": 0.5, "operator": "bilinear", "up_sampling": "nearest"}),
        ("ddim", 100, {"levels": 3}),
    ],
)
def test_first_order_solvers(solver: str, fewer: int, keys: dict[str, Any]) -> None:
    few, many = error(solver, fewer, **keys), error(solver, 4 * fewer, **keys)
    assert math.log(many / few) / math.log(4) == pytest.approx(-1, abs=0.1)
    assert (4 * many - few) / 3 < 0.15 * many, "the limit for many steps"
    assert many < 0.02


def test_second_order_solver() -> None:
    errors = {n: error("multistep2", n) for n in (100, 200, 800)}
    assert math.log(errors[800] / errors[200]) / math.log(4) < -1.4
    assert 10 * errors[100] < error("ddim", 100)


def test_a_larger_image_and_the_default_method(project: Path) -> None:
    process = build_process(load_experiment("cascaded:cascaded").method, 1, 8)
    (verdict,) = verify(process, [SOLVERS["ddim"]], image_covariance(8, 1), (50, 200))
    assert verdict.floor is None and verdict.order == pytest.approx(1, abs=0.1) and verdict.errors[200] < 0.03


def test_signal_left_at_the_start_costs_deterministic_samplers_its_amplitude() -> None:
    """z at u = 1 is drawn without alpha_1 E[x | y]: a floor that falls as alpha_1 = e^{lambda_min / 2}; ancestral steps forget it."""
    keys = {"augmentation": 0.5}
    floors = {low: error("multistep2", 300, lambda_min=low, **keys) for low in (-7, -9)}
    assert floors[-9] / floors[-7] == pytest.approx(math.exp(-1), rel=0.1)
    assert floors[-7] > 10 * error("multistep2", 300, **keys)
    assert error("ancestral", 400, lambda_min=-9, **keys) == pytest.approx(error("ancestral", 400, **keys), rel=0.05)


def test_another_augmentation_than_in_training_is_a_floor() -> None:
    covariance = image_covariance(4, 1)
    trained, used = cascaded(4, 1, augmentation=0.4), cascaded(4, 1, augmentation=0.2)
    wrong, right = (
        relative_error(
            sample_covariance(used, SOLVERS["ancestral"], 200, covariance, ExactDenoiser(process, covariance)),
            covariance,
        )
        for process in (trained, used)
    )
    assert wrong > 0.08 > 0.05 > right


def test_three_channels_scale_as_one() -> None:
    """States and noise of 2 x 3 channels keep (noisy, condition) and colours apart."""
    whole = image_covariance(4, 3)
    three = sample_covariance(cascaded(4, 3), SOLVERS["ancestral"], 20, whole)
    for channel in range(3):
        one = sample_covariance(cascaded(4, 1), SOLVERS["ancestral"], 20, whole[channel : channel + 1])
        torch.testing.assert_close(three[channel], one[0], rtol=0, atol=1e-10)


def test_the_exact_denoiser_is_a_regression() -> None:
    """E[target | z] leaves a residual that is uncorrelated with both halves of z, on a large Gaussian sample of 3 channels."""
    process, covariance = cascaded(4, 3), image_covariance(4, 3)
    generator = torch.Generator().manual_seed(0)
    roots = torch.linalg.cholesky(covariance)
    count, t = 100_000, 0.2
    white = torch.randn(count, 3, 16, 1, generator=generator, dtype=F64)
    x = (roots @ white).reshape(count, 3, 4, 4)
    eps = torch.randn(count, 6, 4, 4, generator=generator, dtype=F64)
    example = process.example(x, times(t, count), 0, eps)
    residual = example.target - ExactDenoiser(process, covariance)(example.z, t, 0)
    cross = residual.flatten(1).mT @ example.z.flatten(1) / count
    assert float(cross.abs().max()) < 0.015
    before = (example.target.flatten(1).mT @ example.z.flatten(1) / count).abs()
    assert float(before[:, :48].max()) > 0.1 and float(before[:, 48:].max()) > 0.1


# -- networks, training, sampling -------------------------------------------------------------------------------------

SMALL = NetworkConfig(channels=8, mult=(1, 2, 2), blocks=1, attention=(4,), head_channels=8)


def test_a_network_for_every_stage() -> None:
    """Each is that of its stage alone, in parameters, FLOPs and output; all parameters are trained, and only one network in a step."""
    process = cascaded(16, 3, boundaries=[0.3])
    network = build_network(SMALL, 16, process)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    flops = flops_per_evaluation(network, process.stages)
    alone = [UNet(SMALL, stage.shape[1], (stage,)) for stage in process.stages]
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for one in alone for p in one.parameters())
    for stage, one in zip(process.stages, alone, strict=True):
        one.load_state_dict(network.networks[stage.index].state_dict())
        plain = build_process(GaussianConfig(process="gaussian"), stage.shape[0], stage.shape[1])
        z, u = torch.randn(2, *stage.shape, generator=generator), torch.tensor([0.25, 0.75])
        output = network(z, stage.start + u * stage.length, stage.index)
        assert output.shape == (2, 3, *stage.shape[1:])
        torch.testing.assert_close(output, one(z, u, 0), rtol=1e-4, atol=1e-4)
        assert flops[stage.index] == flops_per_evaluation(one, plain.stages)[0]
        network.zero_grad()
        output.square().mean().backward()
        trained = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
        assert trained == {
            name for name, _ in network.named_parameters() if name.startswith(f"networks.{stage.index}.")
        }
    assert flops[0] > 3 * flops[1]


def trainer(reference: str, *overrides: str) -> Trainer:
    experiment = load_experiment(reference, overrides)
    process = build_process(experiment.method, experiment.dataset.channels, experiment.dataset.resolution)
    return Trainer(experiment, 0, process, Fabric(accelerator="cpu", devices=1))


def pixels(root: Path) -> Tensor:
    return torch.from_numpy(open_store(root / "data" / "digits8").split("train").images.copy())


def test_one_level_is_ddpm_bit_for_bit(smoke: Path) -> None:
    one, ddpm = (
        trainer("cascaded:cascaded", "method.levels=1"),
        trainer("cascaded:ddpm", "method.schedule.lambda_min=-20"),
    )
    data = pixels(smoke)
    for step in range(4):
        assert torch.equal(one.step(step, data)[1], ddpm.step(step, data)[1])
    solver = SOLVERS["ancestral"]
    samples = [
        draw(t.process, network_denoiser(t.average.eval(), "cpu"), solver, t.process.plan(6), 3, range(4))
        for t in (one, ddpm)
    ]
    assert torch.equal(*samples) and samples[0].std() > 0


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_ends_in_the_same_weights(smoke: Path, stop: int) -> None:
    """Also when it stops before one of the networks has taken a step: after the first, but not after the fourth."""
    data = pixels(smoke)
    calm, first, second = (trainer("cascaded:cascaded", "network.dropout=0.1") for _ in range(3))
    stages = [calm.step(step, data)[0] for step in range(8)]
    assert set(stages) == {0, 1} and len(set(stages[:stop])) == min(stop, 2)
    for step in range(stop):
        first.step(step, data)
    first.save(smoke / "state.safetensors", {"identity": "x"})
    second.load(load_tensors(smoke / "state.safetensors", "x")[0], smoke / "state.safetensors")
    for step in range(stop, 8):
        second.step(step, data)
    for a, b in ((calm.network, second.network), (calm.average, second.average)):
        assert all(torch.equal(v, w) for v, w in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_both_networks_learn(smoke: Path) -> None:
    """A few hundred steps beat the best constant in every stage; super-resolution uses its condition."""
    data = pixels(smoke)
    one = trainer("cascaded:cascaded", "training.lr=0.005", "training.batch=32")
    for step in range(150):
        one.step(step, data)
    x = data[:512].double() / 127.5 - 1
    network, process = one.average.eval(), one.process
    for stage in process.stages:
        t = stage.start + stage.length * (torch.arange(512, dtype=F64) + 0.5) / 512
        example = process.example(x, t, stage.index, images(512, *stage.shape[:2], seed=5))

        def loss(z: Tensor, target: Tensor, t: Tensor = t, stage: int = stage.index) -> float:
            with torch.no_grad():
                return float(process.loss(network(z.float(), t.float(), stage).double(), target))

        best = float(process.loss(example.target.mean(0, keepdim=True).expand_as(example.target), example.target))
        mine = loss(example.z, example.target)
        assert mine < 0.9 * best, (stage.index, mine, best)
        if stage.index == 0:
            other = torch.cat([example.z[:, :1], example.z[:, 1:].roll(1, 0)], dim=1)
            assert loss(other, example.target) > 1.05 * mine


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "multistep2"])
def test_samples_do_not_depend_on_batches(project: Path, solver: str) -> None:
    experiment = load_experiment("cascaded:cascaded", [f"sampling.solver={solver}"])
    process = build_process(experiment.method, 3, 8)
    torch.manual_seed(0)
    network = build_network(experiment.network, 8, process).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    plan, denoise = process.plan(9), network_denoiser(network, "cpu")

    def drawn(groups: list[range]) -> Tensor:
        return torch.cat(
            [draw(process, denoise, build_solver(experiment.sampling), plan, 5, group) for group in groups]
        )

    whole = drawn([range(16)])
    assert whole.shape == (16, 3, 8, 8) and torch.isfinite(whole).all() and whole.std() > 0.01
    assert float(whole.abs().max()) <= 1.0
    torch.testing.assert_close(drawn(list(missing_batches(range(16), [], 5))), whole, rtol=0, atol=1e-4)


def test_a_run_from_data_to_samples(smoke: Path) -> None:
    from fdm.runs import Run

    experiment = load_experiment("cascaded:cascaded", ["training.images=640", "sampling.count=64", "sampling.steps=6"])
    run = Run(experiment, 0, "cpu", smoke / "out")
    run.train()
    run.sample()
    samples = np.load("out/samples.npy")
    assert samples.shape == (64, 1, 8, 8) and samples.dtype == np.uint8
    with np.load("out/trajectory.npz", allow_pickle=False) as file:
        assert list(file["stage"]) == [1, 1, 1, 0, 0, 0]
        assert file["x_5"].shape == (8, 1, 8, 8) and file["x_0"].shape == (8, 1, 4, 4)
