"""Opening and checking a packed store ``data/<name>/``."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from fdm.config import DatasetConfig, EvaluationConfig, Name, explain
from fdm.errors import UserError
from fdm.plain import map_array, read_json, read_yaml
from fdm.store import json_sha256, sha256


class _Entry(BaseModel):
    count: int
    shape: tuple[int, int, int, int]
    labels: bool
    sha256: dict[str, str]


class _Manifest(BaseModel):
    """What of ``manifest.json`` is read again."""

    name: str
    spec: dict[str, Any]
    source: dict[str, Any]
    splits: dict[Name, _Entry]
    classes: list[str] | None
    digest: str


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W), mapped from disk and read-only, and labels int64 (N,) where the source has classes."""

    images: np.memmap[Any, np.dtype[np.uint8]]
    labels: np.ndarray | None


@dataclass(frozen=True)
class Store:
    """A complete packed dataset. ``digest`` stands for every byte of it."""

    folder: Path
    manifest: dict[str, Any]
    digest: str

    def split(self, name: str) -> Split:
        """Images and labels of the split ``name``.

        Raises:
            UserError: there is no such split, or its files are missing, truncated or of another shape than recorded.
        """
        splits = self.manifest["splits"]
        if name not in splits:
            raise UserError(f"{self.folder}: there is no split {name!r}; there are: {', '.join(splits)}")
        entry = splits[name]
        images = _array(self.folder / name / "images.npy", tuple(entry["shape"]), np.dtype(np.uint8))
        if not entry["labels"]:
            return Split(images, None)
        labels = _array(self.folder / name / "labels.npy", (entry["count"],), np.dtype(np.int64))
        return Split(images, np.array(labels))

    def differences(self, config: DatasetConfig) -> dict[str, tuple[Any, Any]]:
        """Keys of which the store was prepared with another value than ``config`` has: (stored, wanted).

        ``path`` counts only where ``config`` names one, so that data brought once need not be pointed at again.
        """
        stored, wanted = self.manifest["spec"], stored_spec(config)
        if wanted["path"] is None:
            wanted["path"] = stored.get("path")
        keys = [key for key in {**wanted, **stored} if stored.get(key) != wanted.get(key)]
        return {key: (stored.get(key), wanted.get(key)) for key in keys}

    def require(self, config: DatasetConfig) -> None:
        """Refuse a store that was prepared from another description than ``config``.

        Raises:
            UserError: names the keys that differ, and the command that prepares what is wanted.
        """
        if found := self.differences(config):
            was = ", ".join(f"{key}={stored}" for key, (stored, _) in found.items())
            wanted = ", ".join(f"{key}={value}" for key, (_, value) in found.items())
            changes = "".join(f" -o {_word(key, value)}" for key, (_, value) in found.items())
            raise UserError(
                f"{self.folder}: was prepared with {was}, wanted is {wanted}; `fdm data {self.folder.name}{changes} --force` "
                f"puts that in its place"
            )

    def require_reference(self, evaluation: EvaluationConfig) -> None:
        """Refuse data that samples could not be scored against, before anything is trained on them.

        Raises:
            UserError: too few images in the split of ``evaluation.reference``, or there is none.
        """
        count, (least, why) = len(self.split(evaluation.reference).images), evaluation.least
        if count < least:
            raise UserError(
                f"{self.folder}: the {evaluation.reference} split has {count} images, too few to score samples against; "
                f"{why} needs {least} (with fewer than {least} in sampling.count, to look at, nothing will be scored)"
            )

    def verify(self) -> None:
        """Read every file and compare it with its SHA-256 in the manifest.

        Raises:
            UserError: a file differs; the message names it with the expected and the found sum.
        """
        for name, entry in self.manifest["splits"].items():
            for kind, expected in entry["sha256"].items():
                path = self.folder / name / f"{kind}.npy"
                try:
                    found = sha256(path)
                except OSError as error:
                    raise _damaged(path, error.strerror or str(error)) from None
                if found != expected:
                    raise _damaged(path, f"its SHA-256 is {found} instead of {expected}")


def open_store(folder: Path) -> Store:
    """Open ``data/<name>/`` and check that its files are there and have the recorded sizes.

    Raises:
        UserError: nothing was prepared there, or what is there is damaged; the message names the command that mends it.
    """
    manifest = read_manifest(folder)
    store = Store(folder, manifest, manifest["digest"])
    for name in manifest["splits"]:
        store.split(name)
    return store


def read_manifest(folder: Path) -> dict[str, Any]:
    """What ``data/<name>/`` holds and was made from.

    Raises:
        UserError: nothing was prepared there, or the manifest is damaged.
    """
    path = folder / "manifest.json"
    try:
        manifest = read_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no prepared data there; run `fdm data {folder.name}`") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read: {error}") from None
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        raise _damaged(path, f"it lacks entries: {explain(error, 'manifest')}") from None
    if manifest["digest"] != manifest_digest(manifest):
        raise _damaged(path, "it does not match its own digest")
    return manifest


def stored_spec(config: DatasetConfig) -> dict[str, Any]:
    """``config`` as the manifest records it: without ``flip``, which happens while training and changes no file."""
    return config.model_dump(mode="json", exclude={"flip"})


def manifest_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of what defines the data; ``route`` (how it came here) does not."""
    parts = {key: manifest[key] for key in ("name", "spec", "source", "splits", "classes")}
    return json_sha256(parts)


def _word(key: str, value: Any) -> str:
    """The override, for a shell, that gives a key of a dataset this value."""
    text = "null" if value is None else str(value)
    return shlex.quote(f"dataset.{key}={text if read_yaml(text) == value else json.dumps(value)}")


def _array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.memmap[Any, Any]:
    try:
        array = map_array(path)
        size = path.stat().st_size
    except FileNotFoundError:
        raise _damaged(path, "it is missing") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read: {error}") from None
    if array.shape != shape or array.dtype != dtype:
        raise _damaged(path, f"it holds {array.dtype} {array.shape}, the manifest says {dtype} {shape}")
    if size != array.offset + array.nbytes:
        raise _damaged(path, f"it has {size} bytes instead of {array.offset + array.nbytes}")
    return array


def _damaged(path: Path, what: str) -> UserError:
    folder = path.parent if path.name == "manifest.json" else path.parent.parent
    return UserError(f"{path}: damaged: {' '.join(what.split())}; run `fdm data {folder.name} --force`")
