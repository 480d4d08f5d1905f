"""The training log: one CSV row per step and TensorBoard scalars."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from fdm.store import write_atomic


@dataclass(frozen=True)
class Row:
    """One optimiser step; ``seconds`` since the start of training, without pauses between resumes."""

    step: int
    images: int
    stage: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float


class Log:
    """Rows in memory, rewritten atomically with every checkpoint, so that the file never runs ahead for long.

    Args:
        folder: gets ``training.csv`` and ``tensorboard/``.
        start: first step that will be logged; rows of an interrupted run from there on are dropped.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self.path = folder / "training.csv"
        self.rows = [row for row in self._read() if row.step < start] if start else []
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)

    def _read(self) -> list[Row]:
        with self.path.open(newline="") as file:
            types = {field.name: {"int": int, "float": float}[str(field.type)] for field in fields(Row)}
            return [Row(**{key: types[key](value) for key, value in row.items()}) for row in csv.DictReader(file)]

    def add(self, rows: list[Row]) -> None:
        """Append steps."""
        self.rows += rows
        for row in rows:
            self._board.add_scalar(f"loss/stage{row.stage}", row.loss, row.step)
            self._board.add_scalar("grad_norm", row.grad_norm, row.step)

    def write(self) -> None:
        """Bring the file up to date."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()})
        write_atomic(self.path, lambda part: part.write_text(text.getvalue()))
        self._board.flush()

    def close(self) -> None:
        """Flush and release TensorBoard's file."""
        self._board.close()
