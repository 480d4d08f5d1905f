"""What a suite file promises: order, title and seeds, read without resolving the experiments.

Resolving them would import every method (and torch); the report compares files with files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fdm.experiment import read_suite, suite_file
from fdm.grids import Ablation


@dataclass(frozen=True)
class Plan:
    """Titles of the experiments by name, in order, the seeds each should have, and the ablations with all their members; empty without a
    suite file."""

    title: str = ""
    experiments: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ablations: Mapping[str, Ablation] = field(default_factory=dict)


def read_plan(suite: str) -> Plan:
    """The plan in ``params/suites/<suite>.yaml`` (or in a path that ends in ``.yaml``).

    Raises:
        UserError: there is such a file, and something is wrong in it.
    """
    if not suite_file(suite).exists():
        return Plan()
    _, file = read_suite(suite)
    return Plan(
        title=file.title,
        experiments={name: entry.title or name for name, entry in file.experiments.items()},
        seeds={name: entry.seeds or file.seeds for name, entry in file.experiments.items()},
        ablations=file.ablations,
    )
