"""Pictures of images in labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fdm.store import write_atomic

CELL, GAP, MARGIN, SIZE = 64, 4, 120, 14


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
