"""The resolved configuration of methods: what differs between them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from fdm.report.origin import Origin, Source
from fdm.report.results import Results, settings_of
from fdm.report.table import DASH, Cell, Header, Row, Table

PROCESS = "method.process"
USUAL = 0.8
"""Share of the methods with a setting from which their common value is the usual one, so that only others are named."""


def settings_table(results: Results) -> Table:
    """Keys of the resolved experiments whose values are not the same everywhere: all in the CSV, in print what tells methods apart."""
    flat = {method.name: flatten(settings_of(method.config)) for method in results.methods}
    brief = {method.name: flatten(_brief(settings_of(method.config))) for method in results.methods}
    differing = _differing(flat.values())
    usual = {key: value for key in _differing(brief.values()) if (value := _usual(key, brief.values())) is not None}
    rest = [key for key in _differing(brief.values()) if key not in usual and key != PROCESS]
    own = [key for key in rest if sum(key in values for values in brief.values()) * 2 > len(brief)]
    # Where print says what the CSV says, one column serves both.
    shared = [key for key in (PROCESS, *own) if all(brief[name].get(key) == flat[name].get(key) for name in flat)]
    rows = []
    for method in results.methods:
        values = brief[method.name]
        # Exceptions to what is usual, and settings that few methods have.
        others = [
            key for key in values if values[key] != usual.get(key, values[key]) or (key in rest and key not in own)
        ]
        cells = [
            *(_cell(values.get(key), key) for key in (PROCESS, *own)),
            Cell(" · ".join(f"{_label(key)} {values[key]}" for key in others if key != PROCESS) or DASH),
            *(_cell(flat[method.name].get(key), key) for key in differing if key not in shared),
        ]
        rows.append(Row(method.name, method.title, len(method.runs), tuple(cells)))
    if not differing:
        caption = "The resolved settings of all methods are the same."
        return Table("settings", "What differs between the methods", caption, (), ())
    told = "; ".join(f"{_label(key)} {value}" for key, value in usual.items() if key != PROCESS)
    caption = (
        "Settings whose resolved value is not the same for all methods; everything else is shared. A dash: the method has no such "
        "setting. The CSV has each setting as a column, those of autoencoders included."
    )
    if told:
        caption += f" Where a method has the setting and its row says nothing else: {told}."
    headers = [
        *(Header(key, _label(key), numeric=False, only="" if key in shared else "print") for key in (PROCESS, *own)),
        Header("others", "other settings", numeric=False, only="print"),
        *(Header(key, key, numeric=False, only="csv") for key in differing if key not in shared),
    ]
    return Table("settings", "What differs between the methods", caption, tuple(headers), tuple(rows))


def _differing(flat: Collection[Mapping[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for values in flat for key in values)
    return [key for key in keys if len({values.get(key, DASH) for values in flat}) > 1]


def _usual(key: str, flat: Iterable[Mapping[str, str]]) -> str | None:
    """The value of nearly all methods that have the setting; None where there is none, or one method alone has it."""
    (value, count), *others = Counter(values[key] for values in flat if key in values).most_common()
    return value if count > 1 and count >= USUAL * (count + sum(number for _, number in others)) else None


def _brief(item: Any) -> Any:
    """Settings with each autoencoder as its kind and factor; the section on autoencoders and the manifests say more."""
    if isinstance(item, Mapping):
        return {
            key: f"{value.get('kind')}, factor {value.get('factor')}"
            if key == "autoencoder" and isinstance(value, Mapping)
            else _brief(value)
            for key, value in item.items()
        }
    return [_brief(part) for part in item] if isinstance(item, (list, tuple)) else item


def _label(key: str) -> str:
    return key.removeprefix("method.")


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys of a nested mapping, with values as short text."""
    found: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            found |= flatten(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = short(item)
    return found


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
    return Cell(DASH) if value is None else Cell(value, value, origin=origin)
