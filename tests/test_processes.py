"""Processes against closed forms in float64: conditioning of Gaussians, laws after jumps, round trips."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fdm.config import Spacing
from fdm.experiment import load_methods
from fdm.processes import Jump, Move, Prediction, Process, base, build_process
from fdm.processes.staged import Config as StagedConfig
from fdm.processes.staged import Staged

F64 = torch.float64


def staged(side: int = 8, channels: int = 1, operator: str = "box", stages: int = 3, **keys: Any) -> Staged:
    config = StagedConfig(
        process="staged", transforms=[{"kind": "resize", "operator": operator}] * (stages - 1), **keys
    )
    process = build_process(config, channels, side)
    assert isinstance(process, Staged)
    calibrated = build_process(config, channels, side, process.calibrate(images(16, channels, side)))
    assert isinstance(calibrated, Staged)
    return calibrated


def images(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=F64)


processes = st.builds(
    staged,
    side=st.sampled_from([8, 12, 16]),
    channels=st.sampled_from([1, 3]),
    operator=st.sampled_from(["box", "bilinear"]),
    stages=st.integers(1, 3),
    interpolation=st.booleans(),
    rescaling=st.sampled_from(["none", "dim", "dim_power"]),
    predict=st.sampled_from(["double", "operator"]),
    target=st.sampled_from(["v", "x"]),
    schedule=st.builds(
        lambda kind, shift: {"kind": kind, "shift": shift},
        st.sampled_from(["cosine", "linear-beta"]),
        st.floats(0.3, 3),
    ),
)


def signal_at(process: Process, x: Tensor, t: float, stage: int) -> Tensor:
    """x_t written plainly: (1 - u) x^k + u g f x^k while the signal moves."""
    assert isinstance(process, Staged)
    clean = process.signals(x)[stage]
    here = process.stages[stage]
    if not process.config.interpolation or stage == len(process.stages) - 1:
        return clean
    u = (t - here.start) / (here.end - here.start)
    transform = process.transforms[stage]
    return (1 - u) * clean + u * transform.backward(transform.forward(clean))


def inside(process: Process, stage: int, where: float) -> float:
    here = process.stages[stage]
    return here.start + where * here.length


@given(processes, st.data())
def test_marginal_is_the_composition_of_steps(process: Staged, data: st.DataObject) -> None:
    """q(z_t | z_r) after q(z_r | z_s) after q(z_s | x) has the law of q(z_t | x), mean and variance to 1e-10."""
    stage = data.draw(st.integers(0, len(process.stages) - 1))
    s, r, t = (
        inside(process, stage, w)
        for w in sorted(data.draw(st.lists(st.floats(0.02, 0.98), min_size=3, max_size=3, unique=True)))
    )
    x = images(2, process.stages[0].shape[0], process.stages[0].shape[1])
    level = {w: process.level(torch.tensor(w, dtype=F64), stage) for w in (s, r, t)}
    mean = level[s].alpha * signal_at(process, x, s, stage)
    variance = level[s].sigma ** 2
    for old, new in ((s, r), (r, t)):
        ratio = level[new].alpha / level[old].alpha
        mean = ratio * mean + level[new].alpha * (signal_at(process, x, new, stage) - signal_at(process, x, old, stage))
        variance = ratio**2 * variance + (level[new].sigma ** 2 - ratio**2 * level[old].sigma ** 2)
    zero = torch.zeros(2, *process.stages[stage].shape, dtype=F64)
    example = process.example(x, torch.full((2,), t, dtype=F64), stage, zero)
    torch.testing.assert_close(mean, example.z, rtol=0, atol=1e-10)
    one = process.example(torch.zeros_like(x), torch.full((2,), t, dtype=F64), stage, torch.ones_like(zero)).z
    torch.testing.assert_close(variance.sqrt().expand_as(one), one, rtol=0, atol=1e-10)


@given(processes, st.data())
def test_ancestral_step_is_gaussian_conditioning(process: Staged, data: st.DataObject) -> None:
    """With the true signal, the reverse step is q(z_s | z_t, x) from the joint law of (z_s, z_t)."""
    stage = data.draw(st.integers(0, len(process.stages) - 1))
    low, high = sorted(data.draw(st.lists(st.floats(0.02, 0.98), min_size=2, max_size=2, unique=True)))
    s, t = inside(process, stage, low), inside(process, stage, high)
    x = images(2, process.stages[0].shape[0], process.stages[0].shape[1])
    now, then = (process.level(torch.tensor(w, dtype=F64), stage) for w in (t, s))
    x_t, x_s = signal_at(process, x, t, stage), signal_at(process, x, s, stage)
    z = images(2, process.stages[stage].shape[0], process.stages[stage].shape[1], seed=1)
    # Cov(z_t, z_s) = (alpha_t / alpha_s) sigma_s^2: condition z_s on z_t.
    cross = now.alpha / then.alpha * then.sigma**2
    mean = then.alpha * x_s + cross / now.sigma**2 * (z - now.alpha * x_t)
    variance = then.sigma**2 - cross**2 / now.sigma**2
    clean = process.signals(x)[stage]
    moves = process.config.interpolation and stage < len(process.stages) - 1
    truth = Prediction(clean, process.delta(clean, stage) if moves else None)
    found = process.reverse(z, truth, Move(stage, t, s), eta=1.0, noise=torch.zeros_like(z))
    torch.testing.assert_close(found, mean, rtol=0, atol=1e-10)
    spread = process.reverse(z, truth, Move(stage, t, s), eta=1.0, noise=torch.ones_like(z)) - found
    torch.testing.assert_close(spread.square(), variance.expand_as(spread), rtol=0, atol=1e-10)


@given(
    st.sampled_from(["box", "bilinear"]),
    st.sampled_from([4, 8]),
    st.floats(0.2, 0.8),
    st.sampled_from(["cosine", "linear-beta"]),
)
def test_law_after_a_jump_is_that_of_the_finer_stage(operator: str, side: int, tau: float, schedule: str) -> None:
    """Mean alpha x_hat and covariance sigma^2 I to 1e-10, from the jump's linear maps on z' and on fresh noise."""
    process = staged(side, 1, operator, 2, rescaling="dim", boundaries=[tau], schedule={"kind": schedule})
    assert process.exact_jump(1)
    small = side // 2
    coarse, fine = (process.level(torch.tensor(tau, dtype=F64), k) for k in (1, 0))
    x = images(1, 1, side)
    nothing, silent = Prediction(torch.zeros(1, 1, small, small, dtype=F64)), torch.zeros(1, 1, side, side, dtype=F64)
    coarse_signal = process.signals(x)[1]
    mean = process.jump(coarse.alpha * coarse_signal, nothing, 1, silent)
    wanted = fine.alpha * process.transforms[0].backward(coarse_signal)
    torch.testing.assert_close(mean, wanted, rtol=0, atol=1e-10)

    def columns(basis: Tensor, of_state: bool) -> Tensor:
        n = len(basis)
        z = basis if of_state else torch.zeros(n, 1, small, small, dtype=F64)
        noise = torch.zeros(n, 1, side, side, dtype=F64) if of_state else basis
        return process.jump(z, Prediction(torch.zeros_like(z)), 1, noise).flatten(1).mT

    carried = columns(torch.eye(small**2, dtype=F64).reshape(-1, 1, small, small), True)
    fresh = columns(torch.eye(side**2, dtype=F64).reshape(-1, 1, side, side), False)
    covariance = coarse.sigma**2 * carried @ carried.mT + fresh @ fresh.mT
    torch.testing.assert_close(covariance, fine.sigma**2 * torch.eye(side**2, dtype=F64), rtol=0, atol=1e-10)


def test_pooling_the_fine_state_gives_the_coarse_law() -> None:
    """The other direction of the same fact, for box: (alpha' / alpha) f z has mean alpha' x' and covariance sigma'^2 I."""
    process = staged(8, 1, "box", 2)
    coarse, fine = (process.level(torch.tensor(0.5, dtype=F64), k) for k in (1, 0))
    down = process.transforms[0].forward(torch.eye(64, dtype=F64).reshape(-1, 1, 8, 8)).flatten(1).mT
    scaled = coarse.alpha / fine.alpha * down
    expected = coarse.sigma**2 * torch.eye(16, dtype=F64)
    torch.testing.assert_close(fine.sigma**2 * scaled @ scaled.mT, expected, rtol=0, atol=1e-12)


def test_exact_jumps_exist_from_the_critical_ratio_on() -> None:
    assert [staged(rescaling=r).exact_jump(1) for r in ("none", "dim", "dim_power")] == [False, True, True]
    bilinear = staged(operator="bilinear", rescaling="dim_power")
    assert bilinear.power_ratios[0] < 1 and not bilinear.exact_jump(1)
    assert staged(operator="bilinear", rescaling="dim").exact_jump(1)


def test_rescaling_offsets() -> None:
    t = torch.tensor([0.9], dtype=F64)
    process = staged(8, 1, "box", 3)
    shift = process.log_snr(t, 2) - process.schedule.log_snr(t)
    assert float(shift) == pytest.approx(math.log(16), abs=1e-12)
    assert float(staged(rescaling="none").log_snr(t, 2)) == float(process.schedule.log_snr(t))


def test_uncalibrated_levels_are_refused() -> None:
    config = StagedConfig(process="staged", transforms=[{"kind": "resize", "operator": "bilinear"}])
    process = build_process(config, 1, 8)
    with pytest.raises(ValueError, match="calibrate"):
        process.level(torch.tensor(0.9), 1)


def test_power_ratios_are_measured_block_by_block_where_they_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = [{"kind": "resize", "operator": operator} for operator in ("box", "bilinear", "box")]
    process = build_process(StagedConfig.model_validate({"process": "staged", "transforms": raw}), 1, 16)
    assert isinstance(process, Staged)
    x = images(7, 1, 16)
    whole = process.calibrate(x)["power_ratios"]
    coarse = process.signals(x)[2]
    assert whole[::2] == [1.0, 1.0]
    assert whole[1] == float(process.transforms[1].backward(coarse).square().mean() / coarse.square().mean())
    monkeypatch.setattr(base, "BLOCK_BYTES", 2 * 8 * 16 * 16)  # of two images; the last block has one
    monkeypatch.setattr(process.transforms[2], "forward", None)  # known, so that nobody asks
    assert process.calibrate(x)["power_ratios"] == pytest.approx(whole, rel=1e-12)


@given(processes, st.data())
def test_the_network_target_determines_the_data(process: Staged, data: st.DataObject) -> None:
    """predict inverts example: the exact output gives back x^k and delta, for every parametrisation."""
    stage = data.draw(st.integers(0, len(process.stages) - 1))
    t = inside(process, stage, data.draw(st.floats(0.05, 0.95)))
    x = images(2, process.stages[0].shape[0], process.stages[0].shape[1])
    eps = images(2, *process.stages[stage].shape[:2], seed=1)
    example = process.example(x, torch.full((2,), t, dtype=F64), stage, eps)
    assert example.target.shape[1] == process.stages[stage].outputs
    found = process.predict(example.target, example.z, t, stage, clip=False)
    torch.testing.assert_close(found.clean, process.signals(x)[stage], rtol=0, atol=1e-10)
    torch.testing.assert_close(process.signal(found, t, stage), signal_at(process, x, t, stage), rtol=0, atol=1e-10)


def test_clipping_limits_the_signal() -> None:
    process = staged(8, 1, "box", 2, target="x")
    output = torch.full((1, 2, 8, 8), 3.0)
    prediction = process.predict(output, torch.zeros(1, 1, 8, 8), 0.25, 0, clip=True)
    assert float(process.signal(prediction, 0.25, 0).max()) == 1.0
    free = process.predict(output, torch.zeros(1, 1, 8, 8), 0.25, 0, clip=False)
    assert float(process.signal(free, 0.25, 0).max()) == pytest.approx(3.0)


@given(st.integers(1, 3), st.integers(3, 60), st.sampled_from(get_args(Spacing)))
def test_plans_cover_time_with_as_many_evaluations_as_asked(stages: int, steps: int, spacing: Spacing) -> None:
    process = staged(16, 1, "box", stages)
    plan = process.plan(steps, spacing)
    moves = [event for event in plan if isinstance(event, Move)]
    assert len(moves) == steps and moves[0].t == 1.0 and moves[-1].s == 0.0
    time, stage = 1.0, stages - 1
    for event in plan:
        assert event.t == time
        if isinstance(event, Jump):
            assert event.stage == stage and event.t == process.stages[stage].start
            stage -= 1
        else:
            assert event.stage == stage and event.s < event.t
            time = event.s
    counts = [sum(move.stage == k for move in moves) for k in range(stages)]
    if spacing == "uniform":
        assert max(counts) - min(counts) <= 1


def test_cosine_spacing_is_even_in_the_angle() -> None:
    moves = [event for event in staged(16, 1, "box", 1).plan(8, "cosine") if isinstance(event, Move)]
    angles = [math.acos(1 - 2 * move.t) for move in moves] + [math.acos(1 - 2 * moves[-1].s)]
    assert angles == pytest.approx([math.pi * (8 - n) / 8 for n in range(9)])
    three = [event for event in staged(16, 1, "box", 3).plan(12, "cosine") if isinstance(event, Move)]
    assert [sum(move.stage == k for move in three) for k in range(3)] == [4, 3, 5]


@pytest.mark.parametrize("method", ["fdm-ds", "fdm-ds-bilinear", "fdm-blur-g", "fdm-blur-u"])
def test_a_prediction_is_carried_over_a_jump(method: str, project: Path) -> None:
    """The signal at the jump becomes what the jump makes of the earlier prediction; delta stays."""
    process = build_process(load_methods()[method], 1, 16, {"power_ratios": [0.9, 0.9]})
    generator = torch.Generator().manual_seed(0)
    shapes = [stage.shape for stage in process.stages[:2]]
    now, earlier = (torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in shapes)
    assert isinstance(process, Staged)
    given = Prediction(now, process.delta(now, 0))
    carried = process.carry(Prediction(earlier, torch.zeros(())), given, 1)
    assert carried is not None and carried.delta is given.delta
    at_jump = process.signal(carried, process.stages[0].end, 0)
    torch.testing.assert_close(at_jump, process.transforms[0].backward(earlier))


def test_too_few_steps_for_the_stages() -> None:
    with pytest.raises(ValueError, match="2 steps cannot cover 3 stages"):
        staged().plan(2)


@pytest.mark.parametrize(
    ("boundaries", "words"), [([0.5], "2 inner boundaries, 1"), ([0.7, 0.3], "increase"), ([0.2, 1.0], "increase")]
)
def test_bad_boundaries(boundaries: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        staged(boundaries=boundaries)


def test_sides_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="6x6 pixels cannot|3x3 pixels cannot"):
        staged(side=6)


def test_operator_prediction_refuses_eps() -> None:
    with pytest.raises(ValueError, match="operator needs target v or x"):
        staged(predict="operator", target="eps")


@given(st.floats(0.01, 0.2), st.floats(0.01, 0.2))
def test_second_order_takes_the_middle_of_a_line_over_time(before: float, step: float) -> None:
    """Predictions that are linear in t are extrapolated to (t + s) / 2."""
    t, line = 0.6, torch.tensor([[[[1.0, -2.0]]]], dtype=torch.float64)
    late, early = (Prediction(time * line, -time * line) for time in (t, t + before))
    found = staged(16, 1, "box", 3).extrapolate(late, early, Move(0, t + before, t), Move(0, t, t - step))
    torch.testing.assert_close(found.clean, (t - step / 2) * line)
    assert found.delta is not None
    torch.testing.assert_close(found.delta, -(t - step / 2) * line)
