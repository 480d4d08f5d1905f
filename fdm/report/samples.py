"""Grids of a method's first samples: the same count and layout for every method, drawn from samples.npy."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fdm.report.load import Results
from fdm.report.style import INK

COLUMNS, ROWS = 8, 4
CELL = 96
GAP = "#808080"  # of the gaps where transparency cannot be stored; fits a light and a dark page
# Above this many bytes per method the page stores a JPEG, so that a suite of many methods stays light.
LARGE = 400_000


def grid(samples: np.ndarray) -> np.ndarray:
    """uint8 (height, width, 4): up to 8 × 4 samples, small ones enlarged by whole factors, with transparent gaps."""
    count, channels, height, width = samples.shape
    picture = samples if channels == 3 else np.repeat(samples[:, :1], 3, axis=1)
    factor = max(1, CELL // max(height, width))
    picture = picture.repeat(factor, axis=2).repeat(factor, axis=3).transpose(0, 2, 3, 1)
    rows = -(-count // COLUMNS)
    gap = 4
    canvas = np.zeros((rows * (height * factor + gap) - gap, COLUMNS * (width * factor + gap) - gap, 4), dtype=np.uint8)
    for i, image in enumerate(picture):
        y, x = i // COLUMNS * (height * factor + gap), i % COLUMNS * (width * factor + gap)
        canvas[y : y + height * factor, x : x + width * factor, :3] = image
        canvas[y : y + height * factor, x : x + width * factor, 3] = 255
    return canvas


def encode(picture: np.ndarray) -> tuple[str, bytes]:
    """Media type and bytes: PNG, or JPEG where a PNG would be large."""
    image = Image.fromarray(picture)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    if len(out.getvalue()) <= LARGE:
        return "image/png", out.getvalue()
    image.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
    opaque = Image.new("RGB", image.size, GAP)
    opaque.paste(image, mask=image)
    out = io.BytesIO()
    opaque.save(out, "JPEG", quality=90)
    return "image/jpeg", out.getvalue()


def side_by_side(results: Results, grids: dict[str, np.ndarray]) -> Figure:
    """All methods' grids in one figure, for use outside the page."""
    columns = min(2, len(results.methods))
    lines = -(-len(results.methods) // columns)
    first = next(iter(grids.values()))
    side = 4.5
    figure = Figure(
        figsize=(side * columns, lines * (side * first.shape[0] / first.shape[1] + 0.35)), layout="constrained"
    )
    for axes, method in zip(figure.subplots(lines, columns, squeeze=False).flat, results.methods, strict=False):
        axes.imshow(grids[method.name], interpolation="none")
        axes.set_title(method.title, color=INK)
    for axes in figure.axes:
        axes.axis("off")
    return figure
