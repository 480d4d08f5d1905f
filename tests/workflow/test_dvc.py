"""DVC around the pipeline: versions what it makes, runs it only when something has changed, and travels."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from .conftest import ROOT, Repository

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]


def test_repro_then_a_seed_then_a_clone(repository: Repository, tmp_path: Path) -> None:
    repository.run("git", "init", "--quiet", ".")
    repository.run("dvc", "repro")
    assert "Data and pipelines are up to date" in repository.run("dvc", "repro")

    model = repository.root / "results/smoke/ddpm/seed0/model.safetensors"
    before = model.stat()
    repository.edit_suite(lambda suite: suite.update(seeds=[0, 1]))
    said = repository.run("dvc", "repro")
    assert "train ddpm, seed 1" in said and "train ddpm, seed 0" not in said
    assert (model.stat().st_ino, model.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "up to date" in repository.run("dvc", "status")

    repository.run("dvc", "remote", "add", "--quiet", "--default", "store", str(tmp_path / "remote"))
    repository.run("dvc", "push")
    repository.commit()
    clone = repository.clone(tmp_path / "clone")
    clone.run("dvc", "pull")
    assert clone.plan() == {}
    assert "Nothing to be done" in clone.snakemake()
    assert "up to date" in clone.run("dvc", "status")
    assert "frechet_distance" in clone.run("dvc", "metrics", "show")
    clone.run("dvc", "plots", "show")
    assert "Distance to the reference images" in (clone.root / "dvc_plots/index.html").read_text()
    clone.edit_suite(lambda suite: suite.update(seeds=[0, 1, 2]))
    assert clone.plan() == {"train": 2, "sample": 2, "evaluate": 2, "report": 1}


def test_parameters_name_the_dataset_of_their_suite() -> None:
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    suite = yaml.safe_load((ROOT / "params" / "suites" / f"{parameters['suite']}.yaml").read_text())
    assert parameters["dataset"] == suite["dataset"]
