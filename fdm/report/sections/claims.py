"""The papers' claims against this suite."""

from __future__ import annotations

from fdm.experiment import PARAMS
from fdm.report.claims import claims_table, judge, read_claims
from fdm.report.results import Results
from fdm.report.section import Canvas, Section
from fdm.report.table import Table

ORDER = 16


def tables(results: Results) -> tuple[Table, ...]:
    """None where there is no claims file, or where the suite measured nothing that a claim is about."""
    claims = read_claims(PARAMS / "claims.yaml")
    if claims is None or not any(judge(claim, results).evidence for claim in claims.claims.values()):
        return ()
    return (claims_table(claims, results),)


def build(canvas: Canvas) -> Section | None:
    """None where there is no table."""
    found = tables(canvas.results)
    return Section("claims", "Claims", found) if found else None
