"""Identities of every method of params/methods, to 1e-10 in float64, over random sizes, schedules, targets and seeds.

What a process alone can say (its posterior from dense matrices, its composition of steps, its jumps) is in the tests of its
own: test_processes (staged; with no stage it is DDPM, bit for bit), test_frequency, test_scale_space, test_latent, test_blur.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from fdm import experiment as experiments
from fdm.config import Frozen
from fdm.processes import Move, Prediction, Process, build_process

F64 = torch.float64
METHODS = sorted(path.stem for path in (REPOSITORY / "params/methods").glob("*.yaml"))


@cache
def methods() -> dict[str, Frozen]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        return experiments.load_methods()


class Mixing:
    """A codec in float64: a fixed random linear map and its pseudo-inverse stand for a trained autoencoder."""

    def __init__(self, fine: tuple[int, ...], coarse: tuple[int, ...]) -> None:
        self.fine, self.coarse = fine, coarse
        rows, columns = (torch.Size(shape).numel() for shape in (coarse, fine))
        self.map = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=F64) / columns**0.5

    def encode(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.map.mT).unflatten(1, self.coarse)

    def decode(self, latents: Tensor) -> Tensor:
        return (latents.flatten(1) @ torch.linalg.pinv(self.map).mT).unflatten(1, self.fine)


def images(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@st.composite
def cases(draw: st.DrawFn, name: str) -> tuple[Process, tuple[int, int, int], int, float, float, int]:
    """The method with a random size, schedule and target; a stage in which steps exist, two times s < t in it, a seed."""
    method = methods()[name]
    changes: dict[str, Any] = {}
    if "schedule" in type(method).model_fields:
        kind = draw(st.sampled_from(["cosine", "linear-beta"]))
        changes["schedule"] = {"kind": kind, "shift": draw(st.floats(0.3, 3)), "lambda_max": 12, "lambda_min": -9}
    if "target" in type(method).model_fields:
        changes["target"] = draw(st.sampled_from(["v", "eps", "x"]))
    try:
        method = type(method).model_validate({**method.model_dump(), **changes})
    except ValidationError:
        assume(False)  # eps where it does not determine the signal
    channels = draw(st.sampled_from([1, 3]))
    shape = (channels, *[draw(st.sampled_from([8, 16] if channels == 1 else [8]))] * 2)
    seed = draw(st.integers(0, 10**6))
    plain = build_process(method, channels, shape[1])
    needed = plain.pretraining()
    codec = Mixing(needed.shape, needed.config.latent_shape(needed.shape)) if needed else None
    calibration = build_process(method, channels, shape[1], codec=codec).calibrate(images(16, shape, seed))
    process = build_process(method, channels, shape[1], calibration, codec)
    stage = draw(st.sampled_from([stage for stage in process.stages if stage.length > 0]))
    low, high = sorted(draw(st.lists(st.floats(0.02, 0.95), min_size=2, max_size=2, unique=True)))
    return process, shape, stage.index, stage.start + high * stage.length, stage.start + low * stage.length, seed


def state(process: Process, x: Tensor, t: float, stage: int, eps: Tensor) -> tuple[Tensor, Prediction]:
    """z and what the perfect network output says there."""
    example = process.example(x, torch.full((len(x),), t, dtype=F64), stage, eps)
    assert example.target.shape[1] == process.stages[stage].outputs
    return example.z, process.predict(example.target, example.z, t, stage, clip=False)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=25)
@given(st.data())
def test_targets_determine_states_at_other_times(name: str, data: st.DataObject) -> None:
    """Network target -> prediction -> deterministic step: the same data and noise at another time, whatever is predicted."""
    process, shape, stage, t, s, seed = data.draw(cases(name))
    x, eps = images(2, shape, seed), images(2, process.stages[stage].shape, seed + 1)
    later = eps
    if process.at_steps(7) is not process:
        # A chain of trained steps has no others: one of them, without noise, leads to the mean of the next state.
        (move,) = (move for move in process.at_steps(7).plan(7) if move.s < t <= move.t)
        process, t, s, later = process.at_steps(7), move.t, move.s, torch.zeros_like(eps)
        assume(s > 0)
    z_t, prediction = state(process, x, t, stage, eps)
    moved = process.reverse(z_t, prediction, Move(stage, t, s), eta=0.0, noise=None)
    torch.testing.assert_close(moved, state(process, x, s, stage, later)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=8)
@given(st.data(), st.floats(0, 2))
def test_every_eta_keeps_the_marginal(name: str, data: st.DataObject, eta: float) -> None:
    """With z_t of its law given x, the step draws z_s of its law: L Sigma_t L^T + R R^T = Sigma_s, for ancestral steps too."""
    process, shape, stage, t, s, seed = data.draw(cases(name))
    if process.at_steps(7) is not process:
        return  # its steps are no reverse steps of a Gaussian chain; test_frequency has what they are
    x = images(1, shape, seed)
    inner = process.stages[stage].shape
    size = torch.Size(inner).numel()
    basis = torch.cat([torch.zeros(1, size, dtype=F64), torch.eye(size, dtype=F64)]).unflatten(1, inner)
    still = torch.zeros_like(basis)
    many = x.expand(len(basis), -1, -1, -1)
    roots = [state(process, many, time, stage, basis)[0] for time in (t, s)]
    truth = state(process, many, t, stage, still)[1]

    def response(batch: Tensor) -> Tensor:
        return (batch[1:] - batch[:1]).flatten(1).mT

    move = Move(stage, t, s)
    kept = response(process.reverse(roots[0], truth, move, eta=eta, noise=still))
    fresh = response(process.reverse(roots[0][:1].expand_as(basis), truth, move, eta=eta, noise=basis))
    wanted = response(roots[1])
    found = kept @ kept.mT + fresh @ fresh.mT
    torch.testing.assert_close(found, wanted @ wanted.mT, rtol=0, atol=1e-10)
