"""Decoding one image file, with bounds, and errors that name it."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

from fdm.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Decided by content, whatever the name says. Pillow knows many more, some of which run other programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_PIXELS = 1 << 26  # 8192 x 8192; more is a mistake or an image bomb
# What Pillow raises for broken files, besides OSError.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@contextmanager
def pillow_quiet() -> Iterator[None]:
    """Without Pillow's remarks on odd files: each is harmless, or an error follows. Its bound on pixels is laxer than ours.

    Filters of warnings belong to the whole process: enter this before threads that read images, not in them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def read_image(file: Path | IO[bytes], name: str, upright: bool = False) -> Image.Image:
    """Decode a whole image.

    Args:
        file: path or open file.
        name: what to call the image in an error.
        upright: turn it as its EXIF orientation says.

    Raises:
        UserError: not an image, truncated, or of more than ``MAX_PIXELS`` pixels.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{name}: {image.width}x{image.height} are more pixels than the limit of {MAX_PIXELS}")
            image.load()
            return ImageOps.exif_transpose(image) if upright else image
    except UnidentifiedImageError:
        raise UserError(f"{name}: not a readable image of type {', '.join(FORMATS)}") from None
    except BROKEN as error:
        raise UserError(f"{name}: cannot be decoded: {' '.join(str(error).split())}") from None
