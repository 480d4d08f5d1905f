"""Samples on disk: shards, finished batches that survive an interruption, and putting them together."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fdm.config import SamplingConfig
from fdm.data import to_uint8
from fdm.device import peak_memory, stopwatch
from fdm.errors import UserError
from fdm.picture import save_grid
from fdm.processes import Process
from fdm.progress import Progress
from fdm.sampling.classes import class_rows
from fdm.sampling.sampler import Trajectory, draw
from fdm.sampling.solvers import Denoiser, build_solver
from fdm.store import write_atomic

TRAJECTORY_SAMPLES = 8


def shard_range(count: int, shard: int, shards: int) -> range:
    """Sample indices of shard ``shard`` of ``shards`` (from 0); the shards partition range(count).

    Raises:
        UserError: no such shard.
    """
    if shards < 1 or not 0 <= shard < shards:
        raise UserError(f"--shard {shard + 1}/{shards}: shards are numbered 1/N to N/N")
    return range(shard * count // shards, (shard + 1) * count // shards)


@dataclass(frozen=True)
class Part:
    """A finished stretch of samples on disk: ``part-<start>-<stop>.npz`` with images (uint8) and seconds."""

    start: int
    stop: int
    path: Path

    def load(self) -> tuple[np.ndarray, float]:
        """Images (stop - start, C, H, W) and the seconds they took.

        Raises:
            UserError: damaged; the part is then removed, so that the same command draws it again.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.testzip():
                    raise zipfile.BadZipFile("a checksum differs")
            with np.load(self.path, allow_pickle=False) as file:
                return file["images"], float(file["seconds"])
        except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for what may be in there
            self.path.unlink(missing_ok=True)
            raise UserError(
                f"{self.path}: damaged ({error}), removed; run the same command again, it draws these samples anew"
            ) from None


def finished_parts(folder: Path) -> list[Part]:
    """Parts in ``folder``, in order, without overlaps."""
    found = []
    for path in folder.glob("part-*.npz"):
        start, stop = map(int, path.stem.split("-")[1:])
        found.append(Part(start, stop, path))
    parts: list[Part] = []
    for part in sorted(found, key=lambda part: (part.start, -part.stop)):
        if not parts or part.start >= parts[-1].stop:
            parts.append(part)
    return parts


def missing_batches(wanted: range, parts: Sequence[Part], batch: int) -> Iterator[range]:
    """Stretches of at most ``batch`` indices of ``wanted`` that no part covers."""
    position = wanted.start
    gaps = []
    for part in parts:
        gaps.append(range(position, min(part.start, wanted.stop)))
        position = max(position, part.stop)
    gaps.append(range(position, wanted.stop))
    for gap in gaps:
        for start in range(gap.start, gap.stop, batch):
            yield range(start, min(start + batch, gap.stop))


def save_part(folder: Path, samples: range, images: Float[Tensor, "b c h w"], seconds: float) -> None:
    """Write one finished batch atomically.

    Raises:
        UserError: the images are not finite, or the disk refuses.
    """
    if not torch.isfinite(images).all():
        raise UserError(
            f"{folder}: samples {samples.start}-{samples.stop} are not finite; the model did not train well"
        )
    array = to_uint8(images).cpu().numpy()

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, images=array, seconds=seconds)

    write_atomic(folder / f"part-{samples.start:07d}-{samples.stop:07d}.npz", write)


def draw_shard(
    process: Process,
    denoiser: Callable[[Sequence[int]], Denoiser],
    config: SamplingConfig,
    seed: int,
    wanted: range,
    folder: Path,
    device: torch.device,
    title: str,
) -> None:
    """Draw what is missing of ``wanted``, batch by batch, into parts in ``folder``; progress under ``title``.

    Args:
        denoiser: global sample indices -> the denoiser of that batch.
    """
    plan, solver = process.plan(config.steps), build_solver(config)
    batches = list(missing_batches(wanted, finished_parts(folder), config.batch))
    missing = sum(len(batch) for batch in batches) * len(plan)
    total = len(wanted) * len(plan)
    with Progress(title, total, "img-steps", total - missing) as bar:
        for batch in batches:
            began = stopwatch(device)
            images = draw(
                process,
                denoiser(batch),
                solver,
                plan,
                seed,
                batch,
                clip=config.clip,
                device=device,
                tick=lambda size=len(batch): bar.advance(size),  # type: ignore[misc]
            )
            save_part(folder, batch, images, stopwatch(device) - began)


def merge_parts(
    process: Process,
    denoiser: Callable[[Sequence[int]], Denoiser],
    config: SamplingConfig,
    seed: int,
    parts: Sequence[Part],
    folder: Path,
    device: torch.device,
    cycle: Sequence[int] = (),
) -> dict[str, Any]:
    """Write ``samples.npy``, ``grid.png`` and ``trajectory.npz`` from all parts; returns what the record says of them.

    Args:
        cycle: classes that the samples take in turn; the grid then has one row for each.
    """
    loaded = [part.load() for part in parts]
    images = np.concatenate([images for images, _ in loaded])

    def save(path: Path) -> None:
        with path.open("wb") as file:  # np.save would append .npy to a temporary name
            np.save(file, images)

    write_atomic(folder / "samples.npy", save)
    save_grid(folder / "grid.png", images, rows=list(class_rows(cycle, len(images)).values()) if cycle else None)
    plan = process.plan(config.steps)
    trajectory = Trajectory(plan)
    first = range(min(TRAJECTORY_SAMPLES, config.count))
    solver = build_solver(config)
    draw(process, denoiser(first), solver, plan, seed, first, clip=config.clip, device=device, observe=trajectory)
    trajectory.save(folder / "trajectory.npz")
    return {
        "count": len(images),
        "seconds": sum(seconds for _, seconds in loaded),
        "batch": config.batch,
        "peak_memory_bytes": peak_memory(device),
        **({"classes": list(cycle)} if cycle else {}),
    }
