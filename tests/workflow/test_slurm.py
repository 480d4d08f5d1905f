"""The workflow on a real SLURM of one node: the same tables, and jobs that are stopped or preempted end as if they had not been."""

from __future__ import annotations

import csv
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from .conftest import Finished, Repository
from .slurm.cluster import Cluster, missing_programs, one_node

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.xdist_group("workflow"),
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"needs a SLURM to start: {', '.join(missing_programs())} not found (Debian: slurm-wlm, munge)",
    ),
]

PROFILES = ("--profile", "workflow/profiles/slurm", "--profile", str(Path(__file__).parent / "slurm"))
LONGER = "training.images=19200"
MEASURED = ("second", "minute", "time", "memory")
"""Columns of tables that say what something took, at that moment."""


@dataclass(frozen=True)
class OnCluster(Repository):
    """A working copy whose Snakemake submits to a cluster."""

    cluster: Cluster

    @property
    def environment(self) -> dict[str, str]:
        """That of the copy, and what SLURM's commands need; checkpoints at every look at the losses."""
        return self.cluster.environment(super().environment) | {"FDM_CHECKPOINT_SECONDS": "0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, one_node(Path(folder)) as running:
        yield running


def _weights(folder: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(folder / "model.safetensors").items()}


def _table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV without the columns of what was measured."""
    with path.open(newline="") as file:
        # Whether a claim about speed holds depends on the moment, too.
        rows = [row for row in csv.DictReader(file) if "time" not in row.get("measured", "")]
    return [{key: value for key, value in row.items() if not any(word in key for word in MEASURED)} for row in rows]


def test_the_same_tables_as_on_this_machine(clone: Repository, finished: Finished, cluster: Cluster) -> None:
    driver = OnCluster(clone.root, cluster).start("snakemake", *PROFILES, "--config", "suite=smoke")
    said, _ = driver.communicate(timeout=900)
    assert driver.returncode == 0, said
    assert "9 of 9 steps (100%) done" in said
    jobs = cluster.run("squeue", "--states=all", "--noheader", "--format=%k %T %l").splitlines()
    assert len(jobs) == 8 and all(" COMPLETED " in job for job in jobs)
    assert sum(job.startswith("rule_train_") for job in jobs) == 2
    for run in ("ddpm/seed0", "fdm-ds-3/seed0"):
        here, there = clone.root / "results/smoke" / run, finished.root / "results/smoke" / run
        assert _weights(here) == _weights(there)
        for name in ("samples.npy", "metrics.json"):
            assert (here / name).read_bytes() == (there / name).read_bytes()
    tables = sorted(path.name for path in (finished.root / "reports/smoke/tables").glob("*.csv"))
    assert tables == sorted(path.name for path in (clone.root / "reports/smoke/tables").glob("*.csv"))
    for name in tables:
        here, there = (root / "reports/smoke/tables" / name for root in (clone.root, finished.root))
        assert _table(here) == _table(there)
    assert clone.plan() == {}  # and a run on this machine finds nothing to do


def _wait(driver: subprocess.Popen[str], until: Callable[[], bool], what: str, seconds: float = 900) -> None:
    """Until something happens, while Snakemake is at work."""
    deadline = time.monotonic() + seconds
    while not until():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline, f"{what} within {seconds:g} s"
        time.sleep(0.1)


def _training(repository: Repository) -> psutil.Process:
    """The process that trains in ``repository``."""
    (found,) = (
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(repository.root)
        and "train" in process.info["cmdline"]
        and process.info["cmdline"][1].endswith("/fdm")
    )
    return found


def _ignores(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether a process does not mind a signal."""
    (mask,) = re.findall(r"^SigIgn:\s*([0-9a-f]+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_job_at_its_time_limit_and_a_preempted_one_go_on(clone: Repository, cluster: Cluster) -> None:
    """One training is stopped twice: by the warning that SLURM sends before the time limit, and by a more urgent job."""
    clone.run("fdm", "data", "digits8")
    results, log = clone.root / "results/smoke/ddpm/seed0", clone.root / "logs/smoke/ddpm/seed0/train.log"
    driver = OnCluster(clone.root, cluster).start(
        "snakemake",
        *PROFILES,
        "--config",
        "suite=smoke",
        f"overrides={LONGER}",
        "--",
        "results/smoke/ddpm/seed0/train.json",
    )

    def saved() -> list[int]:
        """When the state of the training was saved last."""
        return [path.stat().st_mtime_ns for path in clone.root.glob("work/train-*/state.safetensors")]

    def restarts() -> int:
        return int(re.search(r"Restarts=(\d+)", cluster.run("scontrol", "show", "job", job)).group(1))  # type: ignore[union-attr]

    try:
        _wait(driver, lambda: bool(saved()), "a training saves")
        training = _training(clone)
        training.suspend()  # so that it does not end before it is stopped
        (job,) = cluster.run("squeue", "--states=running", "--noheader", "--format=%i").split()
        # If Snakemake, the shell or `tee` ended on the warning, SLURM would kill the training before it has saved.
        shell = training.parents()[0]
        assert all(
            _ignores(p, signal.SIGUSR1) for p in (shell, *shell.parents()[:1], *shell.children()) if p != training
        )
        limit = cluster.run("squeue", "--jobs", job, "--noheader", "--format=%l")
        # A limit so near that SLURM warns at its next look, as the profile asks for (--signal=USR1@120); it wakes whom it warns.
        cluster.run("scontrol", "update", f"jobid={job}", "timelimit=2")
        _wait(driver, lambda: "asks to go back to the queue" in log.read_text(), "the training asks to be requeued")
        assert "stopped by SIGUSR1 at step" in log.read_text()
        cluster.run("scontrol", "update", f"jobid={job}", f"timelimit={limit}")
        _wait(driver, lambda: restarts() == 1, "SLURM requeues it")
        stopped = saved()
        _wait(driver, lambda: saved() > stopped, "it goes on")
        _training(clone).suspend()  # SLURM wakes whom it ends
        cluster.run("sbatch", "--partition=urgent", "--cpus-per-task=4", "--output=/dev/null", "--wrap=true")
        _wait(driver, lambda: restarts() == 2, "SLURM preempts it")
        said, _ = driver.communicate(timeout=900)
    finally:
        driver.terminate()
    assert driver.returncode == 0 and "Trying to restart" not in said, said
    assert cluster.run("squeue", "--states=all", "--noheader", "--format=%T", "--jobs", job) == "COMPLETED"

    shutil.rmtree(clone.root / "work")
    clone.run("fdm", "train", "smoke:ddpm", "-o", LONGER, "--threads", "1", "--to", "undisturbed")
    assert _weights(results) == _weights(clone.root / "undisturbed")
