"""The run store ``work/<kind>-<identity>/``: where every run lives, resumes, and is exported from.

A run is complete when its record ``<kind>.json`` exists; that file is written last and atomically. Everything else in
the folder before that is resumable state. ``results/`` holds plain copies, so deleting it loses nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fdm.errors import UserError

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "lightning-fabric", "torch-fidelity", "clean-fid", "timm")


def root() -> Path:
    """Folder of the run store: ``$FDM_WORK`` or ``work``."""
    return Path(os.environ.get("FDM_WORK", "work"))


def run_folder(kind: str, identity: str, *needs: str | None) -> Path:
    """Folder of one run, for example ``work/train-0123456789abcdef``; created if missing.

    Args:
        needs: identities of the runs that it starts from, where it has any. They are noted in ``needs.json``, so that nobody
            takes them away before this one is finished (``fdm.gc``).
    """
    folder = root() / f"{kind}-{identity}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot create the run folder: {error.strerror}") from None
    if any(needs) and not (folder / "needs.json").is_file():
        write_json(folder / "needs.json", [run for run in needs if run])
    return folder


def record_of(folder: Path, kind: str, identity: str) -> dict[str, Any] | None:
    """The record ``<kind>.json`` in ``folder`` if it is there and belongs to ``identity``, else None.

    Works on a folder of the store and on an exported one alike.
    """
    try:
        record = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("identity") == identity else None


@contextlib.contextmanager
def locked(folder: Path, part: str = "", wait: bool = False) -> Iterator[None]:
    """Hold a run, or a named part of it, for this process.

    Args:
        folder: the run's folder.
        part: what to hold, if not all of it.
        wait: wait for a process that holds it, instead of failing.

    Raises:
        UserError: another process holds it, or the folder may not be written.
    """
    lock = FileLock(folder / f"{part}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UserError(f"{folder}: another process is working on this run; wait for it or end it") from None
        print(f"{folder}: waiting for another process that works on this run", file=sys.stderr, flush=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"{folder}: cannot lock the run folder: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds a run or a part of it."""
    for path in folder.rglob("*.lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except (Timeout, OSError):  # what cannot be locked cannot be known to be free
            return True
    return False


def files_in(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Regular files at any depth, with their state; one that vanishes meanwhile is none."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(FileNotFoundError):
                state = path.lstat()
                if stat.S_ISREG(state.st_mode):
                    yield path, state


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a temporary file beside ``path``, flush it to disk, then put it in place in one step.

    Raises:
        UserError: the disk is full or the folder may not be written; ``path`` is then as it was before.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except Exception as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        # safetensors wraps the operating system's error in its own type, with its number in the text.
        if isinstance(error, OSError) or "os error" in str(error):
            raise UserError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from None
        raise


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` atomically as indented JSON; NaN and infinity are refused (ValueError)."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))


def export(folder: Path, names: Iterable[str], target: Path) -> None:
    """Copy files of a run to ``target``, each atomically; copies that are the same already are left alone."""
    for name in names:
        source, copy = folder / name, target / name
        if copy.is_file() and copy.stat().st_size == source.stat().st_size and copy.read_bytes() == source.read_bytes():
            continue
        write_atomic(copy, lambda part, source=source: shutil.copyfile(source, part))  # type: ignore[misc]


@cache
def provenance() -> dict[str, Any]:
    """Code revision, package versions and machine, as they go into every record."""
    return {
        "revision": _revision(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _revision() -> str | None:
    def git(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", "fdm", ":/fdm").strip()
        return git("rev-parse", "HEAD").strip() + ("+changes" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
