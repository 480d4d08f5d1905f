"""Packing a source into ``data/<name>/``: all or nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fdm.config import DatasetConfig
from fdm.data.fit import fit_image
from fdm.data.sources import Part, Source, open_source
from fdm.data.sources.files import pillow_quiet
from fdm.data.store import Store, manifest_digest, open_store, read_manifest, stored_spec
from fdm.errors import UserError
from fdm.store import locked, put_in_place, write_json

CHUNK = 128  # images per task of a worker thread
Progress = Callable[[str, int], Callable[[int], object]]
"""(split, images in all) → what is called with how many more are done."""


def prepare(
    config: DatasetConfig,
    root: Path = Path("data"),
    downloads: Path = Path("downloads"),
    force: bool = False,
    progress: Progress | None = None,
) -> Store:
    """Make ``root/<name>/`` from the source of ``config``; do nothing when it is there, intact and of the same spec.

    Where ``config`` names no path, that of the store that is there counts.

    Everything is built in a hidden sibling folder and renamed at the end, so a store is there wholly or not at all.
    A second process that prepares the same dataset waits and then finds it done.

    Args:
        config: which images, at which size.
        root: folder of the prepared datasets.
        downloads: folder of fetched archives.
        force: build anew whatever is there.
        progress: called at the beginning of each split; what it returns, now and then.

    Raises:
        UserError: the source cannot be had, an image cannot be used, the store cannot be written, or (without ``force``) what is
            there is of another spec; one line that names the file. What was there before is then still there.
    """
    target = root / config.name
    if not force and (store := _current(target, config)):
        return store
    with locked(root, f".{config.name}", wait=True):
        if not force and (store := _current(target, config)):
            return store
        config = _with_path(config, target)
        source = open_source(config, downloads)
        with contextlib.closing(source), pillow_quiet():  # type: ignore[type-var]
            _build(source, config, target, progress)
    return open_store(target)


def _current(target: Path, config: DatasetConfig) -> Store | None:
    """The store at ``target`` if it opens. A damaged one is as good as none: it is rebuilt.

    Raises:
        UserError: it has another spec.
    """
    try:
        store = open_store(target)
    except UserError:
        return None
    store.require(config)
    return store


def _with_path(config: DatasetConfig, target: Path) -> DatasetConfig:
    """``config`` with the path that the store at ``target`` was made from, if that is of the same source and ``config`` names none."""
    try:
        spec = read_manifest(target)["spec"]
    except UserError:
        return config
    return (
        config
        if config.path or spec.get("source") != config.source
        else config.model_copy(update={"path": spec.get("path")})
    )


def _build(source: Source, config: DatasetConfig, target: Path, progress: Progress | None) -> None:
    # A fixed name, because the lock keeps others out: what a killed process left is cleared by the next one.
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        splits = {}
        for name, images in source.parts.items():
            keep = min(images.count, config.limit or images.count) if name == "train" else images.count
            splits[name] = _write_split(images, keep, config, part / name, name, progress)
        manifest: dict[str, Any] = {
            "name": config.name,
            "spec": stored_spec(config),
            "source": source.facts,
            "splits": splits,
            "classes": None if source.classes is None else list(source.classes),
        }
        manifest |= {"digest": manifest_digest(manifest), "route": source.route}
        write_json(part / "manifest.json", manifest)
        put_in_place(part, target)
    except OSError as error:
        raise UserError(f"{target}: cannot write: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_split(
    images: Part, keep: int, config: DatasetConfig, folder: Path, name: str, progress: Progress | None
) -> dict[str, Any]:
    """Write ``images.npy`` and ``labels.npy`` of one split; returns its entry of the manifest."""
    if keep == 0:
        raise UserError(f"dataset {config.name}: its {name} split holds no images")
    folder.mkdir(parents=True)
    shape = (keep, config.channels, config.resolution, config.resolution)
    sums = {"images": _write_npy(folder / "images.npy", shape, np.uint8, _fitted(images, keep, config, name, progress))}
    if images.labels is not None:
        labels = images.labels[:keep].astype(np.int64)
        sums["labels"] = _write_npy(folder / "labels.npy", labels.shape, np.int64, iter([labels]))
    return {"count": keep, "shape": list(shape), "labels": images.labels is not None, "sha256": sums}


def _fitted(
    images: Part, keep: int, config: DatasetConfig, name: str, progress: Progress | None
) -> Iterator[np.ndarray]:
    """Chunks (n, C, R, R) in order, made by worker threads: Pillow decodes outside the interpreter's lock."""

    def chunk(start: int) -> np.ndarray:
        numbers = range(start, min(start + CHUNK, keep))
        return np.stack([fit_image(images.load(i), config, images.name(i)) for i in numbers])

    workers = min(16, os.cpu_count() or 1)
    advance = progress(name, keep) if progress else None
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, keep, CHUNK * workers):  # one round at a time bounds what waits in memory
            for block in pool.map(chunk, range(start, min(start + CHUNK * workers, keep), CHUNK)):
                yield block
                if advance:
                    advance(len(block))


def _write_npy(path: Path, shape: tuple[int, ...], dtype: type[np.generic], blocks: Iterator[np.ndarray]) -> str:
    """Write blocks of rows as one .npy file and return its SHA-256.

    Plain writes, not a memory map: on a full disk a map kills the process without a word (SIGBUS).
    """
    digest = hashlib.sha256()
    with open(path, "w+b") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.seek(0)
        digest.update(file.read())
        for block in blocks:
            data = block.tobytes()
            file.write(data)
            digest.update(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
