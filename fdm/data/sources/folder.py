"""Any folder or zip of images. Nothing of a zip is ever unpacked to disk."""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from fdm.config import DatasetConfig
from fdm.data.sources.base import Part, Source, interleave
from fdm.data.sources.files import SUFFIXES, read_image
from fdm.errors import UserError

MAX_FILE = 1 << 28  # bytes of one image file in a zip
MAX_TOTAL = 1 << 40  # of all of them


@dataclass(frozen=True)
class _Listing:
    """Relative names of the images, sorted, and how to decode one of them."""

    names: list[PurePosixPath]
    load: Callable[[PurePosixPath], Image.Image]
    close: Callable[[], object] = lambda: None


def folder_or_zip(config: DatasetConfig, downloads: Path) -> Source:
    """Images of ``config.path`` (a folder or a .zip), sorted by their relative names.

    Folders around everything are looked through. Below them, ``train`` beside ``test`` or ``val`` make the splits
    (beside both, ``val`` is left out); otherwise all is training data. Within the splits, when every image lies in a
    sub-folder, the first sub-folder is its class and classes are interleaved; otherwise there are no labels.

    Raises:
        UserError: nothing there, no images, an unsafe zip, or a test class that has no training images.
    """
    path = Path(os.path.expanduser(config.path or ""))  # Path's own raises where there is no such user
    if path.is_dir():
        listing = _list_folder(path)
    elif path.is_file():
        listing = _list_zip(path)
    else:
        raise UserError(f"{path}: no such folder or zip; set it with -o dataset.path=FOLDER_OR_ZIP")
    if not listing.names:
        listing.close()
        raise UserError(f"{path}: no images in there (looked for {', '.join(SUFFIXES)}, sub-folders included)")
    try:
        splits = _splits(listing.names, path)
        classes = _classes(splits, path)
    except UserError:
        listing.close()
        raise
    parts = {name: _part(path, listing, files, depth, classes) for name, (files, depth) in splits.items()}
    return Source(parts, classes, {"title": f"images of {path.name}"}, "files of the user", listing.close)


def _list_folder(path: Path) -> _Listing:
    names = []
    visited = set()

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}")

    # Links to folders are followed, because large sets are often linked together; each folder once, so that it ends.
    for parent, folders, files in os.walk(path, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        real = os.path.realpath(parent)
        if real in visited:
            raise UserError(f"{parent}: this folder is linked into {path} twice")
        visited.add(real)
        relative = PurePosixPath(Path(parent).relative_to(path).as_posix())
        names += [relative / name for name in files if _is_image(relative / name)]
    return _Listing(sorted(names), lambda name: read_image(path / name, str(path / name), upright=True))


def _list_zip(path: Path) -> _Listing:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable zip: {' '.join(str(error).split())}") from None
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    total = 0
    for info in archive.infolist():
        name = PurePosixPath(info.filename)
        total += info.file_size
        problem = _unsafe(info, name) or (
            f"with it the zip unpacks to more than {MAX_TOTAL} bytes" if total > MAX_TOTAL else None
        )
        if not problem and _is_image(name) and not info.is_dir():
            problem = "it is in there twice" if name in members else None
            members[name] = info
        if problem:
            archive.close()
            raise UserError(f"{path}: refused: {info.filename!r}: {problem}")

    def load(name: PurePosixPath) -> Image.Image:
        where = f"{path}: {name}"
        try:
            return read_image(io.BytesIO(archive.read(members[name])), where, upright=True)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, zlib.error) as error:
            raise UserError(f"{where}: cannot be unpacked: {' '.join(str(error).split())}") from None

    return _Listing(sorted(members), load, archive.close)


def _unsafe(info: zipfile.ZipInfo, name: PurePosixPath) -> str | None:
    if name.is_absolute() or ".." in name.parts or "\\" in info.filename or ":" in info.filename.split("/")[0]:
        return "its path leads out of the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "it is a symbolic link"
    if info.file_size > MAX_FILE:
        return f"it unpacks to {info.file_size} bytes, the limit is {MAX_FILE}"
    return None


def _is_image(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return not hidden and name.suffix.lower() in SUFFIXES


def _splits(names: list[PurePosixPath], path: Path) -> dict[str, tuple[list[PurePosixPath], int]]:
    """Files of every split and the number of leading folders that say nothing about the class."""
    depth = 0
    while _tops(names, depth) is not None and len(_tops(names, depth) or ()) == 1:
        depth += 1
    tops = _tops(names, depth) or set()
    if "train" not in tops or not tops & {"test", "val"}:
        return {"train": (names, depth)}
    if stray := sorted(tops - {"train", "test", "val"}):
        raise UserError(f"{path}: the folder {stray[0]!r} beside train is neither test nor val; move it elsewhere")
    other = "test" if "test" in tops else "val"
    pick = {"train": "train", "test": other}
    return {split: ([name for name in names if name.parts[depth] == top], depth + 1) for split, top in pick.items()}


def _tops(names: Sequence[PurePosixPath], depth: int) -> set[str] | None:
    """Folders at ``depth``, or None where an image lies at that depth itself."""
    if any(len(name.parts) == depth + 1 for name in names):
        return None
    return {name.parts[depth] for name in names}


def _classes(splits: dict[str, tuple[list[PurePosixPath], int]], path: Path) -> tuple[str, ...] | None:
    tops = {split: _tops(*listed) for split, listed in splits.items()}
    train = tops["train"]
    for split, found in tops.items():
        if (found is None) != (train is None):
            raise UserError(
                f"{path}: class labels are missing: train and {split} must both have class folders or neither"
            )
        extra = sorted((found or set()) - (train or set()))
        if extra:
            raise UserError(f"{path}: class labels are missing: {split} has the class {extra[0]!r} and train has not")
    return None if train is None else tuple(sorted(train))


def _part(
    path: Path, listing: _Listing, files: list[PurePosixPath], depth: int, classes: tuple[str, ...] | None
) -> Part:
    labels = None
    if classes is not None:
        number = {name: i for i, name in enumerate(classes)}
        labels = np.array([number[name.parts[depth]] for name in files], np.int64)
        order = interleave(labels)
        files, labels = [files[i] for i in order], labels[order]
    return Part(
        count=len(files), load=lambda i: listing.load(files[i]), name=lambda i: str(path / files[i]), labels=labels
    )
