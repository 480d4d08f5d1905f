"""What a source gives: for every split, images by number, and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from fdm.errors import UserError


@dataclass(frozen=True)
class Part:
    """One split. ``load(i)`` decodes image i and may be called from several threads; ``name(i)`` is for errors."""

    count: int
    load: Callable[[int], Image.Image]
    name: Callable[[int], str]
    labels: np.ndarray | None


@dataclass(frozen=True)
class Source:
    """Splits, class names, and ``facts`` for the manifest.

    ``facts`` says what the data is (version, checksums) and is the same however it was obtained; ``route`` says how
    it was obtained on this machine.
    """

    parts: dict[str, Part]
    classes: tuple[str, ...] | None
    facts: dict[str, Any]
    route: str
    close: Callable[[], object] = field(default=lambda: None)


def array_part(what: str, images: np.ndarray, labels: np.ndarray) -> Part:
    """A split held in memory: uint8 (N, H, W) or (N, H, W, 3), labels (N,)."""
    if len(images) != len(labels):
        raise UserError(f"{what}: class labels are missing: {len(images)} images, {len(labels)} labels")
    return Part(
        count=len(images),
        load=lambda i: Image.fromarray(images[i]),
        name=lambda i: f"{what} image {i}",
        labels=labels.astype(np.int64),
    )


def rank_in_class(labels: np.ndarray) -> np.ndarray:
    """For each element of (N,), how many of the same label stand before it."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return ranks


def interleave(labels: np.ndarray) -> np.ndarray:
    """Order (N,) that takes the first image of every class, then the second of every class, and so on.

    Sources that are sorted by class are stored in this order, so that the first LIMIT images cover the classes evenly.
    """
    return np.lexsort((labels, rank_in_class(labels)))
