"""What a folder ``results/<suite>/<experiment>/seed<k>/`` says of itself: its records, and the digests that they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fdm.plain import read_yaml
from fdm.store import sealed, sha256

STEPS = ("pretrain", "train", "sample", "evaluate", "restore", "vary", "interpolate")
MANIFEST = "manifest.json"
PUBLISHED = Path("published")
"""What git holds of results and reports (`fdm publish`), in folders of these names."""
PUBLISHED_FILES = (
    *(f"{step}.json" for step in STEPS if step != "evaluate"),
    "metrics.json",
    "cost.json",
    "neighbours.npz",
    MANIFEST,
)
"""Of a run: all that tables are made of."""
PUBLISHED_PICTURES = (
    *("grid.png", "training.csv", "autoencoder.csv"),
    *("reconstructions.png", "restore.png", "vary.png", "interpolate.png"),
)
"""Of a run, where it is there: what a report draws. Weights and samples are larger, and for DVC."""
PUBLISHED_ONCE = ("trajectory.npz", "forward.npz")
"""The same of an experiment's first seed alone, as a report draws no other."""


@dataclass(frozen=True)
class RunFolder:
    """A folder's records as they are on disk.

    Attributes:
        records: content by file name, of those that are as they were sealed.
        damaged: why a record cannot be trusted, by file name.
        files: recorded SHA-256 of every other file, by name.
    """

    folder: Path
    records: Mapping[str, dict[str, Any]]
    damaged: Mapping[str, str]
    files: Mapping[str, str]

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The manifest, where there is a good one."""
        return self.records.get(MANIFEST)

    @property
    def unfinished(self) -> bool:
        """Whether it is being made: nothing of its evaluation is here, nor does DVC have it, nor was it published."""
        path = self.folder / MANIFEST
        there = any((self.folder / name).is_file() for name in (MANIFEST, "metrics.json", "cost.json"))
        return not (there or under_dvc(path) or is_published(path))

    def state(self, name: str) -> str:
        """What a file of the run is, in words: ``as recorded`` if it is what it was when it was made."""
        if not (self.folder / name).is_file():
            return "not here"
        if name in self.damaged:
            return self.damaged[name]
        if name in self.records:
            return "as recorded"
        if name not in self.files:
            return "no digest recorded"
        return "as recorded" if sha256(self.folder / name) == self.files[name] else "not as recorded"


def record_name(step: str) -> str:
    """The file that holds a step's record."""
    return MANIFEST if step == "evaluate" else f"{step}.json"


def read_folder(folder: Path) -> RunFolder:
    """Read all records of a run; damaged ones are named, not raised."""
    records: dict[str, dict[str, Any]] = {}
    damaged: dict[str, str] = {}
    files: dict[str, str] = {}
    for name in map(record_name, STEPS):
        if not (folder / name).is_file():
            continue
        try:
            record = json.loads((folder / name).read_bytes())
            # The manifest holds the record of the evaluation, which has no file of its own here.
            own = record["records"]["evaluate"] if name == MANIFEST else record
            digests = own.get("files", {}).items()
        except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
            damaged[name] = f"cannot be read ({' '.join(str(error).split())})"
            continue
        if sealed(record) != record:
            damaged[name] = "does not match its own digest"
            continue
        records[name] = record
        files.update(digests)
    return RunFolder(folder, records, damaged, files)


def results_of(suite: str) -> Path:
    """``results/<suite>``, or the published copy where that is not here."""
    own = Path("results") / suite
    return own if own.is_dir() or not (PUBLISHED / own).is_dir() else PUBLISHED / own


def unpublished(path: Path) -> bool:
    """Whether ``path`` would be in the published copy, but is left to DVC."""
    return is_published(path) and path.name not in PUBLISHED_FILES


def is_published(path: Path) -> bool:
    """Whether ``path`` lies in the published copy."""
    return PUBLISHED.resolve() in path.resolve().parents


def under_dvc(path: Path, root: Path | None = None) -> bool:
    """Whether DVC has ``path`` or a folder that it is in, as an output of a stage (dvc.lock) or in a ``.dvc`` file."""
    root = (root or Path()).resolve()
    path = path.resolve()
    places = {path, *path.parents}
    return any(place.with_name(f"{place.name}.dvc").is_file() for place in places if place.name) or bool(
        places & {root / out for out in _outputs(root)}
    )


@cache
def _outputs(root: Path) -> frozenset[str]:
    try:
        lock = read_yaml((root / "dvc.lock").read_text(encoding="utf-8"))
        return frozenset(str(out["path"]) for stage in lock["stages"].values() for out in stage.get("outs", ()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return frozenset()
