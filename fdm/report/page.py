"""The page: one HTML file that needs nothing beside it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from fdm.report import checks
from fdm.report.files import Manifest
from fdm.report.names import slug
from fdm.report.numbers import Estimate
from fdm.report.results import Results
from fdm.report.section import Section
from fdm.report.style import Look, drawn_colours, inline, theme_css
from fdm.report.table import Cell, Header
from fdm.report.tables import network_title

MOST_REVISIONS = 4


@dataclass(frozen=True)
class Group:
    """Neighbouring columns under one heading."""

    name: str
    count: int


def render(results: Results, looks: Mapping[str, Look], sections: Sequence[Section]) -> str:
    """The page's text. Whatever came from a file is escaped; only our own SVG, CSS and script are not."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    colours = drawn_colours(looks)
    environment.filters |= {
        "slug": slug,
        "sortkey": _sortkey,
        "of": lambda names: _of(names, looks),
        "consecutive": _consecutive,
        "breakable": _breakable,
        "manifest": _manifest,
        "prose": _prose,
        "kind": lambda block: type(block).__name__.lower(),
        "drawn": lambda figure: Markup(inline(figure.svg, figure.name, colours)),
    }
    return environment.get_template("template.html.j2").render(
        results=results,
        looks=looks,
        lead=_lead(results),
        sections=sections,
        warnings=checks.warnings(results),
        facts=_facts(results),
        style=Markup((here / "style.css").read_text(encoding="utf-8")),
        variables=Markup(theme_css(looks)),
        script=Markup((here / "script.js").read_text(encoding="utf-8")),
    )


def _lead(results: Results) -> str:
    dataset = results.methods[0].config.get("dataset", {})
    side, channels = dataset.get("resolution"), dataset.get("channels")
    kind = {1: "grey", 3: "colour"}.get(channels, "")
    images = f"{side}×{side} {kind} images" if side else "images"
    count = len(results.methods)
    return (
        f"{count} {'method' if count == 1 else 'methods'} on {dataset.get('name', 'one dataset')}: {images}, one "
        "network and one training budget unless the settings below say otherwise."
    )


def _facts(results: Results) -> list[tuple[str, str]]:
    runs, configs = results.runs, [method.config for method in results.methods]
    dataset = configs[0].get("dataset", {})
    seeds = sorted({run.seed for run in runs})
    batch = _values(config.get("training", {}).get("batch") for config in configs)
    solver = _values(_solver(config.get("sampling", {})) for config in configs)
    packages = {f"{name} {version}" for run in runs for name, version in checks.packages(run, "train").items()}
    return [
        ("Runs", f"{len(runs)} ({len(results.methods)} methods, seed {', '.join(map(str, seeds))})"),
        ("Dataset", f"{dataset.get('name')} (source {dataset.get('source')}), digest {_values(_digests(results))}"),
        (
            "Training budget",
            f"{_values((f'{run.cost.training.images:,}' for run in runs), ' or ')} images seen, batch {batch}",
        ),
        (
            "Sampling",
            f"{_values((f'{run.metrics.samples:,}' for run in runs), ' or ')} samples, {solver}, "
            f"{_values((f'{run.cost.evaluations_per_sample:g}' for run in runs), ' or ')} evaluations each",
        ),
        ("Feature networks", _values(network_title(network) for run in runs for network in run.metrics.features)),
        ("Device", _values(run.cost.device for run in runs)),
        ("Code revision", _revisions(checks.revisions(results))),
        ("Packages", ", ".join(sorted(packages)) or "not recorded"),
    ]


def _solver(sampling: Mapping[str, Any]) -> str | None:
    """Its name, with the noise where that can be chosen, and how steps lie in time where they are not even."""
    solver, spacing, told = sampling.get("solver"), sampling.get("spacing", "uniform"), []
    if solver in ("ddim", "multistep2"):
        told.append(f"η = {sampling.get('eta', 0):g}")
    if spacing != "uniform":
        told.append(f"{spacing} spacing")
    return f"{solver} ({', '.join(told)})" if told else solver


def _revisions(names: Sequence[str]) -> str:
    shown = ", ".join(_short(name) for name in names[:MOST_REVISIONS])
    more = len(names) - MOST_REVISIONS
    return shown if more <= 0 else f"{shown} and {more} more, in the manifests"


def _digests(results: Results) -> Iterable[str]:
    return (str(run.manifest.data.get("digest", "unknown"))[:12] for run in results.runs)


def _short(revision: str) -> str:
    head, plus, rest = revision.partition("+")
    return head[:12] + plus + rest


def _values(values: Iterable[Any], between: str = ", ") -> str:
    return between.join(dict.fromkeys(str(value) for value in values if value is not None))


def _prose(text: str) -> Markup:
    """Text with `code` between backticks."""
    words = enumerate(text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(word) if n % 2 else escape(word) for n, word in words)


def _sortkey(cell: Cell) -> str:
    if isinstance(cell.raw, Estimate):
        return repr(float(cell.raw.mean))
    return cell.raw or ""


def _of(names: Iterable[str], looks: Mapping[str, Look]) -> Markup:
    """The attribute by which the method filter finds an element; none for what belongs to no method."""
    own = " ".join(slug(name) for name in names if name in looks)
    return Markup(f' data-of="{own}"') if own else Markup("")


def _consecutive(headers: Sequence[Header]) -> list[Group]:
    return [
        Group(name, len(list(items))) for name, items in itertools.groupby(headers, key=lambda header: header.group)
    ]


def _breakable(label: str) -> Markup:
    """Long dotted or underscored names may break after a separator."""
    return Markup(re.sub(r"([._/])", r"\1<wbr>", str(escape(label))))


def _manifest(manifest: Manifest) -> str:
    return json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
