"""What a check found, for people: one line for every fault, a table with ticks, and what to do."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fdm.provenance.finding import Finding, Kind

SHOWN = 20
"""At most so many files are named in a command."""


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Faults one by one, everything else counted."""
    for finding in findings:
        if finding.status == "bad":
            console.print(Text(f"✗ {finding.what}: {finding.said}", style="red"), soft_wrap=True)
    for status in ("absent", "note"):
        groups = Counter((f.suite, f.kind, f.said) for f in findings if f.status == status)
        for (suite, kind, said), count in groups.items():
            one = next(f.what for f in findings if (f.suite, f.kind, f.said, f.status) == (suite, kind, said, status))
            more = f" and {count - 1:,} more" if count > 1 else ""
            console.print(Text(f"– {one}{more}: {said}", style="yellow"), soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("suite")
    for kind in get_args(Kind):
        table.add_column(kind)
    for suite in dict.fromkeys(finding.suite for finding in findings):
        own = [finding for finding in findings if finding.suite == suite]
        table.add_row(suite, *(_cell(f for f in own if f.kind == kind) for kind in get_args(Kind)))
    console.print(table)
    for line in _advice(findings):
        console.print(Text(line), soft_wrap=True)


def _cell(findings: Iterable[Finding]) -> Text:
    """``✓ 12``: so many are good; ``✗ 1 of 12``: so many are not; ``– 3``: so many are not here."""
    count = Counter(finding.status for finding in findings)
    looked = count["good"] + count["bad"]
    parts = []
    if count["bad"]:
        parts.append(f"✗ {count['bad']:,} of {looked:,}")
    elif count["good"]:
        parts.append(f"✓ {count['good']:,}")
    if left := count["absent"] + count["note"]:
        parts.append(f"– {left:,}")
    return Text(", ".join(parts) or "–", style="red" if count["bad"] else "green" if count["good"] else "yellow")


def _advice(findings: Sequence[Finding]) -> Iterator[str]:
    """Commands that mend what is wrong, suite by suite."""
    bad = [finding for finding in findings if finding.status == "bad"]
    for suite in dict.fromkeys(finding.suite for finding in bad):
        kinds = {finding.kind for finding in bad if finding.suite == suite}
        things = dict.fromkeys(f.what for f in bad if f.suite == suite and f.kind in ("files", "records"))
        files = [thing for thing in things if Path(thing).suffix]
        if len(files) < len(things):
            yield f"{suite}: `snakemake --config suite={suite}` makes the results, or `dvc pull` brings them from a remote that has them"
        if files:
            # Snakemake makes a file that nothing waits for only when it is asked for by name.
            names = shlex.join(files[:SHOWN]) + (" …" if len(files) > SHOWN else "")
            yield f"{suite}: copy from work/, or make again: rm -f {names} && snakemake --config suite={suite} -- {names}"
            yield f"{suite}: or bring back what was published: dvc checkout --force {names} (git checkout -- for files in git)"
        if kinds & {"identities", "scores"} and not files:
            yield f"{suite}: delete the folders of these runs, then `snakemake --config suite={suite}`, or `dvc checkout`"
        if "data" in kinds:
            yield f"{suite}: `fdm data NAME --force` prepares the data again; or `dvc checkout`"
        if "report" in kinds:
            yield f"{suite}: `fdm report {suite}` writes the report again"
