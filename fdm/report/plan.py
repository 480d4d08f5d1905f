"""What a suite file promises: order, title and seeds, read without resolving the experiments.

Resolving them would import every method (and torch); the report compares files with files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from fdm.errors import UserError
from fdm.experiment import PARAMS


@dataclass(frozen=True)
class Plan:
    """Experiments in order and the seeds each should have; empty when there is no suite file."""

    title: str = ""
    experiments: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


def read_plan(suite: str) -> Plan:
    """The plan in ``params/suites/<suite>.yaml`` (or in a path that ends in ``.yaml``)."""
    path = Path(suite) if suite.endswith((".yaml", ".yml")) else PARAMS / "suites" / f"{suite}.yaml"
    if not path.is_file():
        return Plan()
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Plan(
            title=str(raw.get("title", "")),
            experiments=tuple(str(name) for name in raw["experiments"]),
            seeds=tuple(int(seed) for seed in raw.get("seeds", (0,))),
        )
    except (OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not a suite file with `experiments`; `fdm show` says what is wrong with it") from None
