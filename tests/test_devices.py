"""Training on several devices: two processes train as one, in any order of one and two, and end together with one line.

Run as a script under torchrun, this file trains ``CASES`` and leaves their weights in the folder that it is given.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from fdm.config import TrainingConfig
from fdm.data import open_store
from fdm.device import device_name
from fdm.errors import Elsewhere, UserError
from fdm.experiment import load_experiment
from fdm.launch import ALONE, Layout, connect, layout
from fdm.processes import build_process
from fdm.runs import Run
from fdm.training.loop import Trainer
from fdm.training.ranks import Ranks

STEPS = 50
CASES = {
    # Stages with inputs and outputs of their own: most steps leave parameters unused.
    "stages": ("smoke:fdm-ds-3", "dataset.flip=true"),
    # A network for each stage; four micro-batches, two on each device.
    "cascade": ("cascaded:cascaded", "training.accumulate=4"),
    # Masks of dropout, with one micro-batch on each device.
    "classes": (
        "smoke:ddpm",
        "conditioning.classes=10",
        "training.accumulate=2",
        "network.dropout=0.1",
        "network.attention=[4]",
    ),
    # Weights of examples in the loss; outputs finer than inputs.
    "scale-space": ("scale-space:ssd", "training.weight_decay=0.1"),
}
Command = Callable[..., subprocess.CompletedProcess[str]]


def train_cases(processes: Layout, to: Path) -> None:
    """Train every case for ``STEPS`` steps in float64; rank zero writes network and average to ``to``."""
    with float64():
        fabric = connect(processes, torch.device("cpu"))
        for name, (reference, *overrides) in CASES.items():
            experiment = load_experiment(reference, overrides)
            data = open_store(Path("data") / experiment.dataset.name).split("train")
            assert data.labels is not None
            images, labels = torch.from_numpy(data.images.copy()), torch.from_numpy(data.labels)
            trainer = Trainer(experiment, 0, build_process(experiment.method, 1, 8), fabric)
            for step in range(STEPS):
                trainer.step(step, images, labels if experiment.classes else None)
            if fabric.global_rank == 0:
                to.mkdir(exist_ok=True)
                weights = {**trainer.network.state_dict(), **trainer.average.state_dict()}
                save_file({key: value.contiguous() for key, value in weights.items()}, to / f"{name}.safetensors")


@contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def test_two_processes_train_as_one(smoke: Path) -> None:
    """Float64, so that what differs is the arithmetic and not its rounding, which 50 steps of Adam would amplify."""
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", __file__, "two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    train_cases(ALONE, Path("one"))
    output, _ = process.communicate()
    assert process.returncode == 0, output
    for name in CASES:
        one, two = (load_file(f"{folder}/{name}.safetensors") for folder in ("one", "two"))
        assert one.keys() == two.keys()
        for key, value in one.items():
            torch.testing.assert_close(
                two[key], value, rtol=0, atol=1e-9, msg=lambda text, at=f"{name} {key}": f"{at}: {text}"
            )


def test_any_order_of_one_and_two_devices_ends_in_the_same_weights(
    smoke: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process killed, the processes stopped, one process stopped in between: bits of the undisturbed run on one device.

    Two micro-batches, so that one device and two add up the same two numbers, and dropout has the same masks.
    """
    changes = ["training.images=19200", "training.accumulate=2", "network.dropout=0.1"]
    monkeypatch.setenv("FDM_WORK", "calm-work")
    Run(load_experiment("smoke:fdm-ds-3", changes), 0, "cpu", Path("calm")).train()
    command = [
        sys.executable,
        "-m",
        "fdm",
        "train",
        "smoke:fdm-ds-3",
        "--to",
        "rough",
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    command += [word for change in changes for word in ("-o", change)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FDM_WORK": "rough-work", "FDM_CHECKPOINT_SECONDS": "0.1"}

    def interrupted(number: signal.Signals, devices: int, rank: int | None = None) -> str:
        """Send a signal to the command, or to one of its processes, after some steps; what it says on stderr."""
        before = time_of_state()
        process = subprocess.Popen(
            [*command, "--devices", str(devices)], env=environment, stderr=subprocess.PIPE, text=True
        )
        while time_of_state() <= before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(process.pid if rank is None else int(children[rank]), number)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == (-number if number == signal.SIGTERM else 1) and not Path("rough").exists()
        assert all(not Path("/proc", child).exists() for child in children), "a process is left behind"
        return errors

    def lines(errors: str) -> list[str]:
        return [line for line in errors.splitlines() if not line.startswith("train fdm-ds-3 seed 0: ")]  # progress

    killed = lines(interrupted(signal.SIGKILL, 2, rank=1))
    assert len(killed) == 1 and killed[0].startswith("error: process 2 of 2 was ended by SIGKILL; the state")
    assert "stopped by SIGUSR1" in interrupted(signal.SIGUSR1, 1)
    for rank in (None, 0):
        stopped = lines(interrupted(signal.SIGTERM, 2, rank))
        assert len(stopped) == 1 and "stopped by SIGTERM" in stopped[0] and "goes on from there" in stopped[0]
    last = subprocess.run([*command, "--devices", "2"], env=environment, capture_output=True, text=True)
    assert last.returncode == 0 and len(lines(last.stderr)) == 1, last.stderr

    calm, rough = load_file("calm/model.safetensors"), load_file("rough/model.safetensors")
    assert calm.keys() == rough.keys() and all(torch.equal(calm[key], rough[key]) for key in calm)
    assert sorted(path.name for path in Path("rough").iterdir()) == ["model.safetensors", "train.json", "training.csv"]
    assert len(list(Path("rough-work").iterdir())) == 1
    rows = [line.split(",") for line in Path("rough/training.csv").read_text().splitlines()[1:]]
    undisturbed = [line.split(",") for line in Path("calm/training.csv").read_text().splitlines()[1:]]
    assert [row[:3] for row in rows] == [row[:3] for row in undisturbed]  # step, images, stage
    for one, two in zip(undisturbed, rows, strict=True):
        assert float(two[3]) == pytest.approx(float(one[3]), rel=1e-4)  # the loss of the whole batch


def time_of_state() -> int:
    """When the state in ``rough-work`` was written, ns; 0 where there is none."""
    return max((state.stat().st_mtime_ns for state in Path("rough-work").glob("train-*/state.safetensors")), default=0)


def test_how_a_batch_is_divided() -> None:
    assert TrainingConfig(batch=64).micro_batches(4) == 1
    # Micro-batches of 64 / 16 = 4 images, as on one device, until there are more devices than micro-batches.
    many = TrainingConfig(batch=64, accumulate=16)
    assert [many.micro_batches(devices) for devices in (1, 2, 8, 16, 32)] == [16, 8, 2, 1, 1]
    with pytest.raises(UserError, match=r"training.batch=64 cannot be divided among 3 devices; take a number"):
        TrainingConfig(batch=64).micro_batches(3)
    with pytest.raises(
        UserError, match=r"training.batch=64 cannot be divided among 3 devices and 6 micro-batches on each"
    ):
        many.micro_batches(3)


def test_a_batch_that_cannot_be_divided_starts_nothing(smoke: Path, fdm: Command) -> None:
    found = fdm("train", "smoke:ddpm", "--devices", "3")
    assert found.returncode == 1 and not Path("work").exists()
    assert found.stderr == (
        "error: training.batch=64 cannot be divided among 3 devices; take a number of devices that divides it\n"
    )


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2", "RANK": "5", "LOCAL_RANK": "1"}
SRUN = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "3", "SLURM_PROCID": "0", "SLURM_NTASKS": "6"}
BY_HAND = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "2000", "NODE_RANK": "1"}


@pytest.mark.parametrize(
    ("variables", "asked", "expected"),
    [
        ({}, (None, None), ALONE),
        ({}, (4, None), Layout(4, 1, 0, started=False)),
        (TORCHRUN, (None, None), Layout(4, 2, 5)),
        (TORCHRUN, (4, 2), Layout(4, 2, 5)),
        (SRUN, (None, None), Layout(2, 3, 0)),
        # The batch script of a job with several tasks is one process, and so is a step with one task.
        ({"SLURM_NTASKS": "6", "SLURM_PROCID": "0"}, (2, None), Layout(2, 1, 0, started=False)),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, (None, None), ALONE),
        (BY_HAND, (4, 2), Layout(4, 2, 4, started=False)),
        ({**BY_HAND, "LOCAL_RANK": "3"}, (4, 2), Layout(4, 2, 7)),
        ({"LOCAL_RANK": "1"}, (2, None), Layout(2, 1, 1)),
    ],
)
def test_who_starts_the_processes(
    variables: dict[str, str], asked: tuple[int | None, int | None], expected: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, variables)
    assert layout(*asked) == expected


@pytest.mark.parametrize(
    ("variables", "asked", "message"),
    [
        (TORCHRUN, (8, None), "--devices 8: torchrun has started 4 processes on each node; leave the option out or"),
        (SRUN, (None, 2), "--num-nodes 2: srun has started 3 nodes; leave the option out or make it 3"),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "7"}, (None, None), "srun has started 7 processes on 3 nodes"),
        (
            {},
            (None, 2),
            "--num-nodes 2: start the command with torchrun or srun, or .*MASTER_ADDR, MASTER_PORT, NODE_RANK",
        ),
    ],
)
def test_what_was_started_must_be_what_is_asked_for(
    variables: dict[str, str], asked: tuple[int | None, int | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, variables)
    with pytest.raises(UserError, match=message):
        layout(*asked)


def test_the_others_wait_for_large_data_to_be_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(distributed, "new_group", lambda **given: asked.update(given))
    Ranks(SimpleNamespace(global_rank=1, world_size=2))  # type: ignore[arg-type]
    assert asked["backend"] == "gloo" and asked["timeout"] >= timedelta(hours=6)  # 30 minutes by default


def test_an_error_that_all_meet_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fdm.launch.HEARING_SECONDS", 0.0)
    for rank, kind in enumerate((UserError, Elsewhere)):
        with pytest.raises(UserError) as found, Layout(2, 1, rank).one_voice():
            raise UserError("no such experiment")
        assert type(found.value) is kind


def test_autoencoders_train_on_one_device(smoke: Path, fdm: Command) -> None:
    found = fdm("pretrain", "smoke:ddpm", **{**TORCHRUN, "RANK": "0"})
    assert found.returncode == 1
    assert found.stderr == "error: an autoencoder trains on one device, not 8: start one process of `fdm pretrain`\n"


def test_a_processor_is_named_with_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual machines call processors of very different speed by one name."""
    text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: other\n"
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert device_name(torch.device("cpu")) == "AMD EPYC (family 25, model 17)"
    monkeypatch.setattr(Path, "read_text", lambda self: "processor : 0\n")  # as on ARM
    assert device_name(torch.device("cpu")) in (platform.processor(), platform.machine())


def only(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Set these variables, and none of the others that tell how processes were started."""
    for name in (*TORCHRUN, *SRUN, *BY_HAND):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_cases(layout(), Path(sys.argv[1]))
