"""The processes of one training, one per device: what each of them takes of a batch, and what they agree on.

Every process draws all that is random for the whole batch and puts its own rows through the network, so that what is on disk, and
what a step does, does not depend on their number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed

from fdm.errors import Elsewhere, UserError
from fdm.launch import LAUNCHER, first_line

PATIENCE = timedelta(hours=12)
"""The others wait so long for one, for the first to verify large data above all. gloo's own patience is half an hour."""


class Ranks:
    """What the processes of one training tell each other; with one process, nothing.

    Attributes:
        rank: of this process, from 0.
        count: of processes.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric, self.rank, self.count = fabric, fabric.global_rank, fabric.world_size
        # What they agree on goes from CPU to CPU: a GPU's own way would wait for its work in every step.
        self._group = distributed.new_group(backend="gloo", timeout=PATIENCE) if self.count > 1 else None

    @property
    def zero(self) -> bool:
        """Whether this is the process that logs, shows progress and writes files."""
        return self.rank == 0

    def highest(self, *values: int) -> list[int]:
        """The largest of each value over all processes."""
        if self.count == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX, self._group)  # type: ignore[arg-type]
        return numbers.tolist()

    def mean(self, values: Tensor) -> Tensor:
        """The mean of each value over all processes."""
        if self.count == 1:
            return values
        reduced = self.fabric.all_reduce(values, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        return reduced

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all processes enter; where one fails in it, all of them end, and the first of them says why."""
        failure: UserError | None = None
        try:
            yield
        except UserError as error:
            failure = error
        first = self.count - self.highest(self.count - self.rank if failure else 0)[0]
        if first == self.count:
            return
        raise failure if failure and first == self.rank else Elsewhere(f"process {first} has failed")

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Turn the loss of another process into one line, of rank zero or of the process that launched this one."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not (isinstance(error, distributed.DistError) or _is_loss(error)):
                raise
            line = f"another process of this training has ended ({first_line(error)}); the same command goes on from the last state"
            raise (UserError if self.zero and LAUNCHER not in os.environ else Elsewhere)(line) from error


def _is_loss(error: RuntimeError) -> bool:
    """Whether gloo, whose errors are of no type of their own, says that the other side is gone."""
    return any(word in str(error).lower() for word in ("gloo", "closed by peer", "reset by peer", "broken pipe"))
