"""Every suite, also those of paper scale that nobody can run here, passes a dry run without its data."""

from __future__ import annotations

import sys

import pytest

from fdm.experiment import load_suite

from .conftest import ROOT, Repository

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

# All in one process: most of a dry run is the start of Python, Snakemake and torch.
SCRIPT = """
import sys
from snakemake.cli import main

for suite in sys.argv[1:]:
    print("suite", suite, flush=True)
    try:
        main(["--dry-run", "--quiet", "rules", "--config", f"suite={suite}"])
    except SystemExit as end:
        print("status", end.code, flush=True)
"""


def test_every_suite_passes_a_dry_run(clone: Repository) -> None:
    names = sorted(path.stem for path in (clone.root / "params/suites").glob("*.yaml"))
    assert len(names) == len(list((ROOT / "params/suites").glob("*.yaml"))) > 1
    assert not (clone.root / "data").exists()
    said = clone.run(sys.executable, "-c", SCRIPT, *names).split("suite ")[1:]
    assert len(said) == len(names)
    for name, part in zip(names, said, strict=True):
        suite = load_suite(str(clone.root / f"params/suites/{name}.yaml"))
        assert part.startswith(f"{name}\n") and part.rstrip().endswith("status 0"), part
        jobs = dict(line.split() for line in part.splitlines() if len(line.split()) == 2 and line.split()[1].isdigit())
        runs = str(len(suite.runs))
        assert (jobs["prepare"], jobs["train"], jobs["evaluate"], jobs["report"]) == ("1", runs, runs, "1"), part
