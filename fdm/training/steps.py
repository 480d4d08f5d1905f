"""The steps of a run that can be stopped at any moment: reading losses now and then, saving, stopping on a signal."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING

from torch import Tensor, nn

from fdm.config import AutoencoderConfig, TrainingConfig
from fdm.errors import Interrupted
from fdm.progress import Progress

if TYPE_CHECKING:  # Lightning's import time
    from fdm.training.ranks import Ranks

FLUSH_STEPS = 10
"""Losses are read from the device once per so many steps: each reading waits for it."""
APART = 20
"""Saves are apart by at least so many times as long as one takes, so that those of a large network cost 5 % of the time."""


def run_steps(
    title: str,
    steps: range,
    batch: int,
    step: Callable[[int], None],
    flush: Callable[[], str],
    save: Callable[[int], None],
    checkpoint_seconds: float,
    ranks: Ranks | None = None,
) -> None:
    """Take ``steps`` (from the first not yet taken to the last), with progress under ``title``.

    Args:
        batch: images per step, for the progress.
        step: takes one step.
        flush: reads and logs what the steps since the last call left on the device; returns a note for the progress.
        save: writes the state, given the number of steps taken.
        checkpoint_seconds: time between saves, which is longer where a save takes long; 0 saves after every flush.
        ranks: the processes that take these steps together; they stop and save at the same step, and only rank zero shows progress.

    Raises:
        Interrupted: SIGTERM, SIGINT or SIGUSR1 arrived; the state is saved.
    """
    saved, interval, pending = time.monotonic(), checkpoint_seconds, 0
    shown = ranks is None or ranks.zero
    with stop_signals() as asked, Progress(title, steps.stop * batch, "img", steps.start * batch, shown) as bar:
        for number in steps:
            step(number)
            pending += 1
            done, last = number + 1, number + 1 == steps.stop
            wishes = [asked[0] if asked else 0, int(time.monotonic() - saved >= interval)]
            stop, due = ranks.highest(*wishes) if ranks else wishes
            if pending < FLUSH_STEPS and not last and not stop:
                continue
            note = flush()
            if stop:
                save(done)  # before anything is said: who reads it may be gone
                with ranks.together() if ranks else nullcontext():
                    raise Interrupted(
                        f"{title}: stopped by {signal.Signals(stop).name} at step {done} of {steps.stop}; "
                        f"the state is saved, the same command goes on from there",
                        stop,
                    )
            bar.advance(pending * batch, note)
            pending = 0
            if due and not last:
                began = time.monotonic()
                save(done)
                saved = time.monotonic()
                if checkpoint_seconds:
                    interval = max(checkpoint_seconds, APART * (saved - began))


def learning_rate(config: TrainingConfig | AutoencoderConfig, step: int) -> float:
    """Linear warm-up, then constant or cosine to zero."""
    rate = config.lr * min(1.0, (step + 1) / max(1, config.warmup))
    if config.lr_decay == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return rate


def limit_gradients(parameters: Sequence[Tensor], most: float) -> Tensor:
    """Scale gradients down to a joint norm of ``most``; returns the norm that they had (0-d).

    ``clip_grad_norm_`` multiplies those within the limit by one, which reads and writes all of them for nothing. A CPU need not, as
    it can look at the norm; a GPU would have to wait for it.
    """
    norm = nn.utils.get_total_norm([weight.grad for weight in parameters if weight.grad is not None])
    if norm.device.type != "cpu" or not norm + 1e-6 <= most:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGTERM, SIGINT and SIGUSR1 (a scheduler's warning) instead of dying in the middle of a step."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    old = {number: signal.signal(number, note) for number in watched}
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
