"""The reverse process of one method: noisy state and denoised signal over time, stages marked."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fdm.report.results import Trajectory
from fdm.report.style import INK, MUTED, stage_colour

CELL, GAP, JUMP = 1.0, 0.06, 0.34
SHOWN = 1
# Pixels across a frame: larger ones are averaged, or a page of many methods would weigh tens of megabytes.
FINEST = 64
WIDTH, LARGEST = 9.4, 0.85  # of the drawing and of one cell, inches


def reverse_process(trajectory: Trajectory) -> Figure:
    """Columns are times from noise (left) to data (right); for the first sample, z above and the denoised x below.

    A frame keeps the pixels of its own resolution, enlarged to one cell: a coarser stage shows as larger squares.
    """
    left = _columns(trajectory.stage)
    count = min(SHOWN, len(trajectory.z[0]))
    total = left[-1] + CELL
    # Rows, top first: (kind, sample) with a wider gap between samples.
    tops = [sample * (2 * CELL + GAP + 0.22) + row * (CELL + GAP) for sample in range(count) for row in range(2)]
    bottom, head, label = tops[-1] + CELL, 0.95, 0.42
    width, height = total + label, bottom + head
    scale = min(LARGEST, WIDTH / width)
    figure = Figure(figsize=(width * scale, height * scale))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(-label, total)
    axes.set_ylim(bottom + 0.02, -head)
    axes.axis("off")
    for j, x in enumerate(left):
        for row, top in enumerate(tops):
            frame = (trajectory.z if row % 2 == 0 else trajectory.x)[j][row // 2]
            axes.imshow(
                _pixels(frame, row % 2 == 0), extent=(x, x + CELL, top + CELL, top), interpolation="none", aspect="auto"
            )
        axes.text(x + CELL / 2, -0.07, f"{trajectory.t[j]:.2f}", ha="center", va="bottom", fontsize=8, color=MUTED)
    for row, top in enumerate(tops):
        axes.text(
            -0.12, top + CELL / 2, "zx"[row % 2], ha="right", va="center", fontsize=11, fontstyle="italic", color=INK
        )
    axes.text(-0.12, -0.07, "t", ha="right", va="bottom", fontsize=9, fontstyle="italic", color=MUTED)
    _stages(axes, trajectory, left)
    return figure


def _columns(stage: np.ndarray) -> list[float]:
    """Left edges of the frames; a wider gap where the process jumps to the next stage."""
    left = [0.0]
    for before, after in itertools.pairwise(stage):
        left.append(left[-1] + CELL + (GAP if before == after else JUMP))
    return left


def _stages(axes, trajectory: Trajectory, left: list[float]) -> None:  # type: ignore[no-untyped-def]
    start = 0
    for j in range(len(left)):
        if j + 1 < len(left) and trajectory.stage[j + 1] == trajectory.stage[j]:
            continue
        stage = int(trajectory.stage[j])
        colour = stage_colour(stage)
        axes.add_patch(Rectangle((left[start], -0.43), left[j] + CELL - left[start], 0.07, color=colour, linewidth=0))
        height, width = trajectory.z[j].shape[-2:]
        text = f"stage {stage} · {height}×{width}" if j > start else f"stage {stage}\n{height}×{width}"
        axes.text(left[start], -0.5, text, ha="left", va="bottom", fontsize=8.5, color=colour, fontweight="bold")
        start = j + 1


def _pixels(frame: np.ndarray, noisy: bool) -> np.ndarray:
    """uint8 (h, w, 3) of one frame. A noisy state is scaled to its own range, a signal to [-1, 1]."""
    factor = max(frame.shape[-2:]) // FINEST
    if factor > 1 and not any(side % factor for side in frame.shape[-2:]):
        channels, height, width = frame.shape
        frame = frame.reshape(channels, height // factor, factor, width // factor, factor).mean(axis=(2, 4))
    limit = max(1.0, float(np.quantile(np.abs(frame), 0.99))) if noisy else 1.0
    # Latents have other channel counts than pictures: show one, or the first three as colours.
    picture = frame[:3] if len(frame) >= 3 else np.repeat(frame[:1], 3, axis=0)
    return np.clip((picture.transpose(1, 2, 0) / limit + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
