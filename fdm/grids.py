"""Ablations of a suite: settings varied around a baseline, expanded into experiments of their own.

This works on the YAML alone and imports no method, so that the report knows the same names without resolving anything.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from fdm.config import Frozen, nearest
from fdm.errors import UserError
from fdm.plain import read_yaml

Scalar = bool | int | float | str
LABEL = re.compile(r"[A-Za-z0-9_.,-]+")
BLOCKS = {"dataset": "datasets", "network": "networks"}
OWN = ("training", "sampling", "evaluation", "conditioning", "restoration", "exploration")
"""Blocks that a suite's file holds itself."""


class Ablation(Frozen):
    """One question put to a suite: a baseline, and what is compared with it."""

    title: str
    question: str = Field(description="what is varied, and what one would expect")
    baseline: str = Field(description="an experiment of the suite")
    grid: dict[str, list[Scalar] | dict[str, Any]] = Field(
        default_factory=dict,
        description="dotted key -> values, or label -> value where a value is no plain scalar; all combinations",
    )
    experiments: tuple[str, ...] = Field((), description="experiments of the suite to compare as they are")

    @model_validator(mode="after")
    def _something(self) -> Ablation:
        if not self.grid and not self.experiments:
            raise ValueError("needs a grid of values or a list of experiments")
        for key, values in self.grid.items():
            if not values:
                raise ValueError(f"grid: {key}: needs at least one value")
        return self


def expand(raw: Mapping[str, Any], where: str, params: Path) -> dict[str, Any]:
    """A suite's YAML with the experiments that its grids describe.

    They are named ``<baseline>+<key>=<value>``, keys by their last part (a whole block by the label alone). A value that the
    baseline has already is left out of the name, and a combination of such values is the baseline itself. Each
    ablation then lists all its members in ``experiments``, the baseline first.

    Args:
        raw: a suite that fits its model.
        where: the file, for messages.
        params: folder of the building blocks.

    Raises:
        UserError: an experiment that the suite does not have, a value that needs a label, or one name for two settings.
    """
    experiments: dict[str, Any] = dict(raw["experiments"])
    ablations: dict[str, Any] = {}
    for name, item in raw.get("ablations", {}).items():
        place = f"{where}: ablations.{name}"
        ablation = Ablation.model_validate(item)
        for member in (ablation.baseline, *ablation.experiments):
            if member not in raw["experiments"]:
                raise UserError(f"{place}: no experiment {member!r} in this suite{nearest(member, raw['experiments'])}")
        members = [ablation.baseline]
        for combination in itertools.product(*(_choices(key, ablation.grid[key], place) for key in ablation.grid)):
            member, entry = _entry(raw, ablation.baseline, combination, params)
            if experiments.setdefault(member, entry) != entry:
                raise UserError(f"{place}: {member} stands for two different settings; give one of them a label")
            members.append(member)
        members += ablation.experiments
        ablations[name] = {**item, "experiments": list(dict.fromkeys(members))}
    return {**raw, "experiments": experiments, "ablations": ablations}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``, key by key; mappings merge, and ``{0: …}`` changes one item of a list."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[key] = merge(old, value)
        elif isinstance(value, Mapping) and isinstance(old, list) and _positions(value, old):
            # -o method.transforms.0.factor=4 changes one item of a list.
            items = merge({str(index): item for index, item in enumerate(old)}, {str(k): v for k, v in value.items()})
            merged[key] = list(items.values())
        else:
            merged[key] = value
    return merged


def nested(key: str, value: Any) -> dict[str, Any]:
    """``a.b.c`` and a value as nested mappings."""
    for part in reversed(key.split(".")):
        value = {part: value}
    found: dict[str, Any] = value
    return found


def _choices(key: str, values: list[Scalar] | dict[str, Any], place: str) -> list[tuple[str, str, Any]]:
    """(key, label, value) of every value of one key."""
    if isinstance(values, list):
        values = {str(value).lower() if isinstance(value, bool) else str(value): value for value in values}
    for label in values:
        if not LABEL.fullmatch(label):
            raise UserError(f"{place}: grid: {key}: {label!r} cannot be part of a name; write `label: value` for it")
    return [(key, label, value) for label, value in values.items()]


def _entry(
    raw: Mapping[str, Any], baseline: str, combination: tuple[tuple[str, str, Any], ...], params: Path
) -> tuple[str, dict[str, Any]]:
    """Name and entry of the experiment that a combination of values makes of the baseline."""
    base = _settings(raw, baseline, params)
    entry = dict(raw["experiments"][baseline])
    name, title, overrides = baseline, str(entry.get("title") or baseline), entry.get("overrides", {})
    for key, label, value in combination:
        change = nested(key, value)
        if merge(base, change) == base:
            continue
        short = key.split(".")[-1] if "." in key else ""
        said = ("on" if value else "off") if isinstance(value, bool) else label
        name += f"+{short}={label}" if short else f"+{label}"
        title += f", {short.replace('_', ' ')} {said}" if short else f", {said}"
        overrides = merge(overrides, change)
    return (name, entry) if name == baseline else (name, {**entry, "title": title, "overrides": overrides})


def _settings(raw: Mapping[str, Any], name: str, params: Path) -> dict[str, Any]:
    """What the files say about an experiment; defaults that no file names are not in it."""
    entry = raw["experiments"][name]
    blocks = {key: _read(params / folder / f"{raw.get(key)}.yaml") for key, folder in BLOCKS.items()}
    blocks["method"] = _read(params / "methods" / f"{entry['method']}.yaml")
    blocks |= {key: raw.get(key, {}) for key in OWN}
    return merge(blocks, entry.get("overrides", {}))


def _read(path: Path) -> dict[str, Any]:
    """A block's YAML; {} where it is missing or broken, which resolving the experiment reports."""
    try:
        found = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _positions(value: Mapping[Any, Any], items: list[Any]) -> bool:
    return all(str(key) in map(str, range(len(items))) for key in value)
