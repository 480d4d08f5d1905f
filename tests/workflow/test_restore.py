"""The rule ``restore``: only where a suite asks for it, and again only when what it depends on has changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Repository

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]


def _ask(suite: dict[str, Any]) -> None:
    suite["restoration"] = {"count": 6, "baseline": "smoke:ddpm"}
    suite["experiments"]["fdm-ds-3"]["overrides"] = {"restoration": {"stages": [1]}}


def test_restorations_join_a_finished_suite(repository: Repository) -> None:
    repository.edit_suite(_ask)
    assert repository.plan() == {"restore": 1, "report": 1}
    repository.snakemake()
    folder = repository.root / "results/smoke/fdm-ds-3/seed0"
    assert list(json.loads((folder / "restore.json").read_text())["tasks"][0]["scores"])[:2] == ["bicubic", "ilvr"]
    assert 'id="restoration"' in (repository.root / "reports/smoke/index.html").read_text()
    assert repository.plan() == {}
    repository.edit_suite(lambda suite: suite["restoration"].update(count=7))
    assert repository.plan() == {"restore": 1, "report": 1}
    repository.edit_suite(lambda suite: suite["training"].update(lr=0.002))
    assert repository.plan() == {"train": 2, "sample": 2, "evaluate": 2, "restore": 1, "report": 1}
