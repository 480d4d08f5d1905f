"""Numbers in README and docs are those of the published results."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The script that writes them, in the repository."""
    monkeypatch.chdir(REPOSITORY)
    return runpy.run_path("workflow/scripts/docs_tables.py")


def test_tables_in_the_docs_are_what_the_published_results_give(tables: dict[str, Any]) -> None:
    found = {page: page.read_text(encoding="utf-8") for page in tables["pages"]()}
    assert {page for page, text in found.items() if "<!-- published " in text} >= {
        Path("README.md"),
        Path("docs/findings.md"),
    }
    for page, text in found.items():
        assert (
            text.count("<!-- published ") == text.count("<!-- /published -->") == len(tables["PLACE"].findall(text))
        ), page
        assert tables["renewed"](text) == text, f"{page}: make tables"


def test_a_table_has_the_columns_and_rows_that_are_named(tables: dict[str, Any]) -> None:
    page = "<!-- published digits main: seeds parameters · fdm-ds-3 ddpm -->\nold\n<!-- /published -->\nmore"
    lines = tables["renewed"](page).splitlines()
    assert lines[2:4] == ["| Method | Seeds | Parameters (k) |", "|:---|---:|---:|"]
    assert [line.split("|")[1:3] for line in lines[4:6]] == [[" f-DM-DS, 3 stages ", " 1 "], [" DDPM ", " 1 "]]
    assert lines[6:] == ["", "<!-- /published -->", "more"]
    assert tables["renewed"]("\n".join(lines)) == "\n".join(lines)
    with pytest.raises(KeyError):
        tables["renewed"](page.replace("parameters", "parameter"))
