"""The files of a run as the report reads them: their contents as models, and readers that refuse what is damaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from fdm.config import explain
from fdm.errors import UserError
from fdm.store import sealed

CURVE = ("step", "images", "stage", "loss")


class File(BaseModel):
    """A JSON file of the contract; later versions may add keys, so unknown ones are kept, not refused."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class Reference(File):
    """The images that scores compare with."""

    dataset: str
    split: str
    count: int
    digest: str


class Metrics(File):
    """``metrics.json``."""

    samples: int
    reference: Reference
    features: dict[str, dict[str, float]]


class TrainingCost(File):
    """What training took."""

    images: int
    steps: int
    seconds: float
    images_per_second: float
    flops: float


class Cost(File):
    """``cost.json``."""

    parameters: int
    evaluations_per_sample: float
    flops_per_evaluation: dict[str, float]
    flops_per_sample: float
    seconds_per_sample: float
    peak_memory_bytes: float | None
    device: str
    training: TrainingCost


class Record(File):
    """``train.json``, ``sample.json`` and their copies in the manifest.

    Attributes:
        files: SHA-256 of the files that the run made.
        classes: of a class-conditional ``sample.json``: sample i has class ``classes[i mod len(classes)]``.
    """

    identity: str
    device: str = ""
    classes: tuple[int, ...] | None = None
    files: dict[str, str] = {}


class Manifest(File):
    """``manifest.json``."""

    experiment: dict[str, Any]
    seed: int
    identities: dict[str, str]
    sources: dict[str, str] = {}
    """Digest of the code that each step ran (docs/provenance.md); earlier versions did not write it."""
    data: dict[str, Any]
    records: dict[str, Record]


class Interval(File):
    """A mean over images and its 95 % interval."""

    mean: float
    low: float
    high: float


class Task(File):
    """Restorations from one signal: scores by way to restore."""

    stage: int
    task: str
    measurement: tuple[int, ...]
    scores: dict[str, dict[str, Interval]]


class RestoredImages(File):
    """What was measured."""

    source: str
    count: int
    shape: tuple[int, ...]


class Conditional(File):
    """A record of what was made with a finished training, apart from its samples."""

    train: str
    files: dict[str, str] = {}


class Drawn(Conditional):
    """``vary.json`` or ``interpolate.json``; ``shape`` is (rows, columns, C, H, W)."""

    shape: tuple[int, int, int, int, int]


class Restored(Conditional):
    """``restore.json``."""

    images: RestoredImages
    rounded: bool
    lpips: str | None
    tasks: tuple[Task, ...]


def read_curve(folder: Path, name: str, columns: Sequence[str], kind: str) -> pd.DataFrame:
    """A log of losses, checked: it has these columns, and they hold finite numbers."""
    path = folder / name
    try:
        curve = pd.read_csv(path)
    except (OSError, ValueError):
        raise UserError(f"{path}: missing or damaged; {again(folder, kind)}") from None
    if absent := [column for column in columns if column not in curve]:
        raise UserError(f"{path}: has no column {absent[0]!r}; {again(folder, kind)}")
    try:
        values = curve[list(columns)].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise UserError(f"{path}: holds something that is not a number; {again(folder, kind)}") from None
    if not len(curve) or not np.isfinite(values).all():
        raise UserError(f"{path}: empty, or a value is not finite; {again(folder, kind)}")
    return curve


Content = TypeVar("Content", bound=File)


def read_json(path: Path, model: type[Content], kind: str) -> Content:
    """A JSON file of a run, checked; ``kind`` is the verb that makes it."""

    def refuse(text: str) -> float:
        raise ValueError(f"{text} is not a finite number")

    try:
        raw = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError:
        raise UserError(f"{path}: missing or unreadable; {again(path.parent, kind)}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); {again(path.parent, kind)}") from None
    if isinstance(raw, dict) and "digest" in raw and sealed(raw) != raw:
        raise UserError(f"{path}: damaged (it does not match its own digest); {again(path.parent, kind)}")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise explain(error, str(path), [model]) from None


def again(folder: Path, verb: str) -> str:
    """What to do about a bad file of a run."""
    return f"run `fdm {verb}` for {folder.parent.name} with --seed {folder.name[4:]} again"
