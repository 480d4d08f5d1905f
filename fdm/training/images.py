"""Where the training images are: in memory, on a GPU with room for them, or copied there batch by batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fdm.data import Split
from fdm.device import to_device

RESIDENT = 0.25
"""Share of a GPU's free memory that training data may take."""


def in_memory(data: Split, shared: bool) -> Tensor:
    """The images (N, C, H, W) uint8, writable as torch wants it: all in memory, which several processes of one machine share."""
    mapped = data.images
    if not shared:
        return torch.from_numpy(np.array(mapped))
    # Pages of the file that nobody writes to stay shared.
    return torch.from_numpy(np.memmap(str(mapped.filename), mapped.dtype, "c", mapped.offset, mapped.shape))


def pick(images: Tensor, order: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices ``order`` on ``device``, and the images there that they name, wherever those are."""
    rows = to_device(order, device)
    return rows, to_device(images[order if images.device.type == "cpu" else rows], device)


def near(images: Tensor, device: torch.device) -> Tensor:
    """The images on a GPU that has room for them, so that no batch has to be copied there; elsewhere as they are."""
    if device.type == "cuda" and images.nbytes < RESIDENT * torch.cuda.mem_get_info(device)[0]:
        return images.to(device)
    return images
