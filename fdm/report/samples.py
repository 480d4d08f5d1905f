"""Grids of a method's first samples, from samples.npy or grid.png: the same count and layout for every method, or one row per class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fdm.data.sources.files import read_image
from fdm.errors import UserError
from fdm.report.files import again
from fdm.report.results import Results, Run
from fdm.report.style import INK
from fdm.sampling.classes import class_rows

COLUMNS, ROWS = 8, 4
CELL = 96
GAP = "#808080"  # of the gaps where transparency cannot be stored; fits a light and a dark page
# Above this many bytes per method the page stores a JPEG, so that a suite of many methods stays light.
LARGE = 400_000


@dataclass(frozen=True)
class Shown:
    """Which samples a grid shows, row by row, and which classes the rows are, where the model knows any."""

    rows: tuple[Sequence[int], ...]
    classes: tuple[str, ...] = ()

    @property
    def caption(self) -> str:
        """``rows: zero, one, …``, or nothing."""
        return f"rows: {', '.join(self.classes)}" if self.classes else ""


def shown(run: Run) -> Shown:
    """The first 8 × 4 samples, or the first 8 of each class."""
    count = run.metrics.samples
    cycle = run.manifest.records["sample"].classes
    if not cycle:
        first = range(min(count, COLUMNS * ROWS))
        return Shown(tuple(first[start : start + COLUMNS] for start in range(0, len(first), COLUMNS)))
    rows = class_rows(cycle, count, COLUMNS)
    known = dict(enumerate(run.manifest.data.get("classes") or ()))
    return Shown(tuple(rows.values()), tuple(str(known.get(label, label)) for label in rows))


def grid(run: Run, selection: Shown, partial: bool = False) -> np.ndarray:
    """The selected samples of a run, row by row, as ``sheet`` puts them together.

    Args:
        partial: where ``samples.npy`` is not here, take them from ``grid.png``, whose rows begin with the same samples.
    """
    if partial and not run.has(["samples.npy"]):
        return sheet(_tiles(run, [len(row) for row in selection.rows]))
    samples = run.samples(1 + max(index for row in selection.rows for index in row))
    return sheet([samples[list(row)] for row in selection.rows])


def _tiles(run: Run, lengths: Sequence[int]) -> list[np.ndarray]:
    """The first images of each of the first rows of ``grid.png``, uint8 (n, C, H, W).

    ``fdm.picture.save_grid`` leaves two pixels between images and enlarges all by a whole factor, so nothing is lost.
    """
    path = run.folder / "grid.png"
    config = run.manifest.experiment["dataset"]
    side, mode, gap = int(config["resolution"]), "L" if config["channels"] == 1 else "RGB", 2
    width, height = COLUMNS * (side + gap) + gap, len(lengths) * (side + gap) + gap
    try:
        picture = np.asarray(read_image(path, str(path)).convert(mode))
        factor = picture.shape[1] // width
        if not factor or picture.shape[1] != factor * width or picture.shape[0] < factor * height:
            raise UserError("of another size")
    except UserError:
        raise UserError(f"{path}: missing or damaged; {again(run.folder, 'sample')}") from None
    small = picture[::factor, ::factor].reshape(-1, width, config["channels"]).transpose(2, 0, 1)
    places = [[(gap + i * (side + gap), gap + j * (side + gap)) for j in range(n)] for i, n in enumerate(lengths)]
    return [np.stack([small[:, y : y + side, x : x + side] for y, x in row]) for row in places]


def sheet(rows: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 (height, width, 4): rows (n, C, H, W) of up to 8 images, small ones enlarged by whole factors, with transparent gaps."""
    _, channels, height, width = rows[0].shape
    factor = max(1, CELL // max(height, width))
    gap = 4
    canvas = np.zeros(
        (len(rows) * (height * factor + gap) - gap, COLUMNS * (width * factor + gap) - gap, 4), dtype=np.uint8
    )
    for down, row in enumerate(rows):
        picture = row if channels == 3 else np.repeat(row[:, :1], 3, axis=1)
        picture = picture.repeat(factor, axis=2).repeat(factor, axis=3).transpose(0, 2, 3, 1)
        for across, image in enumerate(picture):
            y, x = down * (height * factor + gap), across * (width * factor + gap)
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
    tallest = max(picture.shape[0] / picture.shape[1] for picture in grids.values())
    side = 4.5
    figure = Figure(figsize=(side * columns, lines * (side * tallest + 0.35)), layout="constrained")
    for axes, method in zip(figure.subplots(lines, columns, squeeze=False).flat, results.methods, strict=False):
        axes.imshow(grids[method.name], interpolation="none")
        axes.set_title(method.title, color=INK)
    for axes in figure.axes:
        axes.axis("off")
    return figure
