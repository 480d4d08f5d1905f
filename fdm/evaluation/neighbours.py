"""Nearest training images of samples: does a model repeat its data, and which of its samples are like nothing in it?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from fdm.store import write_arrays

MOST = 1000
"""At most so many samples, and held-out images, are looked up."""
SHOWN = 8
BLOCK = 4096

Pixels = UInt8[np.ndarray, "n c h w"]


@dataclass(frozen=True)
class Nearest:
    """For each image the nearest one of the pool, as it is compared, and the distance: root mean square over pixels, 0..1."""

    image: Pixels
    distance: Float[np.ndarray, " n"]


def nearest(images: Pixels, pool: Pixels, flip: bool = False) -> Nearest:
    """Nearest neighbours in ``pool`` by pixels; exact, as squares of bytes are whole numbers in float64.

    Args:
        flip: whether the mirror images of the pool are in it, too, as they are for a training that mirrors.
    """
    found = _nearest(images, pool)
    if not flip:
        return found
    # A mirror image is as far from an image as its original is from that image's mirror image.
    other = _nearest(images[..., ::-1], pool)
    closer = other.distance < found.distance
    image = np.where(closer[:, None, None, None], other.image[..., ::-1], found.image)
    return Nearest(image, np.where(closer, other.distance, found.distance))


def _nearest(images: Pixels, pool: Pixels) -> Nearest:
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
    return Nearest(np.asarray(pool)[index], np.sqrt(best / flat.shape[1]) / 255)


def write_neighbours(path: Path, samples: Pixels, train: Pixels, held_out: Pixels | None, flip: bool = False) -> None:
    """``neighbours.npz``: distances of samples and of held-out images to the training images, and the extreme pairs.

    ``distance`` (n,), ``held_out`` (m,), m = 0 without a test split; ``closest`` and ``farthest``: indices of up to 8
    samples, with ``closest_images`` and ``farthest_images`` their nearest training images, uint8.

    Args:
        flip: whether training mirrored its images; mirrored ones are then looked up, too.
    """
    found = nearest(samples[:MOST], train, flip)
    others = nearest(held_out[:MOST], train, flip).distance if held_out is not None else np.zeros(0)
    order = np.argsort(found.distance, kind="stable")
    parts = {"closest": order[:SHOWN], "farthest": order[::-1][:SHOWN]}
    arrays = {
        "distance": found.distance,
        "held_out": others,
        **parts,
        **{f"{name}_images": found.image[chosen] for name, chosen in parts.items()},
    }
    write_arrays(path, arrays, compressed=True)
