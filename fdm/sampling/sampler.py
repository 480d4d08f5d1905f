"""The one sampler loop: from noise to images, in batches and shards that do not change the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fdm.data import to_uint8
from fdm.errors import UserError
from fdm.processes import Event, Jump, Move, Process
from fdm.rng import sample_noise
from fdm.sampling.solvers import Denoiser, Solver, State
from fdm.store import write_atomic

TRAJECTORY_SAMPLES = 8
TRAJECTORY_FRAMES = 12

Observer = Callable[[Move, State], None]


def network_denoiser(network: torch.nn.Module, device: torch.device | str) -> Denoiser:
    """The network as the solver calls it: one time for the whole batch."""

    def denoise(z: Tensor, t: float, stage: int) -> Tensor:
        output: Tensor = network(z, torch.full((len(z),), t, dtype=torch.float32, device=device), stage)
        return output.float()

    return denoise


@torch.inference_mode()
def draw(
    process: Process,
    denoise: Denoiser,
    solver: Solver,
    plan: Sequence[Event],
    seed: int,
    samples: Sequence[int],
    *,
    clip: bool = True,
    device: torch.device | str = "cpu",
    observe: Observer | None = None,
    tick: Callable[[], None] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Images (B, C, H, W) for the given global sample indices.

    Args:
        samples: indices; noise depends on (seed, index, event) alone.
        observe: called before each move's state changes hands, with the move and the state that it produced.
        tick: called after every event.
    """

    def noise(event: int, shape: Sequence[int]) -> Tensor:
        return sample_noise(seed, samples, event, shape, device=device)

    state = State(process.prior(noise(0, process.stages[-1].shape)))
    for number, event in enumerate(plan, start=1):
        into = event.stage - 1 if isinstance(event, Jump) else event.stage
        needed = isinstance(event, Jump) or (solver.eta > 0 and event.s > 0)
        fresh = noise(number, process.stages[into].shape) if needed else torch.zeros(())
        before = state
        state = solver.advance(process, denoise, state, event, fresh, clip=clip)
        if observe and isinstance(event, Move):
            observe(event, State(before.z, state.prediction, event))
        if tick:
            tick()
    return process.finish(state.z)


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
        """Images (stop - start, C, H, W) and the seconds they took."""
        with np.load(self.path, allow_pickle=False) as file:
            return file["images"], float(file["seconds"])


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


def save_grid(path: Path, images: np.ndarray, columns: int = 8) -> None:
    """A PNG of the first columns**2 images (N, C, H, W) uint8, row by row, with a two-pixel gap."""
    images = images[: columns * columns]
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, channels), 128, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = 2 + index // columns * (height + 2), 2 + index % columns * (width + 2)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet if channels == 3 else sheet[:, :, 0])
    scale = max(1, 512 // picture.width)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    write_atomic(path, lambda part: picture.save(part, format="PNG"))


class Trajectory:
    """Records z and the denoised signal at about ``TRAJECTORY_FRAMES`` moves, evenly spread, first and last included."""

    def __init__(self, plan: Sequence[Event]) -> None:
        moves = [event for event in plan if isinstance(event, Move)]
        chosen = np.unique(np.linspace(0, len(moves) - 1, TRAJECTORY_FRAMES).round().astype(int))
        self._wanted = {moves[index] for index in chosen}
        self.times: list[float] = []
        self.stages: list[int] = []
        self.frames: dict[str, Any] = {}

    def __call__(self, move: Move, state: State) -> None:
        if move not in self._wanted:
            return
        assert state.prediction is not None
        index = len(self.times)
        self.times.append(move.t)
        self.stages.append(move.stage)
        self.frames[f"z_{index}"] = state.z.half().cpu().numpy()
        self.frames[f"x_{index}"] = state.prediction.clean.half().cpu().numpy()

    def save(self, path: Path) -> None:
        """Write ``t``, ``stage``, ``z_<j>`` and ``x_<j>``."""

        def write(part: Path) -> None:
            with part.open("wb") as file:
                np.savez_compressed(file, t=np.array(self.times), stage=np.array(self.stages), **self.frames)

        write_atomic(path, write)


def stopwatch(device: torch.device | str) -> float:
    """Seconds of a monotonic clock, after the device has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
