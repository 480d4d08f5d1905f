"""What a suite file promises: order, title and seeds, read without resolving the experiments.

Resolving them would import every method (and torch); the report compares files with files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fdm.errors import UserError
from fdm.experiment import PARAMS
from fdm.grids import Ablation, expand
from fdm.plain import read_yaml


@dataclass(frozen=True)
class Plan:
    """Titles of the experiments by name, in order, the seeds each should have, and the ablations with all their members; empty without a
    suite file."""

    title: str = ""
    experiments: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ablations: Mapping[str, Ablation] = field(default_factory=dict)


def read_plan(suite: str) -> Plan:
    """The plan in ``params/suites/<suite>.yaml`` (or in a path that ends in ``.yaml``)."""
    path = Path(suite) if suite.endswith((".yaml", ".yml")) else PARAMS / "suites" / f"{suite}.yaml"
    try:
        raw = expand(read_yaml(path.read_text(encoding="utf-8")), str(path), PARAMS)
        seeds = {str(name): entry.get("seeds") or raw.get("seeds", (0,)) for name, entry in raw["experiments"].items()}
        return Plan(
            title=str(raw.get("title", "")),
            experiments={str(name): str(entry.get("title") or name) for name, entry in raw["experiments"].items()},
            seeds={name: tuple(map(int, own)) for name, own in seeds.items()},
            ablations={str(name): Ablation.model_validate(item) for name, item in raw["ablations"].items()},
        )
    except FileNotFoundError:
        return Plan()
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not a suite file with `experiments`; `fdm show` says what is wrong with it") from None
