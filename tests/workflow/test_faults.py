"""Faults under real Snakemake and DVC; docs/reliability.md lists them, with those of test_snakemake.py."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from .conftest import Finished, Repository, descendant

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

FOLDER = Path("results/smoke/ddpm/seed0")
TRAINING = str(FOLDER / "train.json")


def forget_training(repository: Repository) -> None:
    """Remove one training, in the store and in results."""
    record = json.loads((repository.root / TRAINING).read_text())
    shutil.rmtree(repository.root / f"work/train-{record['identity']}")
    for name in ("model.safetensors", "training.csv", "train.json"):
        (repository.root / FOLDER / name).unlink()


def ends_like(finished: Finished, repository: Repository) -> None:
    """All that can be compared bit for bit is as in the undisturbed run."""
    for name in ("model.safetensors", "samples.npy", "metrics.json"):
        assert (repository.root / FOLDER / name).read_bytes() == (finished.root / FOLDER / name).read_bytes()


def test_a_training_that_is_disturbed(repository: Repository, finished: Finished) -> None:
    """A hang, a killed tee, Ctrl-C and SIGTERM, one after the other, each answered by the same command."""
    forget_training(repository)
    command = ("snakemake", TRAINING, "--config", "suite=smoke")

    driver = repository.start(*command, "timeout=10")
    worker = descendant(driver, "fdm", "train")
    worker.suspend()  # hangs
    assert driver.stdout
    said = next(line for line in driver.stdout if "sending signal" in line)
    assert "timeout: sending signal TERM to command" in said
    worker.resume()  # or else it is killed after another minute
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode != 0 and "Error in rule train" in said and not (repository.root / TRAINING).exists()

    driver = repository.start(*command)
    worker = descendant(driver, "fdm", "train")
    worker.suspend()
    descendant(driver, "tee").kill()
    worker.resume()
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode != 0 and "Error in rule train" in said and not (repository.root / TRAINING).exists()

    driver = repository.start(*command)
    descendant(driver, "fdm", "train")
    for process in [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended on its parent's signal
            process.send_signal(signal.SIGINT)  # as a terminal does
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode != 0 and not (repository.root / TRAINING).exists(), said

    driver = repository.start(*command)
    descendant(driver, "fdm", "train")
    driver.terminate()
    driver.communicate(timeout=300)

    repository.run(*command)
    ends_like(finished, repository)


def _garbage(repository: Repository) -> None:
    notes = repository.root / ".snakemake"
    for path in [path for path in notes.rglob("*") if path.is_file()]:
        path.write_bytes(b"\x00garbage\xff")
    for folder in ("metadata", "incomplete", "locks"):
        (notes / folder).mkdir(exist_ok=True)
        (notes / folder / "not base64").write_text("{")


def _future(repository: Repository) -> None:
    for path in (path for name in ("data", "results", "work") for path in (repository.root / name).rglob("*")):
        os.utime(path, (4e9, 4e9))


def _record(repository: Repository) -> None:
    path = repository.root / FOLDER / "sample.json"
    path.write_text(path.read_text().replace('"count": 128', '"count": 129'))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param(_garbage, {}, id="garbage-in-snakemake"),
        pytest.param(_future, {}, id="times-in-the-future"),
        pytest.param(_record, {"sample": 1, "evaluate": 1, "report": 1}, id="record"),
    ],
)
def test_what_snakemake_makes_of_it(
    repository: Repository, fault: Callable[[Repository], None], expected: dict[str, int]
) -> None:
    fault(repository)
    assert repository.plan() == expected


def test_dvc_is_killed(repository: Repository, finished: Finished) -> None:
    """Its Snakemake goes on without it: until that has ended, one line; then the same command ends well."""
    forget_training(repository)
    (repository.root / FOLDER / "metrics.json").unlink()  # needs the training
    repository.run("git", "init", "--quiet", ".")
    command = ("dvc", "repro", "results")
    dvc = repository.start(*command)
    worker = descendant(dvc, "fdm", "train")
    worker.suspend()
    orphans = [process for process in worker.parents() if "snakemake" in " ".join(process.cmdline()[:3])]
    dvc.kill()
    dvc.wait()
    said = repository.run(*command, status=None)
    assert "another snakemake is at work in this folder; wait for it or end it" in said and "Traceback" not in said
    worker.resume()
    psutil.wait_procs(orphans, timeout=300)
    repository.run(*command)
    ends_like(finished, repository)
