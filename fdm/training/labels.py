"""The classes of the training images, checked against what the experiment says of them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fdm.data import Split
from fdm.errors import UserError
from fdm.experiment import Experiment


def training_labels(experiment: Experiment, data: Split) -> Int[Tensor, " n"] | None:
    """Class (N,) int64 of every training image; None where the experiment is not conditional.

    Raises:
        UserError: the data have no labels, or their classes are not exactly 0 to ``conditioning.classes`` - 1. A class
            without an image counts too: nothing would train it, and samples of it would be noise.
    """
    if not experiment.classes:
        return None
    name, wanted = experiment.dataset.name, experiment.classes
    if data.labels is None:
        raise UserError(
            f"data/{name}: its training images have no labels, which conditioning.classes={wanted} needs; "
            "use a source with classes, or drop the conditioning block"
        )
    found = np.unique(data.labels)
    if found[0] < 0 or found[-1] >= wanted:
        raise UserError(
            f"data/{name}: its training labels run from {found[0]} to {found[-1]}, conditioning.classes={wanted} allows "
            f"0 to {wanted - 1}; set it to {found[-1] + 1}"
        )
    if len(found) < wanted:
        absent = np.setdiff1d(np.arange(wanted), found)
        raise UserError(
            f"data/{name}: no training image of class {absent[0]}"
            f"{f' (and {len(absent) - 1} more)' if len(absent) > 1 else ''}, conditioning.classes={wanted} needs some of "
            f"each; lower it or prepare more images"
        )
    return torch.from_numpy(data.labels)
