"""One image of any size and mode → uint8 (C, R, R), in exact integer arithmetic."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fdm.config import DatasetConfig
from fdm.errors import UserError

# Modes that Pillow brings to 8 bits per channel without loss of range; it would clip 16-bit and float modes silently.
EIGHT_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def fit_image(image: Image.Image, config: DatasetConfig, name: str) -> np.ndarray:
    """Bring ``image`` to ``config.channels`` × ``config.resolution``²  by ``config.fit``.

    Colour to grey is the ITU-R 601 luma, grey to colour repeats the channel, an alpha channel is dropped.

    Args:
        image: decoded image.
        config: resolution R, channels C and fit.
        name: what to call the image in an error.

    Returns:
        uint8 (C, R, R).

    Raises:
        UserError: a mode of more than 8 bits, or a size that ``config.fit`` does not allow.
    """
    if image.mode not in EIGHT_BIT:
        raise UserError(
            f"{name}: pixels of mode {image.mode!r} have more than 8 bits; convert the image to 8 bits first"
        )
    wanted = "L" if config.channels == 1 else "RGB"
    pixels = np.asarray(image if image.mode == wanted else image.convert(wanted))
    pixels = pixels.reshape(image.height, image.width, config.channels)
    side = config.resolution
    height, width = pixels.shape[:2]
    if config.fit == "exact":
        if (height, width) != (side, side):
            raise UserError(
                f"{name}: the image is {width}x{height}, fit=exact wants {side}x{side}; use fit=crop-resize or fit=pad"
            )
    elif config.fit == "pad":
        if height > side or width > side:
            raise UserError(
                f"{name}: the image is {width}x{height}, fit=pad cannot shrink it to {side}x{side}; use fit=crop-resize"
            )
        top, left = (side - height) // 2, (side - width) // 2
        border = ((top, side - height - top), (left, side - width - left), (0, 0))
        pixels = np.pad(pixels, border)
    else:
        pixels = area_resize(centre_square(pixels), side)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def centre_square(pixels: np.ndarray) -> np.ndarray:
    """Largest centred square of (H, W, C); of two equally central ones, the upper or left."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def area_resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """Mean of the source over the square of every target pixel, rounded half up: uint8 (S, S, C) → (side, side, C).

    The source is taken as constant on each of its pixels, so a whole factor is plain average pooling and a smaller
    source is enlarged in blocks. Written here because Pillow's BOX filter counts a pixel on a border wholly or not
    at all when the factor is not whole, and its other filters overshoot. Sums are integers: every machine gives
    the same bytes.
    """
    source = pixels.shape[0]
    if source == side:
        return pixels
    sums = _sums(_sums(pixels.astype(np.int64), side).swapaxes(0, 1), side).swapaxes(0, 1)
    area = source * source
    return ((sums + area // 2) // area).astype(np.uint8)


def _sums(values: np.ndarray, count: int) -> np.ndarray:
    """Integrals of a step function over ``count`` equal intervals of axis 0, in units of 1/count of a step."""
    steps = values.shape[0]
    integral = np.concatenate([np.zeros_like(values[:1]), values.cumsum(axis=0)])
    edges = np.arange(count + 1) * steps
    whole, part = edges // count, edges % count
    inside = values[np.minimum(whole, steps - 1)]
    return np.diff(count * integral[whole] + part[:, None, None] * inside, axis=0)
