"""One process at a time on one dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from fdm.errors import UserError


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Hold ``folder/.<name>.lock``; others wait, and then find the work done. The folder is made if missing.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{name}.lock")
        lock.acquire()
    except OSError as error:
        raise UserError(f"{folder}: cannot write there: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()
