"""What jobs ask a scheduler for, and how a job puts itself back into the queue."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from fdm import cli
from fdm.errors import Interrupted
from fdm.evaluation.budget import budget_of
from fdm.evaluation.demand import BASE_MB, SAFETY, START_MINUTES, THREAD_GFLOPS, demand_of
from fdm.experiment import load_experiment
from fdm.slurm import requeue


def test_minutes_follow_the_counted_operations() -> None:
    digits = load_experiment("digits:ddpm", ["sampling.steps=50"])
    budget = budget_of(digits)
    for step, flops in (("train", budget.training_flops), ("sample", budget.sampling_flops)):
        seconds = flops / (THREAD_GFLOPS * 1e9)
        asked = demand_of(step, digits, 4500)  # type: ignore[arg-type]
        assert START_MINUTES + SAFETY * seconds / 60 <= asked.minutes < START_MINUTES + SAFETY * seconds / 60 + 1
    # 19,200 images are 6.5 TFLOP, 81 s at 80 GFLOP/s: enough, and not a day.
    assert 10 + 1.3 < demand_of("train", digits, 4500).minutes < 30
    whole, part = (demand_of("sample", digits, 4500, shards=shards).minutes for shards in (1, 4))
    assert START_MINUTES < part < whole
    work = demand_of("train", digits, 4500, threads=1).minutes - START_MINUTES
    assert demand_of("train", digits, 4500, threads=8).minutes - START_MINUTES == -(-work // 8)
    # [docs/scale.md] 560 hours of one A100.
    ffhq = load_experiment("ffhq256:ddpm")
    assert demand_of("train", ffhq, 70_000, gpus=1).minutes == pytest.approx(3 * 560 * 60, rel=0.01)
    assert demand_of("train", ffhq, 70_000, gpus=8).minutes == pytest.approx(3 * 560 * 60 / 8, rel=0.01)


def test_memory_holds_data_weights_and_activations() -> None:
    ffhq = load_experiment("ffhq256:ddpm")
    budget, data = budget_of(ffhq), 70_000 * 3 * 256**2
    on_card = demand_of("train", ffhq, 70_000, gpus=1).memory_mb
    on_processor = demand_of("train", ffhq, 70_000).memory_mb
    assert on_card == pytest.approx(BASE_MB + (data + 40 * budget.parameters) / 1e6, abs=1)
    assert on_processor - on_card == pytest.approx(budget.memory_bytes / 1e6, abs=1)
    assert demand_of("evaluate", ffhq, 70_000).memory_mb > demand_of("evaluate", ffhq, 1_000).memory_mb


def test_an_autoencoder_is_asked_for_only_where_there_is_one() -> None:
    assert demand_of("pretrain", load_experiment("latent:fdm-vqvae"), 4500).minutes > START_MINUTES
    assert demand_of("pretrain", load_experiment("digits:ddpm"), 4500).minutes == START_MINUTES


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``scontrol`` that notes what it was asked, and refuses where there is a file ``refuse``."""
    program = tmp_path / "scontrol"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ ! -e {tmp_path}/refuse ] || {{ echo "no way" >&2; exit 1; }}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_job_is_requeued_by_its_number_and_a_task_by_its_own(
    scontrol: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not requeue() and not (scontrol / "asked").exists()  # not in a job
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert requeue()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    assert requeue()
    assert (scontrol / "asked").read_text().splitlines() == ["requeue 12", "requeue 12_4"]
    (scontrol / "refuse").touch()
    assert not requeue()
    assert "SLURM job 12_4: cannot be requeued: no way" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "asked"), [(signal.SIGUSR1, True), (signal.SIGTERM, False), (signal.SIGINT, False)])
def test_only_the_warning_requeues(
    scontrol: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, asked: bool
) -> None:
    """Whoever cancels a job does not want it back."""

    def interrupted() -> None:
        raise Interrupted("stopped", number)

    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.setattr(cli, "end_by", lambda by: sys.exit(128 + by))
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == (1 if asked else 128 + number)
    assert (scontrol / "asked").exists() == asked
    assert "error: stopped" in capsys.readouterr().err
