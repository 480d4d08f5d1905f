"""Bytes 0..255 to floats in [-1, 1] and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fdm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """uint8 of any shape, 0..255 → float32 in [-1, 1], same shape and device: x / 127.5 - 1.

    ``to_uint8(to_float(images))`` is ``images``, bit for bit.

    Raises:
        TypeError: ``images`` is not uint8 (floats would be scaled twice without a word).
    """
    if str(images.dtype) != "torch.uint8":
        raise TypeError(f"to_float: expected uint8, not {images.dtype}")
    return images.float().div(127.5).sub(1.0)


def to_uint8(x: Tensor) -> Tensor:
    """Floats of any shape, nominally in [-1, 1] → uint8, rounded to the nearest level and clamped to 0..255.

    Raises:
        UserError: NaN or infinity (a cast would turn them into arbitrary levels).
        TypeError: ``x`` is not floating point.
    """
    if not x.is_floating_point():
        raise TypeError(f"to_uint8: expected floats, not {x.dtype}")
    if not x.isfinite().all():
        raise UserError("images contain NaN or infinity and cannot be written as 8-bit pixels")
    return x.float().add(1.0).mul(127.5).round().clamp(0, 255).byte()
