"""`fdm benchmark`: parts add up, sweeps, files, errors."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fdm.benchmark import chosen, clock
from fdm.benchmark.clock import Timing, alternate, unsplit
from fdm.errors import UserError

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_timings() -> None:
    slow, fast = Timing.columns([(4.0, 1.0), (8.0, 2.0), (6.0, 3.0)])
    assert slow.median == 6 and slow.quartiles == (5, 7) and slow.over(fast).values == (4, 4, 2)
    calls: list[str] = []
    tasks = {name: (lambda name=name: calls.append(name)) for name in "ab"}  # type: ignore[misc]
    timings = alternate(tasks, 3, torch.device("cpu"))
    assert calls == ["a", "b"] * 4, "in turn, and once before that is not counted"
    assert all(len(timing.values) == 3 for timing in timings.values())


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A pretended GPU: what is returned queues so many seconds of work; whoever waits for it waits 10 microseconds more."""
    now, queued = [0.0], [0.0]

    def wait(device: torch.device) -> float:
        now[0] += queued[0] + 1e-5
        queued[0] = 0.0
        return now[0]

    def work(seconds: float) -> None:
        queued[0] += seconds

    monkeypatch.setattr(clock, "stopwatch", wait)
    return work


@pytest.mark.parametrize("seconds", [2e-5, 1e-3, 0.5])
def test_short_calls_on_a_gpu_are_timed_without_the_waiting(gpu: Callable[[float], None], seconds: float) -> None:
    timings = alternate({"short": lambda: gpu(seconds)}, 2, torch.device("cuda"))
    assert timings["short"].values == pytest.approx([seconds] * 2, rel=2e-3)


def test_parts_on_a_gpu_keep_their_shares_of_a_whole_without_waiting(gpu: Callable[[float], None]) -> None:
    row = (0.2, 0.15, 0.05)
    assert unsplit(row, lambda: gpu(0.1), torch.device("cpu")) == row
    assert unsplit(row, lambda: gpu(0.1), torch.device("cuda")) == pytest.approx((0.1, 0.075, 0.025), rel=1e-3)


def test_experiments_of_suites_and_sweeps(project: Path) -> None:
    labels = [label for label, _ in chosen(["smoke"], [], None)]
    assert labels == ["ddpm", "fdm-ds-3"]
    swept = chosen(["smoke:ddpm"], ["training.batch=2"], "network.channels=8,16")
    assert [label for label, _ in swept] == ["ddpm · network.channels=8", "ddpm · network.channels=16"]
    assert [e.network.channels for _, e in swept] == [8, 16] and {e.training.batch for _, e in swept} == {2}
    for wrong in ("network.channels", "=8", "network.channels="):
        with pytest.raises(UserError, match="expected KEY=VALUE,VALUE"):
            chosen(["smoke:ddpm"], [], wrong)
    file = [label for label, _ in chosen(["params/suites/smoke.yaml"], [], None)]
    assert file == labels and chosen(["ablations:blur-diffusion+log-0.6"], [], None)[0][0] == "blur-diffusion+log-0.6"
    with pytest.raises(UserError, match="--steps 2: fdm-ds-3: 2 steps cannot cover 3 stages"):
        chosen(["smoke"], [], None, 2)
    # Its network belongs to 100 steps, which an override may not change alone.
    ((_, ihdm),) = chosen(["speed:ihdm"], [], None, 8)
    assert ihdm.sampling.steps == 8
    with pytest.raises(UserError, match="ihdm takes the 100 steps"):
        chosen(["speed:ihdm"], ["sampling.steps=8"], None)
    with pytest.raises(UserError, match="chanels"):
        chosen(["smoke:ddpm"], [], "network.chanels=8,16")


def test_the_command_measures_and_writes(project: Path, fdm: Command) -> None:
    done = fdm(
        "benchmark",
        "smoke",
        "--rounds",
        "2",
        "--steps",
        "6",
        "--threads",
        "1",
        "--batch",
        "4",
        "--evaluation",
        "--to",
        "out",
    )
    assert done.returncode == 0, done.stderr
    assert "2/2: fdm-ds-3" in done.stderr and all(word in done.stdout for word in ("Ceilings", "Training", "Sampling"))
    measured = json.loads(Path("out/benchmark.json").read_text())
    assert {c["precision"] for c in measured["ceilings"]} == {"32", "bf16"}
    assert all(c["convolution"] > 1e9 for c in measured["ceilings"])
    assert 0 < measured["evaluation"]["efficientnet-lite0"]["seconds_per_image"]["median"] < 1
    ddpm, staged = measured["experiments"]
    assert [stage["shape"] for stage in staged["training"]["stages"]] == [[1, 8, 8], [1, 4, 4], [1, 2, 2]]
    assert sum(stage["share"] for stage in staged["training"]["stages"]) == pytest.approx(1)
    assert staged["sampling"]["evaluations"] == 6 and staged["sampling"]["flops"] < ddpm["sampling"]["flops"]
    for experiment in (ddpm, staged):
        assert 0 < experiment["sampling"]["overhead"] < 1 and 0 < experiment["training"]["overhead"] < 1
        for stage in experiment["training"]["stages"]:
            assert stage["batch"] == 4 and 0 < stage["passes"]["median"] < stage["total"]["median"]
    assert Path("out/benchmark.svg").read_text().startswith("<?xml") and Path("out/benchmark.png").stat().st_size > 1000


def test_an_autoencoder_is_timed_with_random_weights(project: Path, fdm: Command) -> None:
    words = ("latent:fdm-vqvae", "-o", "network.channels=8", "--rounds", "1", "--steps", "2", "--batch", "2")
    done = fdm("benchmark", *words, "--threads", "1", "--to", "out")
    assert done.returncode == 0, done.stderr
    (measured,) = json.loads(Path("out/benchmark.json").read_text())["experiments"]
    assert measured["sampling"]["autoencoder"]["median"] > 0
