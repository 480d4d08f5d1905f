"""Pictures of many images: grids, and labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fdm.store import write_atomic

CELL, GAP, MARGIN, SIZE = 64, 4, 120, 14


def save_grid(path: Path, images: np.ndarray, columns: int = 8, rows: Sequence[Sequence[int]] | None = None) -> None:
    """A PNG of some of the images (N, C, H, W) uint8, with a two-pixel gap.

    Args:
        rows: indices of the images in each row; default: the first columns**2, row by row.
    """
    count, channels, height, width = images.shape
    if rows is None:
        shown = range(min(count, columns * columns))
        rows = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    sheet = np.full((len(rows) * (height + 2) + 2, columns * (width + 2) + 2, channels), 128, dtype=np.uint8)
    for down, row in enumerate(rows):
        for across, index in enumerate(row):
            top, left = 2 + down * (height + 2), 2 + across * (width + 2)
            sheet[top : top + height, left : left + width] = images[index].transpose(1, 2, 0)
    picture = Image.fromarray(sheet if channels == 3 else sheet[:, :, 0])
    scale = max(1, 512 // picture.width)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    write_atomic(path, lambda part: picture.save(part, format="PNG"))


def labelled_rows(path: Path, rows: Sequence[tuple[str, np.ndarray]]) -> None:
    """A PNG with one row of images, uint8 (N, C, H, W), per label; sides may differ between rows.

    Every image fills a cell of the same size, at least ``CELL`` pixels, with whole blocks for its pixels where that divides.
    """
    largest = max(images.shape[-1] for _, images in rows)
    cell = largest * max(1, -(-CELL // largest))
    columns = max(len(images) for _, images in rows)
    sheet = Image.new("RGB", (MARGIN + columns * (cell + GAP), len(rows) * (cell + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(SIZE)
    for line, (label, images) in enumerate(rows):
        top = GAP + line * (cell + GAP)
        draw.multiline_text((GAP, top + cell / 2), label, "black", font, anchor="lm")
        for column, image in enumerate(images):
            pixels = np.repeat(image, 3, axis=0) if len(image) == 1 else image
            picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
            sheet.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), (MARGIN + column * (cell + GAP), top))
    write_atomic(path, lambda part: sheet.save(part, format="PNG"))
