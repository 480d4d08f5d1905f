"""The rules ``restore`` and ``explore``: only where a suite asks for them, and again only when what they depend on has changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Repository

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]


def _ask(suite: dict[str, Any]) -> None:
    suite["restoration"] = {"count": 6, "baseline": "smoke:ddpm"}
    suite["exploration"] = {"count": 2, "columns": 3, "interpolate": True}
    suite["experiments"]["fdm-ds-3"]["overrides"] = {"restoration": {"stages": [1]}, "exploration": {"vary": [1, 2]}}


def test_a_baseline_that_is_not_there_is_one_line(repository: Repository) -> None:
    """Not a restoration that counts as up to date because nobody can say what it should be."""
    repository.edit_suite(_ask)
    repository.edit_suite(lambda suite: suite["restoration"].update(baseline="smoke:dpm"))
    said = repository.snakemake("--dry-run", status=None)
    assert "error: smoke:dpm: suite 'smoke' has no experiment 'dpm'; did you mean 'ddpm'?" in said
    assert "Traceback" not in said


def test_what_is_asked_for_joins_a_finished_suite(repository: Repository) -> None:
    repository.edit_suite(_ask)
    assert repository.plan() == {"restore": 1, "explore": 3, "report": 1}
    repository.snakemake()
    folder = repository.root / "results/smoke/fdm-ds-3/seed0"
    assert list(json.loads((folder / "restore.json").read_text())["tasks"][0]["scores"])[:3] == [
        "bicubic",
        "ilvr",
        "ddnm",
    ]
    for kind, shape in (("vary", [4, 3, 1, 8, 8]), ("interpolate", [2, 3, 1, 8, 8])):
        assert json.loads((folder / f"{kind}.json").read_text())["shape"] == shape
    page = (repository.root / "reports/smoke/index.html").read_text()
    assert 'id="restoration"' in page and 'id="vary-fdm-ds-3"' in page and 'id="interpolate-ddpm"' in page
    assert repository.plan() == {}
    repository.edit_suite(lambda suite: suite["restoration"].update(count=7))
    assert repository.plan() == {"restore": 1, "report": 1}
    repository.edit_suite(lambda suite: suite["exploration"].update(count=1))
    assert repository.plan() == {"restore": 1, "explore": 3, "report": 1}
    repository.edit_suite(lambda suite: suite["training"].update(lr=0.002))
    assert repository.plan() == {"train": 2, "sample": 2, "evaluate": 2, "restore": 1, "explore": 3, "report": 1}
