"""The papers' claims against this suite."""

from __future__ import annotations

from fdm.experiment import PARAMS
from fdm.report.claims import claims_table, judge, read_claims
from fdm.report.section import Canvas, Section

ORDER = 16


def build(canvas: Canvas) -> Section | None:
    """None where there is no claims file, or where the suite measured nothing that a claim is about."""
    claims = read_claims(PARAMS / "claims.yaml")
    if claims is None or not any(judge(claim, canvas.results).evidence for claim in claims.claims.values()):
        return None
    return Section("claims", "Claims", (claims_table(claims, canvas.results),))
