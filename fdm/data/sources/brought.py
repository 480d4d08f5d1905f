"""CelebA, LSUN and ImageNet: sets that the user downloads by hand; ``config.path`` says where they are."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fdm.config import DatasetConfig
from fdm.data.sources.base import Part, Source, interleave
from fdm.data.sources.files import read_image
from fdm.errors import UserError

T = TypeVar("T")


def celeba(config: DatasetConfig, downloads: Path) -> Source:
    """CelebA, aligned and cropped, as torchvision lays it out: ``<path>/celeba/{img_align_celeba/,list_*.txt,…}``."""
    from torchvision.datasets import CelebA

    root = _root(config)
    images = root / "celeba" / "img_align_celeba"
    parts = {}
    for split in ("train", "test"):
        dataset = _try(root, "a folder celeba/ with img_align_celeba/ and the list files", CelebA, root, split)
        parts[split] = _files([images / name for name in dataset.filename], None)
    return Source(parts, None, {"title": "CelebA, aligned and cropped"}, "files of the user")


def imagenet(config: DatasetConfig, downloads: Path) -> Source:
    """ImageNet 2012 through torchvision: training images, and the validation images as test split where they are."""
    from torchvision.datasets import ImageNet

    root = _root(config)
    wanted = "ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_train.tar (or train/)"
    parts: dict[str, Part] = {}
    classes: tuple[str, ...] = ()
    splits = {"train": "train"}
    if (root / "val").is_dir() or (root / "ILSVRC2012_img_val.tar").is_file():
        splits["test"] = "val"
    for part, split in splits.items():
        dataset = _try(root, wanted, ImageNet, root, split)
        names = tuple(words[0] for words in dataset.classes)
        if parts and names != classes:
            raise UserError(f"{root}: class labels are missing: train/ and val/ do not have the same class folders")
        classes = names
        labels = np.asarray(dataset.targets, np.int64)
        order = interleave(labels)
        parts[part] = _files([Path(dataset.imgs[i][0]) for i in order], labels[order])
    return Source(parts, classes, {"title": "ImageNet 2012"}, "files of the user")


def lsun(config: DatasetConfig, downloads: Path) -> Source:
    """One category of LSUN: ``<path>/<category>_train_lmdb``, and ``…_val_lmdb`` as test split where it is.

    The databases are read directly: torchvision's class leaves a pickle of all keys in the current folder and trusts
    one that it finds there.
    """
    root = _root(config)
    if not config.category:
        raise UserError(f"dataset {config.name}: LSUN needs a category: -o dataset.category=church_outdoor")
    parts, environments = {}, []
    for name, split in (("train", "train"), ("test", "val")):
        folder = root / f"{config.category}_{split}_lmdb"
        if not folder.is_dir():
            if name == "train":
                raise UserError(f"{folder}: no such folder; dataset.path must hold the unpacked LSUN databases")
            continue
        part, close = _lmdb(folder)
        parts[name] = part
        environments.append(close)
    facts = {"title": f"LSUN {config.category}"}
    return Source(parts, None, facts, "files of the user", lambda: [close() for close in environments])


def _lmdb(folder: Path) -> tuple[Part, Callable[[], None]]:
    try:
        import lmdb
    except ModuleNotFoundError:
        raise UserError("LSUN needs the Python package lmdb: pip install lmdb") from None
    try:
        environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, max_readers=256)
        with environment.begin() as transaction:
            keys = list(transaction.cursor().iternext(values=False))
    except lmdb.Error as error:
        raise UserError(f"{folder}: not a readable LMDB database: {error}") from None

    def name(i: int) -> str:
        return f"{folder}: {keys[i].decode(errors='replace')}"

    def load(i: int) -> Any:
        with environment.begin() as transaction:
            return read_image(io.BytesIO(transaction.get(keys[i]) or b""), name(i))

    return Part(len(keys), load, name, None), environment.close


def _root(config: DatasetConfig) -> Path:
    root = Path(os.path.expanduser(config.path or ""))  # Path's own raises where there is no such user
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; set it with -o dataset.path=FOLDER")
    return root


def _try(root: Path, wanted: str, dataset: Callable[[Path, str], T], *arguments: Any) -> T:
    """Open a torchvision dataset; what it raises for missing and damaged files becomes one line."""
    try:
        return dataset(*arguments)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{root}: expected {wanted}: {' '.join(str(error).split())}") from None


def _files(paths: list[Path], labels: np.ndarray | None) -> Part:
    return Part(len(paths), lambda i: read_image(paths[i], str(paths[i])), lambda i: str(paths[i]), labels)
