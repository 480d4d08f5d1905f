"""Nearest training images of samples: a table of distances, and the extreme samples beside their neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fdm.report.extras import Neighbours
from fdm.report.numbers import Scale, estimate_present
from fdm.report.origin import Origin, Source
from fdm.report.results import Method
from fdm.report.samples import encode, sheet
from fdm.report.section import Picture
from fdm.report.table import Header, Row, Table, printed

CLOSE = 0.01
"""Quantile of the held-out images' distances below which a sample counts as close."""

SAMPLES, HELD_OUT = Source("neighbours.npz", "distance"), Source("neighbours.npz", "held_out")
ORIGINS = (
    Origin((SAMPLES,), "median"),
    Origin((SAMPLES,), "least"),
    Origin((HELD_OUT,), "median"),
    Origin((HELD_OUT,), "least"),
    Origin((SAMPLES, HELD_OUT), f"share of the first below the {CLOSE:.0%} quantile of the second"),
)
"""Of the columns of the table."""


def memorisation_table(found: Sequence[tuple[Method, Neighbours]]) -> Table:
    """Distances of samples and of held-out images to the training images."""
    headers = (
        Header("median", "Median", group="distance of samples"),
        Header("least", "Least", group="distance of samples"),
        Header("held_out_median", "Median", group="distance of held-out images"),
        Header("held_out_least", "Least", group="distance of held-out images"),
        Header("close", "Close samples", "%"),
    )
    rows = []
    plain = Scale(1.0, "", 3)
    for method, item in found:
        held = item.held_out
        close = float((item.distance < np.quantile(held, CLOSE)).mean()) if len(held) else None
        values = [float(f(part)) if len(part) else None for part in (item.distance, held) for f in (np.median, np.min)]
        cells = [
            printed(estimate_present([value]), plain, origin) for value, origin in zip(values, ORIGINS[:4], strict=True)
        ]
        cells.append(printed(estimate_present([close]), Scale(0.01, "%", 1), ORIGINS[4]))
        rows.append(Row(method.name, method.title, 1, tuple(cells), seed=method.runs[0].seed))
    return Table(
        "neighbours",
        "Distance to the nearest training image",
        "Root mean square over pixels, 0 to 1, of the first seed's samples (at most 1,000). Close: nearer than all but 1 % of held-out "
        "images are; a model that repeats its training images has far more than 1 % of them. Pixels know nothing of "
        "shape: plain images are near to everything.",
        headers,
        tuple(rows),
    )


def memorisation_picture(method: Method, found: Neighbours) -> Picture:
    """Four rows: the samples nearest to training images, those images; the farthest samples, their nearest images."""
    run = method.runs[0]
    samples = run.samples(int(max(found.closest.max(), found.farthest.max())) + 1)
    count = min(8, len(found.closest))
    rows = [samples[found.closest], found.closest_images, samples[found.farthest], found.farthest_images]
    media, content = encode(picture := sheet([row[:count] for row in rows]))
    height, width = picture.shape[:2]
    near, far = found.distance[found.closest[0]], found.distance[found.farthest[0]]
    return Picture(
        f"neighbours-{method.name}",
        method.title,
        f"Seed {run.seed}. Distances from {near:.3f} to {far:.3f}.",
        f"Samples of {method.title} nearest to and farthest from training images, with those images",
        media,
        content,
        width,
        height,
        (method.name,),
    )
