"""Progress on stderr: a live bar on a terminal, a plain line every few seconds elsewhere (logs, pipelines)."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Count work that is done: ``with Progress("train digits:ddpm", 1000, "img") as bar: bar.advance(64, "loss 0.1")``.

    Args:
        title: what is being done.
        total: how much there is.
        unit: of what, for the rate.
        done: how much was there already (a resumed run).
        shown: whether to show it: only one of several processes that do the same work should.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0, shown: bool = True) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._first = done
        self._start = self._shown = time.monotonic()
        self._rich: RichProgress | None = None
        self._hidden = not shown

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not self._hidden:
            self._rich = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit + " {task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._rich.start()
            self._task = self._rich.add_task(self.title, total=self.total, completed=self.done, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich:
            self._rich.stop()

    def advance(self, amount: int, note: str = "") -> None:
        """Count ``amount`` more; ``note`` is shown beside it."""
        self.done += amount
        now = time.monotonic()
        rate = (self.done - self._first) / max(now - self._start, 1e-9)
        if self._rich:
            self._rich.update(self._task, completed=self.done, note=f"{rate:,.0f}/s {note}")
        elif not self._hidden and (now - self._shown >= SECONDS_BETWEEN_LINES or self.done >= self.total):
            self._shown = now
            left = _clock((self.total - self.done) / rate) if rate > 0 else "?"
            print(
                f"{self.title}: {100 * self.done / self.total:3.0f} % · {self.done:,}/{self.total:,} {self.unit} · "
                f"{rate:,.0f} {self.unit}/s · left {left}{' · ' + note if note else ''}",
                file=sys.stderr,
                flush=True,
            )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
