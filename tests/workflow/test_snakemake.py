"""The pipeline under real Snakemake: what it makes, when it makes it again, and that no kill loses anything."""

from __future__ import annotations

import base64
import json
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from .conftest import ROOT, Finished, Repository, descendant

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

RUN = ("ddpm/seed0", "fdm-ds-3/seed0")
FILES = (
    "model.safetensors", "training.csv", "train.json", "samples.npy", "grid.png", "trajectory.npz", "sample.json",
    "metrics.json", "cost.json", "neighbours.npz", "forward.npz", "manifest.json",
)  # fmt: skip
TRAINING = "results/smoke/ddpm/seed0/train.json"


def test_from_nothing_to_the_report(finished: Finished) -> None:
    for run in RUN:
        assert sorted(path.name for path in (finished.root / "results/smoke" / run).iterdir()) == sorted(FILES)
        for step in ("train", "sample", "evaluate"):
            log = (finished.root / "logs/smoke" / run / f"{step}.log").read_text()
            assert log.strip() and log.splitlines()[-1] in finished.said  # shown live as well
            assert (finished.root / "logs/smoke" / run / f"{step}.tsv").exists()
    assert (finished.root / "reports/smoke/index.html").exists()
    assert "9 of 9 steps (100%) done" in finished.said


def test_a_second_run_has_nothing_to_do(repository: Repository) -> None:
    began = _seconds_of_children()
    assert "Nothing to be done" in repository.snakemake()
    assert _seconds_of_children() - began < 10


def _seconds_of_children() -> float:
    """Of computing, so that a busy machine changes nothing."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_neither_times_of_files_nor_snakemakes_notes_matter(repository: Repository) -> None:
    """A clone with pulled results has files in any order of times, and no .snakemake."""
    for name in (".snakemake", "work", "logs"):
        shutil.rmtree(repository.root / name)
    paths = [path for name in ("data", "results", "reports") for path in (repository.root / name).rglob("*")]
    random.Random(0).shuffle(paths)
    for age, path in enumerate(paths):
        os.utime(path, (1e9 + age, 1e9 + age))
    assert repository.plan() == {}


def _edit(path: str, text: str) -> Callable[[Repository], None]:
    def change(repository: Repository) -> None:
        with (repository.root / path).open("a") as file:
            file.write(text)

    return change


def _suite(change: Callable[[Any], object]) -> Callable[[Repository], None]:
    return lambda repository: repository.edit_suite(change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            _suite(lambda suite: suite["training"].update(images=704)),
            {"train": 2, "sample": 2, "evaluate": 2, "report": 1},
            id="training",
        ),
        pytest.param(
            _suite(lambda suite: suite["experiments"]["fdm-ds-3"].update(overrides={"sampling": {"steps": 4}})),
            {"sample": 1, "evaluate": 1, "report": 1},
            id="sampling-of-one-experiment",
        ),
        pytest.param(
            _suite(lambda suite: suite["evaluation"].update(kid_subsets=3)),
            {"evaluate": 2, "report": 1},
            id="evaluation",
        ),
        pytest.param(
            _suite(lambda suite: suite.update(seeds=[0, 1])),
            {"train": 2, "sample": 2, "evaluate": 2, "report": 1},
            id="seed",
        ),
        pytest.param(_suite(lambda suite: suite.update(title="Other")), {"report": 1}, id="title"),
        pytest.param(
            _edit("fdm/sampling/solvers.py", "\nOTHER = 1\n"), {"sample": 2, "evaluate": 2, "report": 1}, id="code"
        ),
        pytest.param(_edit("fdm/sampling/solvers.py", "\n# a comment\n"), {}, id="comment"),
        pytest.param(
            lambda repository: repository.edit("params/datasets/digits8.yaml", lambda data: data.update(limit=1000)),
            {"prepare": 1, "train": 2, "sample": 2, "evaluate": 2, "report": 1},
            id="data",
        ),
    ],
)
def test_a_change_reruns_what_it_touches(
    repository: Repository, change: Callable[[Repository], None], expected: dict[str, int]
) -> None:
    shutil.rmtree(repository.root / ".snakemake")  # as in a clone
    change(repository)
    assert repository.plan() == expected


def test_data_of_another_description_are_replaced(repository: Repository) -> None:
    """Unattended, where `fdm data` by hand would ask for --force."""
    repository.edit("params/datasets/digits8.yaml", lambda data: data.update(limit=1000))
    assert "--force" in repository.run("fdm", "data", "digits8", status=1)
    repository.run("snakemake", "data", "--config", "suite=smoke")
    assert json.loads((repository.root / "data/digits8/manifest.json").read_text())["spec"]["limit"] == 1000


def test_a_missing_file_is_made_again(repository: Repository) -> None:
    (repository.root / "results/smoke/ddpm/seed0/metrics.json").unlink()
    assert repository.plan() == {"evaluate": 1, "report": 1}


def test_marks_of_a_killed_driver_hide_nothing(repository: Repository) -> None:
    """Killed after a training had written its files, and before Snakemake noted that it had ended."""
    folder = repository.root / "results/smoke/ddpm/seed0"
    marks = repository.root / ".snakemake/incomplete"
    marks.mkdir(parents=True, exist_ok=True)
    for name in ("train.json", "model.safetensors", "training.csv"):
        (marks / base64.urlsafe_b64encode(f"results/smoke/ddpm/seed0/{name}".encode()).decode()).touch()
    for name in ("sample.json", "samples.npy", "metrics.json"):
        (folder / name).unlink()
    assert repository.plan() == {"sample": 1, "evaluate": 1, "report": 1}


def test_other_results_in_the_place_are_replaced(repository: Repository) -> None:
    """As after ``git checkout`` and ``dvc checkout``: files of another run, which Snakemake knows nothing of."""
    repository.run(
        "fdm", "train", "smoke:ddpm", "--to", "results/smoke/ddpm/seed0", "--threads", "1", "-o", "training.lr=0.002"
    )
    assert repository.plan() == {"train": 1, "sample": 1, "evaluate": 1, "report": 1}


def test_overrides_reach_every_step_and_devices_the_training(repository: Repository) -> None:
    said = repository.run(
        "snakemake", "-n", "-p", "--config", "suite=smoke", "devices=2", "overrides=training.lr=0.002 sampling.steps=4"
    )
    for verb in ("train", "sample", "evaluate"):
        command = next(line for line in said.splitlines() if f"fdm {verb} " in line and "-- smoke:ddpm" in line)
        assert f"fdm {verb} -o training.lr=0.002 -o sampling.steps=4 --seed 0" in command
        assert ("--threads 1 --devices 2 " in command) == (verb == "train")


def _weights(root: Path) -> dict[str, bytes]:
    with safe_open((root / TRAINING).with_name("model.safetensors"), "numpy") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def test_a_killed_job_and_a_killed_driver(clone: Repository, finished: Finished) -> None:
    command = ("snakemake", TRAINING, "--config", "suite=smoke")

    driver = clone.start(*command)
    descendant(driver, "fdm", "train").kill()
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode != 0 and "Error in rule train" in said
    assert not (clone.root / TRAINING).exists()

    driver = clone.start(*command)
    training = descendant(driver, "fdm", "train")
    while not list(clone.root.glob("work/train-*/.lock")):
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.02)
    training.suspend()  # so that it outlives its driver for certain
    driver.kill()
    again = clone.start(*command)
    assert again.stdout
    try:
        said = next(line for line in again.stdout if "waiting for" in line or " done" in line)
        assert "waiting for a job that an earlier run left behind in work/train-" in said
    finally:
        training.resume()
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert _weights(clone.root) == _weights(finished.root)


def test_one_driver_at_a_time(clone: Repository) -> None:
    first = clone.start("snakemake", TRAINING, "--config", "suite=smoke")
    training = descendant(first, "fdm", "train")
    training.suspend()  # so that it is still there when the second comes
    try:
        said = clone.snakemake(status=None)
    finally:
        training.resume()
    assert "another snakemake is at work in this folder" in said
    said, _ = first.communicate(timeout=300)
    assert first.returncode == 0, said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suite=smoek"], "did you mean 'smoke'?"),
        (["siute=smoke"], "--config siute: unknown key; did you mean 'suite'?"),
        (["suite=smoke", "devices=0"], "--config devices=0: must be a whole number, at least 1"),
        (["suite=smoke", "overrides=trainin.images=1"], "unknown key 'trainin'; did you mean 'training'?"),
        (["suite=smoke", "overrides=sampling.count=64"], "error: ddpm: sampling.count=64 is too few to be scored"),
    ],
)
def test_wrong_input_is_one_line(clone: Repository, arguments: list[str], message: str) -> None:
    said = clone.run("snakemake", "--config", *arguments, status=None)
    assert message in said
    assert "Traceback" not in said


def test_lint_and_format(clone: Repository) -> None:
    clone.run("snakemake", "--lint")
    clone.run("snakefmt", "--check", "Snakefile", "workflow")


def test_no_rule_calls_dvc() -> None:
    for path in [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]:
        assert "dvc repro" not in path.read_text() and '"dvc ' not in path.read_text()


def test_experiments_that_differ_only_in_sampling_train_once(clone: Repository) -> None:
    """One after the other though there are cores for both: the second finds the run of the first and copies it."""
    clone.edit_suite(
        lambda suite: suite["experiments"].update(again={"method": "ddpm", "overrides": {"sampling": {"steps": 4}}})
    )
    targets = [f"results/smoke/{name}/seed0/train.json" for name in ("ddpm", "again")]
    clone.snakemake("--cores", "4", *targets)
    assert len(list(clone.root.glob("work/train-*"))) == 1
    assert (clone.root / targets[0]).read_bytes() == (clone.root / targets[1]).read_bytes()
    assert clone.plan() == {"train": 1, "sample": 3, "evaluate": 3, "report": 1}


def test_only_runs_of_the_suite_are_made_for_others(clone: Repository) -> None:
    """The same training under a seed that the first experiment does not have."""
    clone.edit_suite(
        lambda suite: suite["experiments"].update(
            again={"method": "ddpm", "seeds": [1], "overrides": {"sampling": {"steps": 4}}}
        )
    )
    assert clone.plan() == {"prepare": 1, "train": 3, "sample": 3, "evaluate": 3, "report": 1}
