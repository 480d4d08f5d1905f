"""Ask the Python advisory database about every package of requirements.lock, and say so where it could not be asked.

    python workflow/scripts/audit.py requirements.lock     # `make audit`

Needs the network. Ends with 0 if all were looked up and nothing is known, 1 if something is known, 2 if a package was not looked up:
behind a mirror of PyPI without its advisories, pip-audit alone passes over all of them and reports success.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

COMMAND = [
    "pip-audit",
    "--format",
    "json",
    "--require-hashes",
    "--disable-pip",
    "--progress-spinner",
    "off",
    "--timeout",
    "15",
]


def audit(lock: str) -> tuple[int, list[str]]:
    """Exit status, and what to say."""
    try:
        done = subprocess.run([*COMMAND, "--requirement", lock], capture_output=True, text=True, check=False)
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except OSError as error:
        return 2, [f"error: pip-audit cannot be run: {error.strerror}; `make environment` installs it"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return 2, [
            f"error: nothing was audited, the advisory service cannot be reached or {lock} not be read: {reason}"
        ]
    known = [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'no release'}"
        for package in packages
        for found in package.get("vulns", ())
    ]
    skipped = [package for package in packages if "skip_reason" in package]
    if skipped or not packages:
        reason = skipped[0]["skip_reason"] if skipped else f"{lock} names none"
        known.append(f"error: {len(skipped)} of {len(packages)} packages were not audited: {reason}")
        return 2, known
    return int(bool(known)), known or [f"{len(packages)} packages, no known vulnerability"]


if __name__ == "__main__":
    status, lines = audit(sys.argv[1])
    print("\n".join(lines), file=sys.stderr if status else sys.stdout)
    sys.exit(status)
