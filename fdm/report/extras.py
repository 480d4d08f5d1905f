"""``forward.npz`` and ``neighbours.npz`` of a run, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from fdm.errors import UserError
from fdm.plain import BROKEN
from fdm.report.files import again
from fdm.report.results import Method, Results, Run


@dataclass(frozen=True)
class Forward:
    """What the forward process does; ``fdm.evaluation.forward`` says what each array is."""

    t: np.ndarray
    stage: np.ndarray
    energy: np.ndarray
    dimension: np.ndarray
    information: np.ndarray
    image_side: np.ndarray
    image_information: np.ndarray
    oracle_steps: np.ndarray
    oracle_error: np.ndarray
    oracle_floor: np.ndarray
    frame_t: np.ndarray
    frame_stage: np.ndarray
    frames: list[np.ndarray]


ARRAYS = tuple(field.name for field in fields(Forward) if field.name != "frames")


@dataclass(frozen=True)
class Neighbours:
    """Distances to the nearest training images, and the extreme pairs (``fdm.evaluation.neighbours``)."""

    distance: np.ndarray
    held_out: np.ndarray
    closest: np.ndarray
    closest_images: np.ndarray
    farthest: np.ndarray
    farthest_images: np.ndarray


def forwards(results: Results) -> list[tuple[Method, Forward]]:
    """Of each method's first run (of partial results: that has the file); empty where the results are older than the file."""
    runs = [(method, method.runs[0]) for method in _with("forward.npz", results.having("forward.npz"))]
    return [(method, load_forward(run.folder / "forward.npz")) for method, run in runs]


def neighbours(results: Results) -> list[tuple[Method, Neighbours]]:
    """Of each method's first run; empty where the results are older than the file."""
    return [(method, _neighbours(method.runs[0])) for method in _with("neighbours.npz", results)]


def _with(name: str, results: Results) -> Sequence[Method]:
    """All methods, if any has the file: a single one that lacks it is then an error of its own."""
    there = [method.runs[0].has([name]) for method in results.methods]
    return results.methods if any(there) else ()


def load_forward(path: Path) -> Forward:
    """``forward.npz`` of a run, at ``path``.

    Raises:
        UserError: it is missing or damaged, or has values that are not finite.
    """
    arrays = _read(path, ARRAYS, "z_")
    frames = [arrays[f"z_{j}"].astype(np.float32) for j in range(len(arrays["frame_t"]))]
    known = [arrays[name] for name in ("t", "energy", "image_information", "oracle_error")] + frames
    if not len(arrays["t"]) or not all(np.isfinite(array).all() for array in known):
        raise UserError(f"{path}: empty, or with values that are not finite; {again(path.parent, 'evaluate')}")
    return Forward(**{name: arrays[name] for name in ARRAYS}, frames=frames)


def _neighbours(run: Run) -> Neighbours:
    path = run.folder / "neighbours.npz"
    names = ("distance", "held_out", "closest", "closest_images", "farthest", "farthest_images")
    arrays = _read(path, names)
    if not len(arrays["distance"]) or not np.isfinite(arrays["distance"]).all():
        raise UserError(f"{path}: empty, or with values that are not finite; {again(run.folder, 'evaluate')}")
    if max(arrays["closest"].max(), arrays["farthest"].max()) >= run.metrics.samples:
        raise UserError(f"{path}: is of other samples; {again(run.folder, 'evaluate')}")
    return Neighbours(*(arrays[name] for name in names))


def _read(path: Path, names: Sequence[str], prefix: str = "") -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            chosen = [*names, *(name for name in stored.files if prefix and name.startswith(prefix))]
            return {name: stored[name] for name in chosen}
    except (OSError, *BROKEN):
        raise UserError(f"{path}: missing or damaged; {again(path.parent, 'evaluate')}") from None
