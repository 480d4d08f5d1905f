"""Samples on disk: shards, finished batches that survive an interruption, and putting them together.

Noise depends on the sample alone, but kernels may round differently for batches of another size. So shards are cut between
batches: the same batches are drawn whatever the number of shards, and the images are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fdm.config import SamplingConfig
from fdm.data import to_uint8
from fdm.device import device_name, peak_memory, stopwatch
from fdm.errors import UserError
from fdm.picture import save_grid
from fdm.processes import Process
from fdm.progress import Progress
from fdm.sampling.classes import class_rows
from fdm.sampling.sampler import Trajectory, draw
from fdm.sampling.solvers import Denoiser, build_solver
from fdm.store import write_array, write_arrays

TRAJECTORY_SAMPLES = 8


@dataclass(frozen=True)
class Drawn:
    """What a part holds: images (B, C, H, W), uint8, the seconds they took, bytes at the peak, and on which device."""

    images: np.ndarray
    seconds: float
    peak_memory_bytes: int
    device: str


@dataclass(frozen=True)
class Part:
    """A finished stretch of samples on disk: ``part-<start>-<stop>.npz``, the fields of ``Drawn``."""

    start: int
    stop: int
    path: Path

    def load(self) -> Drawn:
        """Read it.

        Raises:
            UserError: it cannot be read; or it is damaged, and then removed, so that the same command draws it again.
        """
        try:
            with ZipFile(self.path) as archive:
                if archive.testzip():
                    raise BadZipFile("a checksum differs")
            with np.load(self.path, allow_pickle=False) as file:
                images = file["images"]
                return Drawn(images, float(file["seconds"]), int(file["peak_memory_bytes"]), str(file["device"]))
        except (OSError, MemoryError) as error:  # of the storage or the machine; the samples may be whole
            raise UserError(
                f"{self.path}: cannot be read ({error!r}); if it stays so, remove it to have its samples drawn anew"
            ) from None
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
    device = images.device
    drawn = Drawn(to_uint8(images).cpu().numpy(), seconds, peak_memory(device), device_name(device))
    write_arrays(folder / f"part-{samples.start:07d}-{samples.stop:07d}.npz", asdict(drawn))


def shard_finished(config: SamplingConfig, wanted: range, folder: Path) -> bool:
    """Whether ``draw_shard`` has nothing to do."""
    batches = missing_batches(wanted, finished_parts(folder), config.batch)
    return next(batches, None) is None and not _lacks_trajectory(wanted, folder)


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

    The shard of the first sample also records ``trajectory.npz``, so that nothing is drawn where parts are put together.

    Args:
        denoiser: global sample indices -> the denoiser of that batch.
    """
    plan, solver = process.plan(config.steps, config.spacing), build_solver(config)
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
    if _lacks_trajectory(wanted, folder):
        trajectory = Trajectory(plan)
        first = range(min(TRAJECTORY_SAMPLES, config.count))
        # Not compiled: few images would need programs of their own.
        with torch.compiler.set_stance("force_eager") if config.compile else nullcontext():
            draw(
                process, denoiser(first), solver, plan, seed, first, clip=config.clip, device=device, observe=trajectory
            )
        trajectory.save(folder / "trajectory.npz")


def _lacks_trajectory(wanted: range, folder: Path) -> bool:
    return 0 in wanted and not (folder / "trajectory.npz").exists()


def merge_parts(
    config: SamplingConfig, parts: Sequence[Part], folder: Path, cycle: Sequence[int] = ()
) -> dict[str, Any]:
    """Write ``samples.npy`` and ``grid.png`` from all parts; returns what the record says of the drawing.

    Args:
        cycle: classes that the samples take in turn; the grid then has one row for each.

    Raises:
        UserError: a part is damaged, or the disk refuses.
    """
    drawn = [part.load() for part in parts]
    images = np.concatenate([part.images for part in drawn])
    write_array(folder / "samples.npy", images)
    save_grid(folder / "grid.png", images, rows=list(class_rows(cycle, len(images)).values()) if cycle else None)
    return {
        "count": len(images),
        "seconds": sum(part.seconds for part in drawn),
        "batch": config.batch,
        "peak_memory_bytes": max(part.peak_memory_bytes for part in drawn),
        "device": ", ".join(sorted({part.device for part in drawn})),
        **({"classes": list(cycle)} if cycle else {}),
    }
