"""DVC around the pipeline: versions what it makes, runs it only when something has changed, and travels."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest
import yaml

from .conftest import ROOT, Repository

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]


def _trainings(said: str) -> list[str]:
    """Which trainings Snakemake has started, by what it said."""
    return sorted(re.findall(r"^Job \d+: train (.*)$", said, re.MULTILINE))


def test_repro_makes_what_is_out_of_date(repository: Repository) -> None:
    repository.run("git", "init", "--quiet", ".")
    repository.run("dvc", "repro")
    assert "Data and pipelines are up to date" in repository.run("dvc", "repro")
    assert "frechet_distance" in repository.dvc("status", "metrics show", "plots show")
    assert "Distance to the reference images" in (repository.root / "dvc_plots/index.html").read_text()


def test_a_seed_more_is_the_only_one_trained(published: Repository) -> None:
    """Under Snakemake and under DVC; no file of another seed is touched."""
    published.edit_suite(lambda suite: suite["experiments"].pop("fdm-ds-3"))  # one is enough, and takes half the time

    def state() -> dict[Path, tuple[int, int]]:
        paths = (published.root / "results").rglob("seed*/*")
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}

    for seed, make in ((1, published.snakemake), (2, lambda: published.run("dvc", "repro"))):
        files, runs = state(), published.trained()
        published.edit_suite(lambda suite, seed=seed: suite.update(seeds=list(range(seed + 1))))  # type: ignore[misc]
        assert _trainings(make()) == [f"ddpm, seed {seed}"]
        assert len(published.trained() - runs) == 1 and runs <= published.trained()
        added = state().keys() - files.keys()
        assert files.items() <= state().items() and {path.parent.name for path in added} == {f"seed{seed}"}
    assert "up to date" in published.dvc("status")


def test_repro_pull_and_an_experiment_in_a_clone(published: Repository, tmp_path: Path) -> None:
    """Without a run store, too, only what has changed is made; with one, old values cost nothing."""
    published.dvc(f"remote add --quiet --default store {tmp_path / 'remote'}", "push --quiet")
    published.commit()
    clone = published.clone(tmp_path / "clone")
    assert not (clone.root / "results/smoke").exists()
    said = clone.dvc("repro --pull", "status")
    assert "Data and pipelines are up to date" in said and not _trainings(said)
    assert (clone.root / "reports/smoke/index.html").exists() and not (clone.root / "work").exists()

    clone.edit_suite(lambda suite: suite.update(seeds=[0, 1]))
    assert clone.plan() == {"train": 2, "sample": 2, "evaluate": 2, "report": 1}
    clone.run("git", "checkout", "--quiet", "params")
    change = "params/suites/smoke.yaml:+experiments.fdm-ds-3.overrides.training.lr=0.002"
    said = clone.dvc(f"exp run --name faster -S {change} results", "exp list --name-only")
    assert _trainings(said) == ["fdm-ds-3, seed 0"] and len(clone.trained()) == 1
    assert said.endswith("faster\n")


def test_parameters_name_the_dataset_of_their_suite() -> None:
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    suite = yaml.safe_load((ROOT / "params" / "suites" / f"{parameters['suite']}.yaml").read_text())
    assert parameters["dataset"] == suite["dataset"]


def test_reports_of_published_results_are_made_again_from_git_alone(clone: Repository) -> None:
    """No data, no runs: what ``published/`` holds is enough for every method that has a run there."""
    shutil.copytree(ROOT / "published", clone.root / "published")
    clone.run("git", "init", "--quiet", ".")
    # A run may be published before the report is made anew; then there is nothing to compare the tables with.
    current = "up to date" in clone.dvc("status published/dvc.yaml")
    shutil.rmtree(clone.root / "published/reports")
    assert "up to date" in clone.dvc("repro --force published/dvc.yaml", "status published/dvc.yaml")
    stages = yaml.safe_load((clone.root / "published/dvc.yaml").read_text())["stages"]["report"]["foreach"]
    assert set(stages) == {path.name for path in (ROOT / "published/reports").iterdir() if path.is_dir()}
    for suite in stages:
        with (clone.root / f"published/reports/{suite}/tables/main.csv").open(newline="") as table:
            rows = len(list(csv.DictReader(table)))
        assert rows == len(list((ROOT / f"published/results/{suite}").iterdir())) > 0
        tables = (ROOT / f"published/reports/{suite}/tables").glob("*.csv")
        changed = {
            path.name for path in tables if path.read_bytes() != (clone.root / path.relative_to(ROOT)).read_bytes()
        }
        assert not (current and changed), "make tables"
