"""Images that a user brings for one use, not to be packed: read, checked and cut to the size of a dataset."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from fdm.config import DatasetConfig
from fdm.data.fit import fit_image
from fdm.data.sources.files import pillow_quiet
from fdm.data.sources.folder import folder_or_zip
from fdm.errors import UserError


def load_images(path: Path, config: DatasetConfig, count: int) -> np.ndarray:
    """The first ``count`` images of a folder or zip, in the order of their names, uint8 (N, C, R, R) as ``config`` has them.

    The centre square of each is brought to R pixels by averaging; where the folder has a test split, it is that.

    Raises:
        UserError: no images there, or one is smaller than R pixels (enlarging it would invent what is to be restored).
    """
    side = config.resolution
    wanted = config.model_copy(update={"fit": "crop-resize", "path": str(path)})
    with contextlib.closing(folder_or_zip(wanted, Path("downloads"))) as source, pillow_quiet():  # type: ignore[type-var]
        part = source.parts.get("test", source.parts["train"])
        images = []
        for number in range(min(count, part.count)):
            image = part.load(number)
            if min(image.size) < side:
                raise UserError(
                    f"{part.name(number)}: the image is {image.width}x{image.height}, smaller than the model's {side}x{side}"
                )
            images.append(fit_image(image, wanted, part.name(number)))
    return np.stack(images)
