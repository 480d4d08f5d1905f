"""Claims of the papers, what this suite measured about them, and a verdict that says no more than its data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from fdm.config import Frozen, explain
from fdm.errors import UserError
from fdm.plain import read_yaml
from fdm.report.numbers import Estimate
from fdm.report.origin import Origin, Source
from fdm.report.paired import quality, quality_name, quality_source, ratio
from fdm.report.results import Method, Results
from fdm.report.table import DASH, Cell, Header, Row, Table
from fdm.report.tables import Value

Measure = Literal["quality", "flops_per_sample", "seconds_per_sample", "training_flops", "training_seconds"]
Word = Literal["reproduced", "not reproduced", "undecided", "not testable at this scale"]

LEAST_SEEDS = 2
LEAST_SAMPLES = 500
"""Below this many samples a distance is mostly its own bias (docs/metrics.md)."""
VALUES: Mapping[Measure, tuple[str, Value]] = {
    "quality": ("Fréchet distance", quality),
    "flops_per_sample": ("FLOPs per sample", Source("cost.json", "flops_per_sample")),
    "seconds_per_sample": ("time per sample", Source("cost.json", "seconds_per_sample")),
    "training_flops": ("FLOPs of training", Source("cost.json", "training", "flops")),
    "training_seconds": ("time of training", Source("cost.json", "training", "seconds")),
}
COUNTED: Measure = "flops_per_sample"
"""No seed changes it."""
TIMED: tuple[Measure, ...] = ("seconds_per_sample", "training_seconds")
"""Shown, never judged: no record says what else the machine did meanwhile."""
MEASURED = ("verdict", "reason", "measured")
"""Columns of the table that rest on the evidence."""


class Paper(Frozen):
    """Where a claim was made."""

    title: str
    arxiv: str


class Test(Frozen):
    """The ratio of a measure (less is better) lies below a bound; ``ratio`` is the one that the paper has, if it has one."""

    measure: Measure
    below: Annotated[float, Field(gt=0)]
    ratio: Annotated[float, Field(gt=0)] | None = None


class Claim(Frozen):
    """A claim in our words, and the comparison that tests it or the reason why none does."""

    paper: str
    claim: str
    source: str
    published: str = ""
    defined: str = Field("", description="when the comparison was defined, if that was after results were known")
    of: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    tests: tuple[Test, ...] = ()
    resolution: int = Field(0, description="side of the images for which the claim was made; 0: any")
    datasets: tuple[str, ...] = Field((), description="datasets for which it was made; empty: any")
    untestable: str = ""

    @model_validator(mode="after")
    def _tested_or_not(self) -> Claim:
        if bool(self.untestable) == bool(self.of and self.against and self.tests):
            raise ValueError("needs either of, against and tests, or untestable with a reason")
        return self


class Claims(Frozen):
    """``params/claims.yaml``."""

    papers: dict[str, Paper]
    claims: dict[str, Claim]

    @model_validator(mode="after")
    def _known(self) -> Claims:
        for name, claim in self.claims.items():
            if claim.paper not in self.papers:
                raise ValueError(f"claims.{name}: paper: {claim.paper!r} is not among {', '.join(self.papers)}")
        return self


@dataclass(frozen=True)
class Evidence:
    """One test: the paired ratio with its interval, how many seeds and samples made it, the bound, and the published ratio, if any.

    ``title`` names the measure.
    """

    measure: Measure
    title: str
    ratio: Estimate
    samples: int
    below: float
    published: float | None = None

    @property
    def sufficient(self) -> bool:
        """Enough seeds for an interval; for a distance also enough samples, and seeds that are not copies of one another. Never for a time."""
        if self.measure in TIMED:
            return False
        if self.measure == COUNTED:
            return True
        if self.ratio.half is None or self.ratio.count < LEAST_SEEDS:
            return False
        return self.measure != "quality" or (self.samples >= LEAST_SAMPLES and self.ratio.half > 0)

    @property
    def supports(self) -> bool:
        """The whole interval lies below the bound."""
        return self.sufficient and self.ratio.high < self.below

    def __str__(self) -> str:
        spread = "" if self.ratio.half is None else f" [{self.ratio.low:.3g}, {self.ratio.high:.3g}]"
        text = f"{self.title}: ratio {self.ratio.mean:.3g}{spread}, bound {self.below:g}"
        if self.published is None:
            return text
        inside = self.ratio.half is not None and self.ratio.low <= self.published <= self.ratio.high
        where = "" if self.ratio.half is None else ", inside the interval" if inside else ", outside the interval"
        return f"{text}, published {self.published:.3g}{where}"


@dataclass(frozen=True)
class Verdict:
    """A word, why, and what it rests on.

    Raises:
        ValueError: ``reproduced`` without evidence, or with evidence that does not support it.
    """

    word: Word
    reason: str
    evidence: tuple[Evidence, ...] = ()

    def __post_init__(self) -> None:
        if self.word == "reproduced" and not (self.evidence and all(item.supports for item in self.evidence)):
            raise ValueError("reproduced needs seeds, samples and intervals that lie below every bound")
        judged = [item for item in self.evidence if item.measure not in TIMED]
        if self.word == "not reproduced" and not (judged and all(item.sufficient for item in judged)):
            raise ValueError("not reproduced needs seeds and samples too; without them nothing was tested")


def read_claims(path: Path) -> Claims | None:
    """The claims file; None where there is none.

    Raises:
        UserError: broken, or a key is wrong.
    """
    if not path.is_file():
        return None
    try:
        return Claims.model_validate(read_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise explain(error, str(path), [Claims, Claim, Test, Paper]) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None


def judge(claim: Claim, results: Results) -> Verdict:
    """The verdict on one claim from a suite's results."""
    if claim.untestable:
        return Verdict("not testable at this scale", claim.untestable)
    pair = _pair(claim, results)
    if pair is None:
        return Verdict(
            "not testable at this scale", f"The suite does not compare {claim.of[0]} with {claim.against[0]}."
        )
    ours, theirs = pair
    evidence = tuple(item for test in claim.tests if (item := _evidence(test, ours, theirs)) is not None)
    if len(evidence) < len(claim.tests):
        reason = "The two have no seed in common with this measure, or times of different devices."
        return Verdict("not testable at this scale", reason, evidence)
    dataset = ours.config.get("dataset", {})
    resolution, name = int(dataset.get("resolution", 0)), str(dataset.get("name"))
    if claim.datasets and name not in claim.datasets:
        return Verdict(
            "not testable at this scale", f"Claimed for {', '.join(claim.datasets)}; this is {name}.", evidence
        )
    if claim.resolution and resolution != claim.resolution:
        reason = (
            f"Claimed for {claim.resolution}×{claim.resolution} pixels; these images have {resolution}×{resolution}."
        )
        return Verdict("not testable at this scale", reason, evidence)
    if any(len({run.manifest.identities["evaluate"] for run in side.runs}) < len(side.runs) for side in pair):
        return Verdict("not testable at this scale", "Two seeds are one and the same run.", evidence)
    judged = [item for item in evidence if item.measure not in TIMED]
    if lacking := next((item for item in judged if not item.sufficient), None):
        return Verdict("not testable at this scale", _lack(lacking), evidence)
    if all(item.supports for item in evidence):
        return Verdict("reproduced", "Ratio and interval lie below the bound.", evidence)

    def measures(items: Iterable[Evidence]) -> str:
        return ", ".join(item.title for item in items)

    if beyond := [item for item in judged if item.ratio.low >= item.below]:
        return Verdict("not reproduced", f"{measures(beyond)}: ratio and interval lie above the bound.", evidence)
    if undecided := [item for item in judged if not item.supports]:
        reason = f"{measures(undecided)}: the interval holds the bound, so these seeds do not decide."
        return Verdict("undecided", reason, evidence)
    supported = f"{measures(judged)}: ratio and interval lie below the bound. " if judged else ""
    reason = f"{supported}A time is shown but not judged, as no record says what else ran on the machine."
    return Verdict("undecided", reason, evidence)


def claims_table(claims: Claims, results: Results) -> Table:
    """All claims: those that were measured first, each kind paper by paper."""
    headers = (
        Header("verdict", "Verdict", numeric=False),
        Header("reason", "Why", numeric=False),
        Header("measured", "Measured: ratio [95 % interval]", numeric=False),
        Header("compared", "Compared", numeric=False),
        Header("paired_seeds", "Seeds", numeric=False, only="csv"),
        Header("samples", "Samples", numeric=False, only="csv"),
        Header("scale", "Scale", numeric=False, only="csv"),
        Header("source", "Source", numeric=False),
        Header("published", "Published", numeric=False, only="csv"),
    )
    found = {name: judge(claim, results) for name, claim in claims.claims.items()}
    rows = []
    for name in sorted(found, key=lambda name: not found[name].evidence):
        verdict, claim = found[name], claims.claims[name]
        paper, pair = claims.papers[claim.paper], _pair(claim, results)
        seeds = min((item.ratio.count for item in verdict.evidence), default=0)
        samples = min((item.samples for item in verdict.evidence), default=0)
        texts = (
            verdict.word,
            f"{verdict.reason} Comparison defined {claim.defined}." if claim.defined else verdict.reason,
            "; ".join(map(str, verdict.evidence)),
            f"{pair[0].title} / {pair[1].title}" if pair else "",
            str(seeds or ""),
            f"{samples:,}" if samples else "",
            _scale(pair[0]) if pair else "",
            f"{paper.title}, arXiv {paper.arxiv}: {claim.source}",
            claim.published,
        )
        behind = tuple(method.name for method in pair or results.methods)
        origin = _origin(claim, *pair) if pair and verdict.evidence else None
        # In print a cell says what stands in several columns of the CSV.
        counts = f"{seeds} {'seed' if seeds == 1 else 'seeds'}, {samples:,} samples each; " if seeds else ""
        printed = {
            "compared": f"{texts[3]} ({counts}{texts[6]})" if pair else "",
            "source": f"{paper.title}: {claim.source}" + (f". Published: {claim.published}" if claim.published else ""),
        }
        cells = [
            Cell(printed.get(header.key, text) or DASH, text, origin=origin if header.key in MEASURED else None)
            for header, text in zip(headers, texts, strict=True)
        ]
        rows.append(Row(name, claim.claim, seeds, tuple(cells), behind))
    return Table(
        "claims",
        "Claims of the papers",
        "A claim is reproduced if the whole 95 % interval of the ratio, paired over seeds, lies below the bound. A bound of 1 is a claim's "
        "direction; a ratio that the paper published is compared with the interval beside it. Other bounds are ours. FLOPs of a sample are counted and need no interval. Not reproduced: the whole interval "
        "lies above it. Undecided: the interval holds the bound, or the claim rests on a measured time, which is shown but not judged, as "
        "no record says what else ran on the machine. Not testable: this suite lacks the images, the comparison, the seeds, the samples "
        "or times of one device. A verdict holds for the scale in its row, not for the paper's. Claims that something here was measured "
        "about come first.",
        headers,
        tuple(rows),
        "Claim",
    )


def _pair(claim: Claim, results: Results) -> tuple[Method, Method] | None:
    found = {method.name: method for method in results.methods}
    ours, theirs = (next((found[name] for name in names if name in found), None) for names in (claim.of, claim.against))
    return (ours, theirs) if ours and theirs else None


def _origin(claim: Claim, ours: Method, theirs: Method) -> Origin:
    """Where the numbers stand on which the verdict rests."""
    values = [VALUES[test.measure][1] for test in claim.tests]
    found = [value if isinstance(value, Source) else quality_source(ours.runs[0]) for value in values]
    how = f"mean of the ratios of {ours.name} to {theirs.name} under the same seed"
    return Origin(tuple(source for source in found if source), how, theirs.name)


def _evidence(test: Test, ours: Method, theirs: Method) -> Evidence | None:
    found = ratio(ours, theirs, VALUES[test.measure][1])
    samples = min(run.metrics.samples for run in (*ours.runs, *theirs.runs))
    title = quality_name(ours.runs[0]) if test.measure == "quality" else VALUES[test.measure][0]
    return Evidence(test.measure, title, found, samples, test.below, test.ratio) if found else None


def _lack(item: Evidence) -> str:
    if item.ratio.half is None:
        return f"One seed gives no interval; at least {LEAST_SEEDS} are needed."
    if item.samples < LEAST_SAMPLES:
        return f"A distance needs at least {LEAST_SAMPLES} samples per seed; there are {item.samples}."
    return "All seeds gave the same distance: they cannot be different runs."


def _scale(method: Method) -> str:
    dataset, run = method.config.get("dataset", {}), method.runs[0]
    side = dataset.get("resolution")
    return f"{dataset.get('name')}, {side}×{side}, {run.cost.training.images:,} images seen"
