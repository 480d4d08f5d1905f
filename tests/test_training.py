"""Training: exact resume after SIGKILL, f-DM without stages is DDPM bit for bit, accumulation, failures that lose nothing."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from fdm.config import TrainingConfig
from fdm.data import open_store
from fdm.errors import UserError
from fdm.experiment import load_experiment
from fdm.processes import build_process
from fdm.sampling.sampler import draw, network_denoiser
from fdm.sampling.solvers import build_solver
from fdm.store import checkpoint_seconds
from fdm.tensors import load_tensors, save_tensors
from fdm.training import steps
from fdm.training.log import Log, Row
from fdm.training.loop import Trainer, train
from fdm.training.steps import learning_rate, limit_gradients

Command = Callable[..., subprocess.CompletedProcess[str]]


def trainer(reference: str, *overrides: str, seed: int = 0) -> Trainer:
    experiment = load_experiment(reference, overrides)
    process = build_process(experiment.method, experiment.dataset.channels, experiment.dataset.resolution)
    return Trainer(experiment, seed, process, Fabric(accelerator="cpu", devices=1))


def pixels(root: Path) -> torch.Tensor:
    return torch.from_numpy(open_store(root / "data" / "digits8").split("train").images.copy())


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def test_fdm_without_stages_is_ddpm_bit_for_bit(smoke: Path) -> None:
    """Loss, gradients (through Adam: weights) and samples, from two separate implementations."""
    (smoke / "params/suites/smoke.yaml").write_text(
        (smoke / "params/suites/smoke.yaml").read_text()
        + "  none: {method: fdm-ds, overrides: {method: {transforms: []}}}\n"
        + "  operator: {method: fdm-ds, overrides: {method: {transforms: [], predict: operator}}}\n"
    )
    images = pixels(smoke)
    ddpm = trainer("smoke:ddpm")
    for name in ("smoke:none", "smoke:operator"):
        other = trainer(name)
        mine = ddpm if name == "smoke:none" else trainer("smoke:ddpm")
        for step in range(5):
            left, right = mine.step(step, images), other.step(step, images)
            assert left[0] == right[0] == 0
            assert torch.equal(left[1], right[1]) and torch.equal(left[2], right[2])
        assert all(torch.equal(a, b) for a, b in zip(weights(mine.average), weights(other.average), strict=True))
        config = load_experiment("smoke:ddpm").sampling
        samples = []
        for one in (mine, other):
            plan = one.process.plan(6)
            denoise = network_denoiser(one.average.eval(), "cpu")
            samples.append(draw(one.process, denoise, build_solver(config), plan, 3, range(4)))
        assert torch.equal(*samples) and samples[0].std() > 0


def test_gradients_of_the_first_step_are_equal_too(smoke: Path) -> None:
    gradients = []
    for overrides in ([], ["method.process=staged"]):
        one = trainer("smoke:ddpm", *overrides)
        x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        eps = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        t = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)
        example = one.process.example(x, t, 0, eps)
        torch.nn.init.ones_(one.network.output["0"][2].weight)
        one.process.loss(one.network(example.z, t, 0), example.target).backward()
        gradients.append([parameter.grad for parameter in one.network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert any(g.any() for g in gradients[0])


@pytest.mark.parametrize("name", ["ddpm", "fdm-ds-3"])
def test_killed_at_any_moment_ends_in_the_same_weights(smoke: Path, fdm: Command, name: str) -> None:
    """SIGKILL several times at arbitrary moments, the same command again: weights equal those of an undisturbed run."""
    changes = ["-o", "training.images=19200", "-o", "network.dropout=0.1"]
    assert (
        fdm("train", f"smoke:{name}", "--to", "calm", "--threads", "1", *changes, FDM_WORK="calm-work").returncode == 0
    )
    words = [sys.executable, "-m", "fdm", "train", f"smoke:{name}", "--to", "rough", "--threads", "1", *changes]
    environment = {**os.environ, "FDM_CHECKPOINT_SECONDS": "0.2", "FDM_WORK": "rough-work", "OMP_NUM_THREADS": "1"}
    resumed = 0
    for wait in (0.1, 0.45, 0.3):
        process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
        began = time.monotonic()
        while not list(Path("rough-work").glob("train-*/state.safetensors")) and process.poll() is None:
            assert time.monotonic() - began < 120
            time.sleep(0.02)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        resumed += process.wait() == -signal.SIGKILL
    assert resumed >= 1, "every run ended before it was killed; train longer here"
    last = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    calm, rough = load_file("calm/model.safetensors"), load_file("rough/model.safetensors")
    assert calm.keys() == rough.keys() and all(torch.equal(calm[key], rough[key]) for key in calm)
    logged = [line.split(",")[0] for line in Path("rough/training.csv").read_text().splitlines()[1:]]
    assert logged == [str(step) for step in range(300)]


@pytest.mark.parametrize("text", ["abc", "-1", "nan"])
def test_time_between_saves_is_a_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FDM_CHECKPOINT_SECONDS", text)
    with pytest.raises(UserError, match=f"FDM_CHECKPOINT_SECONDS={text}: must be a number of seconds"):
        checkpoint_seconds()


@pytest.mark.parametrize(
    ("asked", "cost", "saved"),
    [(5.0, 0.01, list(range(10, 100, 10))), (5.0, 2.0, [10, 50, 90]), (0.0, 2.0, list(range(10, 100, 10)))],
)
def test_saves_that_take_long_are_far_apart(
    monkeypatch: pytest.MonkeyPatch, asked: float, cost: float, saved: list[int]
) -> None:
    """At least 20 times as far as one takes; of steps that take a second each, one in ten may save."""
    now, found = [0.0], []

    def spend(seconds: float) -> None:
        now[0] += seconds

    def save(step: int) -> None:
        found.append(step)
        spend(cost)

    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: now[0]))
    steps.run_steps("saving", range(100), 1, lambda _: spend(1.0), lambda: "", save, asked)
    assert found == saved


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_the_same_command_goes_on(smoke: Path, fdm: Command, number: signal.Signals) -> None:
    words = [sys.executable, "-m", "fdm", "train", "smoke:ddpm", "-o", "training.images=640000", "--threads", "1"]
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env={**os.environ, "FDM_CHECKPOINT_SECONDS": "0.1"}
    )
    while not list(Path("work").glob("train-*/state.safetensors")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == (1 if number == signal.SIGUSR1 else -number)
    assert number.name in errors and "goes on from there" in errors
    state = next(Path("work").glob("train-*/state.safetensors"))
    _, metadata = load_tensors(state, state.parent.name.removeprefix("train-"))
    assert int(metadata["step"]) > 0


def test_accumulation_does_not_change_the_step(smoke: Path) -> None:
    whole, parts = trainer("smoke:fdm-ds-3"), trainer("smoke:fdm-ds-3", "training.accumulate=4")
    images = pixels(smoke)
    for step in range(3):
        whole.step(step, images)
        parts.step(step, images)
    for a, b in zip(weights(whole.network), weights(parts.network), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 10.0, math.nan])
def test_gradients_are_limited_as_torch_clips_them(size: float) -> None:
    """Bit for bit, below the limit, above it and where the norm is not a number."""
    weights = [
        torch.nn.Parameter(torch.zeros(3, 4)),
        torch.nn.Parameter(torch.zeros(5)),
        torch.nn.Parameter(torch.zeros(2)),
    ]
    for index, weight in enumerate(weights[:2]):
        weight.grad = size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(index))
    twins = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    for weight, twin in zip(weights[:2], twins, strict=False):
        twin.grad = weight.grad.clone()  # type: ignore[union-attr]
    norm = limit_gradients(weights, 1.0)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(twins, 1.0), rtol=0, atol=0, equal_nan=True)
    for weight, twin in zip(weights[:2], twins, strict=False):
        torch.testing.assert_close(weight.grad, twin.grad, rtol=0, atol=0, equal_nan=True)


def test_the_average_is_that_of_all_weights_after_the_first_step(smoke: Path) -> None:
    """Its decay is min(ema, (1 + n) / (10 + n)) at step n."""
    images, one = pixels(smoke), trainer("smoke:fdm-ds-3", "training.ema=0.3")
    expected: list[torch.Tensor] = []
    for step in range(6):
        one.step(step, images)
        now = [weight.double() for weight in weights(one.network)]
        decay = min(0.3, (1 + step) / (10 + step))
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, now, strict=True)] if step else now
    for found, value in zip(weights(one.average), expected, strict=True):
        torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=1e-7)


def test_bf16_follows_fp32(smoke: Path) -> None:
    losses = []
    for precision in ("32", "bf16"):
        one = trainer("smoke:ddpm")
        one.precision = precision  # type: ignore[assignment]
        losses.append([float(one.step(step, pixels(smoke))[1]) for step in range(20)])
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=0.05, atol=0.01)
    assert losses[0] != losses[1]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state(smoke: Path) -> None:
    experiment = load_experiment("smoke:ddpm", ["training.lr=1.0e+30", "training.warmup=0"])
    folder = smoke / "run"
    folder.mkdir()
    data = open_store(smoke / "data/digits8").split("train")
    with pytest.raises(UserError, match=r"loss is not finite at step \d+.*Lower training.lr"):
        train(experiment, 0, data, folder, "x", Fabric(accelerator="cpu", devices=1), 30.0)
    assert not (folder / "model.safetensors").exists()


def test_learning_rate_schedule() -> None:
    config = TrainingConfig(images=6400, batch=64, lr=1e-3, warmup=10, lr_decay="cosine")
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4, rel=0.01) and max(rates) < 1e-3 and rates[-1] < 1e-5


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.arange(1000)}, {"identity": "me"})
    assert torch.equal(load_tensors(path, "me")[0]["a"], torch.arange(1000))
    again = tmp_path / "again.safetensors"
    for _ in range(5):
        save_tensors(again, {"a": torch.arange(1000)}, {"identity": "me", "step": "3", "seconds": "1.0"})
        first = again.read_bytes()
        save_tensors(again, {"a": torch.arange(1000)}, {"seconds": "1.0", "step": "3", "identity": "me"})
        assert again.read_bytes() == first
    with pytest.raises(UserError, match="belongs to another experiment"):
        load_tensors(path, "you")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated or damaged checkpoint"):
        load_tensors(path, "me")
    with pytest.raises(UserError, match="no such checkpoint"):
        load_tensors(tmp_path / "none", "me")


def test_the_log_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    """File and digest are those of one log, and the digest that of the file."""
    rows = [Row(k, 64 * k, k % 2, 0.1 + k / 3, 1e-3 / (k + 1), 10.0**k, 0.5 * k) for k in range(6)]
    whole, parted = tmp_path / "whole" / "training.csv", tmp_path / "parted" / "training.csv"
    for path in (whole, parted):
        path.parent.mkdir()
    log = Log(Row, whole, 0)
    for row in rows:
        log.add([row])
    log.write()
    text = whole.read_bytes()
    assert text.splitlines()[:2] == [b"step,images,stage,loss,lr,grad_norm,seconds", b"0,0,0,0.1,0.001,1,0"]
    first = Log(Row, parted, 0)
    first.add(rows[:4])
    first.write()
    kept = first.digest()
    first.add(rows[4:5])  # lost with the process
    second = Log(Row, parted, 4, kept)
    second.add(rows[4:])
    second.write()
    assert second.digest() == log.digest() == hashlib.sha256(text).hexdigest()
    assert parted.read_bytes() == text
    for one in (log, first, second):
        one.close()
