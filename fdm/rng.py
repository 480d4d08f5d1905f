"""Random numbers as functions of what they are for, never of when they are drawn.

Sampling noise is a function of (seed, sample, event) alone, so it does not depend on batch size, shard, rank or resume.
Training draws are a function of (seed, step), so resuming needs no generator state.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fdm.device import to_device

MANY = 1 << 16
"""Values of noise that are worth threads: a few milliseconds of one."""


class Purpose(IntEnum):
    """Streams that never overlap."""

    SAMPLE = 1
    STEP = 2
    ORDER = 3
    INIT = 4
    AUTOENCODER = 5


def sample_noise(
    seed: int,
    samples: Sequence[int],
    event: int,
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal noise of shape (len(samples), *shape) for one event of the reverse process.

    Each row is one Philox-4x64 stream with key (seed, purpose) and counter (0, 0, event, sample): the low half of the
    counter counts draws, the high half names the stream, so two streams cannot meet. Made on the CPU in float64, so that
    it is the same on every device. For a GPU, which would wait for it, as many threads as torch has share the rows; the bits stay.

    Args:
        seed: non-negative, below 2**64.
        samples: global indices of the samples.
        event: index of the sampler event (0 is the prior).
    """
    rows = np.empty((len(samples), *shape))

    def fill(part: slice) -> None:
        for row, sample in zip(rows[part], samples[part], strict=True):
            bits = np.random.Philox(key=[seed, Purpose.SAMPLE], counter=[0, 0, event, sample])  # type: ignore[arg-type]
            np.random.Generator(bits).standard_normal(out=row)

    target = torch.device(device)
    threads = torch.get_num_threads() if target.type != "cpu" and rows.size >= MANY else 1
    if threads == 1:
        fill(slice(None))
    else:  # NumPy lets go of Python's lock meanwhile
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, (slice(first, None, threads) for first in range(threads))))
    return to_device(torch.from_numpy(rows).to(dtype), target)


def derived_seed(seed: int, purpose: Purpose, index: int = 0, *further: int) -> int:
    """A 63-bit seed for a library generator, hashed from its arguments."""
    state = np.random.SeedSequence([seed, int(purpose), index, *further]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of every draw in training step ``step`` (stage, times, noise, flips)."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derived_seed(seed, Purpose.STEP, step))
    return generator


def training_order(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """Indices (batch,) of the images of one step: every epoch is a fresh permutation of range(count).

    A function of (seed, step) alone; batches run across epoch borders, and no image is left out.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    indices = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(positions // count):
        inside = positions // count == epoch
        indices[inside] = _permutation(seed, int(epoch), count)[positions[inside] % count]
    return indices


@lru_cache(maxsize=2)  # a batch lies in one epoch or across two
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng(derived_seed(seed, Purpose.ORDER, epoch)).permutation(count)
