"""A checkout, a suite, an experiment, a dataset and images whose names would break a careless shell."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import Repository

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

ODD = "-a  b ü's $(x);*"


@pytest.fixture
def odd(fresh: Path, tmp_path: Path) -> Repository:
    """The repository in such a folder, with a suite of such names on such images beside it."""
    root = tmp_path / "a b ü"
    shutil.copytree(fresh, root, symlinks=True)
    pictures = tmp_path / ODD
    pictures.mkdir()
    for number in range(120):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)).save(
            pictures / f"{ODD} {number}.png"
        )
    repository = Repository(root)
    shutil.move(root / "params/datasets/digits8.yaml", root / f"params/datasets/{ODD}.yaml")
    repository.edit(f"params/datasets/{ODD}.yaml", lambda data: data.update(source="folder", path=f"../{ODD}"))
    shutil.move(root / "params/suites/smoke.yaml", root / f"params/suites/{ODD}.yaml")

    def rename(suite: dict[str, Any]) -> None:
        entry = {
            "method": "fdm-ds",
            "overrides": {"exploration": {"interpolate": True}, "restoration": {"stages": [1]}},
        }
        suite.update(dataset=ODD, experiments={ODD: entry})

    repository.edit(f"params/suites/{ODD}.yaml", rename)
    return repository


def test_a_folder_of_images_is_named_once(clone: Repository, tmp_path: Path) -> None:
    """Data of a folder that only the command line has named are as the suite describes them, and no job prepares them again."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(70):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)).save(
            pictures / f"{number}.png"
        )
    clone.edit("params/datasets/digits8.yaml", lambda data: data.update(source="folder"))
    clone.run("fdm", "data", "digits8", "-o", f"dataset.path={pictures}")
    assert "prepare" not in clone.plan()
    clone.edit("params/datasets/digits8.yaml", lambda data: data.update(resolution=4, fit="crop-resize"))
    assert clone.plan()["prepare"] == 1
    clone.snakemake("data")
    manifest = clone.root / "data/digits8/manifest.json"
    assert json.loads(manifest.read_text())["spec"]["resolution"] == 4
    before = manifest.read_bytes()
    shutil.rmtree(pictures)
    clone.edit("params/datasets/digits8.yaml", lambda data: data.update(limit=50))
    assert "no such folder or zip" in clone.snakemake("data", status=1)
    assert manifest.read_bytes() == before, "what cannot be made anew stays"


def test_odd_names_in_the_workflow(odd: Repository) -> None:
    """One job of each kind would get its words whole; data and training are made for real."""
    options = ("--config", f"suite={ODD}", 'overrides=["training.images=64", "title=a  b"]')
    said = odd.run("snakemake", "--dry-run", "--printshellcmds", *options)
    commands = [shlex.split(found) for found in re.findall(r"\bfdm [a-z]+ .*(?= 2>&1)", said)]
    assert {words[1] for words in commands} == {
        "data",
        "train",
        "sample",
        "evaluate",
        "restore",
        "interpolate",
        "report",
    }
    for words in commands:
        expected = ODD if words[1] in ("data", "report") else f"{ODD}:{ODD}"
        assert words[words.index("--") + 1 :] == [expected]
        assert words[1] == "report" or words[2:6] == ["-o", "training.images=64", "-o", "title=a  b"]
        assert "--to" not in words or words[words.index("--to") + 1] == f"results/{ODD}/{ODD}/seed0"
    model = f"results/{ODD}/{ODD}/seed0/model.safetensors"
    odd.run("snakemake", *options, "--", model)
    assert (odd.root / model).is_file() and (odd.root / f"logs/{ODD}/{ODD}/seed0/train.log").read_text()
