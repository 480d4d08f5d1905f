"""Names of experiments as parts of ids and file names."""

from __future__ import annotations

import hashlib
import re


def slug(name: str) -> str:
    """A name as part of an id or a file name; unusual names get a short hash, so that no two meet."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
