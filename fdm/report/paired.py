"""Two experiments under the same seeds: paired differences and ratios, and one word for what they show.

Equal seeds share the order of the data and the noise of the samples, so values are compared seed by seed.
"""

from __future__ import annotations

from typing import Literal

from fdm.report.numbers import Estimate, estimate_present
from fdm.report.origin import Source
from fdm.report.results import Method, Run
from fdm.report.tables import SCORES, Better, Value, network_title, score_source

Word = Literal["better", "worse", "none", "not known"]

DISTANCES = ("fid", "frechet_distance")
COMPARED = (*DISTANCES, "kid_mean", "precision", "recall")
"""Scores that are compared; the distances come first and stand for quality."""


def difference(method: Method, baseline: Method, value: Value) -> Estimate | None:
    """``method`` minus ``baseline`` over the seeds that both have."""
    return estimate_present(a - b for a, b in _pairs(method, baseline, value))


def ratio(method: Method, baseline: Method, value: Value) -> Estimate | None:
    """``method`` over ``baseline``, seed by seed."""
    return estimate_present(a / b for a, b in _pairs(method, baseline, value) if b)


def word(change: Estimate | None, better: Better) -> Word:
    """What a paired difference shows: a direction only if its 95 % interval leaves out zero, never from one seed."""
    if change is None or change.half is None:
        return "not known"
    if change.low <= 0 <= change.high:
        return "none"
    return "better" if (change.mean < 0) == (better == "low") else "worse"


def quality_source(run: Run) -> Source | None:
    """Where the distance stands that stands for quality: of Inception-v3 features where there are any, else of the first network."""
    features = run.metrics.features
    network = "inception-v3" if features.get("inception-v3") else next(iter(features))
    return next((score_source(network, name) for name in DISTANCES if name in features[network]), None)


def quality_name(run: Run) -> str:
    """Name of that distance, with its feature network."""
    source = quality_source(run)
    assert source, "a run without a distance stands in no comparison"
    _, network, score = source.path
    return f"{SCORES[score][0]} ({network_title(network)})"


def quality(run: Run) -> float | None:
    """The distance that stands for quality."""
    source = quality_source(run)
    return source(run) if source else None


def _pairs(method: Method, baseline: Method, value: Value) -> list[tuple[float, float]]:
    ours, theirs = ({run.seed: run for run in side.runs} for side in (method, baseline))
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if isinstance(value, Source):  # times only where one device took both
        pairs = [(a, b) for a, b in pairs if a.timed_on(value) == b.timed_on(value)]
    values = ((value(a), value(b)) for a, b in pairs)
    return [(a, b) for a, b in values if a is not None and b is not None]
