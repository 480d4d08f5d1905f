"""How fast features of images are computed, which is most of what a score costs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from fdm.benchmark.clock import Timing, alternate
from fdm.evaluation.features import BATCH, Name, extract, load


def measure_evaluation(names: Sequence[Name], resolution: int, rounds: int, device: torch.device) -> dict[str, Timing]:
    """Seconds per image of each feature network, in batches of ``BATCH``.

    Raises:
        UserError: weights are missing and cannot be fetched.
    """
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, resolution, resolution), dtype=np.uint8)
    tasks = {str(name): partial(extract, load(name, str(device)), images) for name in names}
    timings = alternate(tasks, rounds, device)
    return {name: Timing(tuple(seconds / BATCH for seconds in timing.values)) for name, timing in timings.items()}
