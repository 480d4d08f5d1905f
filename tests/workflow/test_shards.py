"""``snakemake --config shards=N``: a job for every shard, the same results, and nothing to do afterwards for any N."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .conftest import Finished, Repository

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

RUN = "results/smoke/ddpm/seed0"


def _without_samples(repository: Repository) -> Path:
    """As if one run had only been trained."""
    run = repository.root / RUN
    for name in ("sample", "evaluate"):
        record = "manifest.json" if name == "evaluate" else "sample.json"
        content = json.loads((run / record).read_text())
        identity = content["identities"]["evaluate"] if name == "evaluate" else content["identity"]
        shutil.rmtree(repository.root / f"work/{name}-{identity}")
    shutil.rmtree(repository.root / "work/reference")
    for path in run.iterdir():
        if path.name not in ("model.safetensors", "training.csv", "train.json"):
            path.unlink()
    return run


def test_shards_are_jobs_and_change_nothing(repository: Repository, finished: Finished) -> None:
    run, before = _without_samples(repository), finished.root / RUN
    said = repository.snakemake(f"{RUN}/metrics.json", config=["shards=2"])
    for step in ("sample", "evaluate"):
        for shard in (1, 2):
            log = (repository.root / f"logs/smoke/ddpm/seed0/{step}-{shard}-of-2.log").read_text()
            assert f"shard {shard}/2" in log and log.splitlines()[-1] in said
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in before.iterdir())
    for name in ("samples.npy", "grid.png", "trajectory.npz", "metrics.json"):
        assert (run / name).read_bytes() == (before / name).read_bytes()
    assert repository.plan("shards=3") == {}


def test_marks_of_shards_hold_what_they_were_made_for(repository: Repository) -> None:
    """As an interrupted driver leaves them: a shard is not started again, unless its mark is of other samples."""
    made = json.loads((repository.root / RUN / "sample.json").read_text())["identity"]
    run = _without_samples(repository)
    (run / ".sample-1-of-3").write_text(f"{made}\n")
    (run / ".sample-2-of-3").write_text("0123456789abcdef\n")
    said = repository.snakemake("--dry-run", "-p", f"{RUN}/sample.json", config=["shards=3"])
    started = [shard for shard in (1, 2, 3) if f"echo {made} > {RUN}/.sample-{shard}-of-3" in said]
    assert started == [2, 3]
