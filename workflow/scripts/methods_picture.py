"""The picture of the methods in README.md: what each process makes of one digit over time, by the code that trains and samples.

fdm data digits32 && python workflow/scripts/methods_picture.py     # docs/images/methods-{light,dark}.png
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from fdm.experiment import load_experiment
from fdm.processes import Process, build_process
from fdm.report.style import STAGES, drawing

ROWS = {
    "ddpm": ("DDPM", "the image stays,\nonly noise grows"),
    "fdm-ds": ("f-DM-DS", "down-sampled by stages, interpolated\ninside each, noise rescaled at jumps"),
    "fdm-blur-g": ("f-DM-Blur-G", "the same with blurs,\nat full size"),
    "ssd": ("Scale Space Diffusion", "down-sampled by stages, not\ninterpolated: a jump loses detail"),
    "cascaded": ("Cascaded diffusion", "two models, each from noise:\nsmall images, then super-resolution"),
    "blur-diffusion": ("Blur diffusion", "blurred the more,\nthe more noise there is"),
    "ihdm": ("Inverse heat dissipation", "blurred only,\nhardly any noise"),
}
"""Experiments of the suite `family`."""
TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
DIGIT = 7  # of the first training images
PITCH, BETWEEN, LINE = 1.1, 0.5, 1.45  # in cells
LEFT, TOP = 4.1, 1.05
SCALE = 0.6  # inches of a cell
COLOURS = {"light": ("#ffffff", "#1b1d22", "#5a606b"), "dark": ("#0d1117", "#e7e9ed", "#a3abb7")}


def states(process: Process, x: Tensor, noise: Tensor, t: float) -> tuple[int, np.ndarray, np.ndarray]:
    """Stage at a time, and there the signal without its noise and the noisy state, each (h, w)."""
    stage = next(s for s in reversed(process.stages) if s.length > 0 and s.start <= t)
    # Just inside: at the very start of data there is nothing to see of the noise, at t = 1 nothing of the signal.
    inner = min(max(t, stage.start + 1e-3), stage.end - 1e-3)
    channels, height, width = stage.shape
    eps = noise[:, :channels, :height, :width]
    times = torch.full((len(x),), inner)
    clean, noisy = (process.example(x, times, stage.index, own).z[0, 0].numpy() for own in (0 * eps, eps))
    return stage.index, clean, noisy


def grey(frame: np.ndarray) -> np.ndarray:
    """0 to 1, zero in the middle, by the frame's own range: signals fade, and what is left of them is to be seen."""
    limit = float(np.quantile(np.abs(frame), 0.995)) or 1.0
    return np.clip((frame / limit + 1) / 2, 0, 1)


def picture(scheme: int, colours: tuple[str, str, str]) -> Figure:
    """All methods, a row each: left what is left of the image, right what the network sees."""
    page, ink, muted = colours
    images = torch.from_numpy(np.load("data/digits32/train/images.npy", allow_pickle=False)[:256] / 127.5 - 1).float()
    x = images[DIGIT : DIGIT + 1]
    noise = torch.randn((1, 2, 32, 32), generator=torch.Generator().manual_seed(0))
    block = len(TIMES) * PITCH
    width, height = LEFT + 2 * block + BETWEEN, TOP + LINE * len(ROWS)
    figure = Figure(figsize=(width * SCALE, height * SCALE), facecolor=page)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    starts = (LEFT, LEFT + block + BETWEEN)
    for start, title in zip(starts, ("Signal: what is left of the image", "State: what the network sees"), strict=True):
        axes.text(start, 0.35, title, color=ink, fontsize=9.5, fontweight="bold", va="center")
    for row, (name, (title, words)) in enumerate(ROWS.items()):
        experiment = load_experiment(f"family:{name}")
        dataset = experiment.dataset
        process = build_process(experiment.method, dataset.channels, dataset.resolution)
        calibration = process.calibrate(images)
        process = build_process(experiment.method, dataset.channels, dataset.resolution, calibration)
        top = TOP + row * LINE
        axes.text(0.15, top + 0.16, title, color=ink, fontsize=9, fontweight="bold", va="center")
        axes.text(0.15, top + 0.66, words, color=muted, fontsize=7.2, va="center", linespacing=1.25)
        for kind, start in enumerate(starts):
            before = None
            for i, t in enumerate(TIMES):
                left = start + i * PITCH
                stage, *frames = states(process, x, noise, t)
                frame = frames[kind]
                axes.imshow(
                    grey(frame),
                    extent=(left, left + 1, top + 1, top),
                    cmap="gray",
                    vmin=0,
                    vmax=1,
                    interpolation="none",
                    aspect="auto",
                )
                colour = STAGES[stage % len(STAGES)][scheme]
                # The bar of a stage is one: it goes on from the cell before.
                bar = left if before != stage else left - PITCH + 1
                axes.add_patch(Rectangle((bar, top + 1.06), left + 1 - bar, 0.06, color=colour, linewidth=0))
                if before != stage:
                    size = f"{frame.shape[0]}×{frame.shape[1]}"
                    axes.text(left, top + 1.26, size, color=colour, fontsize=6.5, va="center")
                if row == 0:
                    axes.text(left + 0.5, top - 0.18, f"t = {t:g}", color=muted, fontsize=7, ha="center", va="center")
                before = stage
    return figure


if __name__ == "__main__":
    for scheme, (name, colours) in enumerate(COLOURS.items()):
        with drawing():
            path = Path(f"docs/images/methods-{name}.png")
            picture(scheme, colours).savefig(path, dpi=150, facecolor=colours[0], metadata={"Software": None})
