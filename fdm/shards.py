"""How a run's images are divided among processes that know nothing of each other."""

from __future__ import annotations

from fdm.errors import UserError


def check_shard(shard: int, shards: int) -> None:
    """Raise UserError unless there is a shard ``shard`` (from 0) of ``shards``."""
    if not 0 <= shard < shards:
        raise UserError(f"--shard {shard + 1}/{shards}: shards are numbered 1/N to N/N")


def shard_range(count: int, batch: int, shard: int, shards: int) -> range:
    """Indices of shard ``shard`` of ``shards`` (from 0): whole batches of ``batch``; the shards partition range(count).

    Some are empty where there are more shards than batches.

    Raises:
        UserError: no such shard.
    """
    check_shard(shard, shards)
    batches = -(-count // batch)
    start, stop = (edge * batches // shards * batch for edge in (shard, shard + 1))
    return range(start, min(stop, count))
