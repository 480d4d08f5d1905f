"""Nearest training images of samples: does a model repeat its data, and which of its samples are like nothing in it?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from fdm.store import write_atomic

MOST = 1000
"""At most so many samples, and held-out images, are looked up."""
SHOWN = 8
BLOCK = 4096

Pixels = UInt8[np.ndarray, "n c h w"]


@dataclass(frozen=True)
class Nearest:
    """For each image the index of the nearest one of the pool, and the distance: root mean square over pixels, 0..1."""

    index: Int[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]


def nearest(images: Pixels, pool: Pixels) -> Nearest:
    """Nearest neighbours in ``pool`` by pixels; exact, as squares of bytes are whole numbers in float64."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    best = np.full(len(flat), np.inf)
    index = np.zeros(len(flat), dtype=np.int64)
    for start in range(0, len(pool), BLOCK):
        block = pool[start : start + BLOCK].reshape(-1, flat.shape[1]).astype(np.float64)
        squared = (flat**2).sum(1)[:, None] - 2 * flat @ block.T + (block**2).sum(1)[None, :]
        here = squared.argmin(axis=1)
        found = squared[np.arange(len(flat)), here]
        closer = found < best
        best[closer], index[closer] = found[closer], start + here[closer]
    return Nearest(index, np.sqrt(best / flat.shape[1]) / 255)


def write_neighbours(path: Path, samples: Pixels, train: Pixels, held_out: Pixels | None) -> None:
    """``neighbours.npz``: distances of samples and of held-out images to the training images, and the extreme pairs.

    ``distance`` (n,), ``held_out`` (m,), m = 0 without a test split; ``closest`` and ``farthest``: indices of up to 8
    samples, with ``closest_images`` and ``farthest_images`` their nearest training images, uint8.
    """
    found = nearest(samples[:MOST], train)
    others = nearest(held_out[:MOST], train).distance if held_out is not None else np.zeros(0)
    order = np.argsort(found.distance, kind="stable")
    parts = {"closest": order[:SHOWN], "farthest": order[::-1][:SHOWN]}
    arrays = {
        "distance": found.distance,
        "held_out": others,
        **parts,
        **{f"{name}_images": np.asarray(train)[found.index[chosen]] for name, chosen in parts.items()},
    }

    def write(part: Path) -> None:
        with open(part, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomic(path, write)
