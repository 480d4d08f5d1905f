"""Training logs: one CSV row per step and TensorBoard scalars."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from fdm.errors import UserError
from fdm.store import write_atomic


class Step(Protocol):
    """A row of any log: a dataclass of ints and floats, the step first among them."""

    @property
    def step(self) -> int: ...

    def scalars(self) -> dict[str, float]:
        """What TensorBoard shows."""


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

    def scalars(self) -> dict[str, float]:
        return {f"loss/stage{self.stage}": self.loss, "grad_norm": self.grad_norm}


RowT = TypeVar("RowT", bound=Step)


class Log(Generic[RowT]):
    """Rows in memory, rewritten atomically with every checkpoint, so that the file never runs ahead for long.

    Args:
        row: class of the rows; its fields are the columns.
        path: the file; ``tensorboard/`` goes beside it.
        start: first step that will be logged; rows of an interrupted run from there on are dropped.
        digest: of the rows before ``start``, as ``digest`` gave it.

    Raises:
        UserError: the rows before ``start`` are not there, or not those that were written.
    """

    def __init__(self, row: type[RowT], path: Path, start: int, digest: str = "") -> None:
        self.row, self.path = row, path
        self.rows: list[RowT] = []
        self._types = {field.name: {"int": int, "float": float}[str(field.type)] for field in fields(row)}  # type: ignore[arg-type]
        self._lines: list[str] = []
        self._hash = hashlib.sha256()
        self._note(",".join(self._types) + "\n")
        if start:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, csv.Error):
                self._append([row for row in self._read() if row.step < start])
            if self.digest() != digest:
                raise UserError(
                    f"{path}: missing or damaged, and the run cannot go on without it; delete state.safetensors beside it "
                    f"to start this run again"
                )
        self._board = _Board(path.with_name("tensorboard"), start)

    def _read(self) -> list[RowT]:
        with self.path.open(newline="") as file:
            return [
                self.row(**{key: self._types[key](value) for key, value in row.items()}) for row in csv.DictReader(file)
            ]

    def _append(self, rows: list[RowT]) -> None:
        self.rows += rows
        for row in rows:
            values = [getattr(row, name) for name in self._types]
            self._note(",".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values) + "\n")

    def _note(self, line: str) -> None:
        self._lines.append(line)
        self._hash.update(line.encode())

    def add(self, rows: list[RowT]) -> None:
        """Append steps."""
        self._append(rows)
        for row in rows:
            for name, value in row.scalars().items():
                self._board.add(name, value, row.step)

    def digest(self) -> str:
        """SHA-256 of all rows."""
        return self._hash.hexdigest()

    def write(self) -> None:
        """Bring the file up to date."""
        write_atomic(self.path, lambda part: part.write_text("".join(self._lines)))

    def close(self) -> None:
        """Release TensorBoard's file."""
        self._board.close()


class _Board:
    """Scalars for TensorBoard, written at once and by the caller's thread.

    SummaryWriter has a thread for it, which on a full disk dies with a traceback on stderr.
    """

    def __init__(self, folder: Path, start: int) -> None:
        path = folder / f"events.out.tfevents.{time.time():010.0f}.{platform.node()}.{os.getpid()}"
        with self._errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        self._path, self._records = path, RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if start:  # hides what an interrupted run wrote beyond its last checkpoint
            self._write(Event(wall_time=time.time(), step=start, session_log=SessionLog(status=SessionLog.START)))

    def add(self, name: str, value: float, step: int) -> None:
        """One point of the curve ``name``."""
        self._write(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        with self._errors(self._path):
            try:
                self._records.write(event.SerializeToString())
            except OSError:
                self.close()
                raise

    @staticmethod
    @contextlib.contextmanager
    def _errors(path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{path}: cannot write: {error.strerror}") from None
