"""What a check found, for people: one line for every fault, a table with ticks, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fdm.provenance.finding import Finding, Kind

HEADINGS: dict[Kind, str] = {
    "files": "files",
    "records": "records",
    "identities": "identities",
    "data": "data",
    "report": "report",
    "scores": "scores",
}


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
        table.add_column(HEADINGS[kind])
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


def _advice(findings: Sequence[Finding]) -> Iterable[str]:
    bad = {(finding.suite, finding.kind) for finding in findings if finding.status == "bad"}
    for suite in dict.fromkeys(suite for suite, _ in bad):
        kinds = {kind for own, kind in bad if own == suite}
        if kinds & {"files", "records", "identities", "scores"}:
            yield (
                f"{suite}: delete the files named above, then `snakemake --config suite={suite}` copies them from work/ or makes "
                f"them again; or `dvc checkout` (`git checkout -- FILE` for those in git) brings the published ones back"
            )
        if "data" in kinds:
            yield f"{suite}: `fdm data NAME --force` prepares the data again; or `dvc checkout data`"
        if "report" in kinds:
            yield f"{suite}: `fdm report {suite}` makes the report anew"
