"""The resolved configuration of methods: what differs between them, and one line that describes each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fdm.report.origin import Origin, Source
from fdm.report.results import Method, Results, settings_of
from fdm.report.table import Cell, Header, Row, Table

ABSENT = "–"


def settings_table(results: Results) -> Table:
    """Keys of the resolved experiments whose values are not the same everywhere."""
    flat = {method.name: flatten(settings_of(method.config)) for method in results.methods}
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    differing = [key for key in keys if len({values.get(key, ABSENT) for values in flat.values()}) > 1]
    rows = [
        Row(
            method.name,
            method.title,
            len(method.runs),
            tuple(_cell(flat[method.name].get(key), key) for key in differing),
        )
        for method in results.methods
    ]
    caption = (
        "Only settings whose resolved value is not the same for all methods; everything else is shared. A dash: "
        "the method has no such setting."
        if differing
        else "The resolved settings of all methods are the same."
    )
    headers = tuple(Header(key, key, numeric=False) for key in differing)
    return Table("settings", "What differs between the methods", caption, headers, tuple(rows))


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys of a nested mapping, with values as short text."""
    found: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            found |= flatten(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = short(item)
    return found


def describe(method: Method, results: Results) -> str:
    """The method's process and those of its settings that some other method does not share, in one line."""
    flat = [flatten(other.config.get("method", {})) for other in results.methods]
    own = flatten(method.config.get("method", {}))
    telling = [key for key in own if key == "process" or any(other.get(key) != own[key] for other in flat)]
    return " · ".join(own[key] if key == "process" else f"{key} {own[key]}" for key in telling)


def short(item: Any) -> str:
    """A setting as compact text: lists of parts as ``name(key=value) → name(…)``, switches as on and off."""
    if isinstance(item, bool):
        return "on" if item else "off"
    if item is None:
        return "none"
    if isinstance(item, (list, tuple)):
        parts = [_part(part) if isinstance(part, Mapping) else short(part) for part in item]
        joint = " → " if any(isinstance(part, Mapping) for part in item) else ", "
        return joint.join(parts) if parts else "none"
    return item if isinstance(item, str) else json.dumps(item, sort_keys=True)


def _part(part: Mapping[str, Any]) -> str:
    rest = dict(part)
    name = next((str(rest.pop(key)) for key in ("name", "transform", "kind", "type") if key in rest), "")
    inner = ", ".join(f"{key}={short(value)}" for key, value in rest.items())
    return f"{name}({inner})" if inner else name


def _cell(value: str | None, key: str) -> Cell:
    origin = Origin((Source("manifest.json", "experiment", *key.split(".")),), "the same for all seeds")
    return Cell(ABSENT) if value is None else Cell(value, value, origin=origin)
