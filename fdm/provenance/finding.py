"""What a check found out about one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["files", "records", "identities", "data", "report", "scores"]
Status = Literal["good", "bad", "absent", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        kind: what was compared.
        status: ``absent``: it is not here, which is no fault; ``note``: worth knowing, no fault either.
        what: the thing.
        said: what is wrong with it, or why it was not looked at.
    """

    suite: str
    kind: Kind
    status: Status
    what: str
    said: str = ""
