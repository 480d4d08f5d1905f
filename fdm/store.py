"""The run store ``work/<kind>-<identity>/``: where every run lives, resumes, and is exported from.

A run is complete when its record ``<kind>.json`` exists; that file is written last and atomically. Everything else in
the folder before that is resumable state. ``results/`` holds plain copies, so deleting it loses nothing.

A record lists the SHA-256 of the run's files and has one of itself, so nothing that was damaged since is taken for a result.
docs/reliability.md says what is promised.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from fdm.errors import UserError

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "lightning-fabric", "torch-fidelity", "clean-fid", "timm")


def root() -> Path:
    """Folder of the run store: ``$FDM_WORK`` or ``work``."""
    return Path(os.environ.get("FDM_WORK", "work"))


def checkpoint_seconds() -> float:
    """Seconds between saves of a training: ``$FDM_CHECKPOINT_SECONDS`` or 30; they do not change its result.

    Raises:
        UserError: not a number from 0 on.
    """
    text = os.environ.get("FDM_CHECKPOINT_SECONDS", "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(f"FDM_CHECKPOINT_SECONDS={text}: must be a number of seconds from 0 on")
    return seconds


def run_folder(kind: str, identity: str, *needs: str | None, about: Mapping[str, Any] | None = None) -> Path:
    """Folder of one run, for example ``work/train-0123456789abcdef``; created if missing.

    Args:
        needs: identities of the runs that it starts from, where it has any. They are noted in ``needs.json``, so that nobody
            takes them away before this one is finished (``fdm.gc``).
        about: whose run it is, noted in ``about.json`` for people: of several that share it the first.
    """
    folder = root() / f"{kind}-{identity}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot create the run folder: {error.strerror}") from None
    if any(needs) and not (folder / "needs.json").is_file():
        write_json(folder / "needs.json", [run for run in needs if run])
    if about and not (folder / "about.json").is_file():
        write_json(folder / "about.json", about)
    return folder


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` with its own SHA-256 as ``digest``, for JSON that is read again."""
    parts = json.loads(json.dumps({key: value for key, value in content.items() if key != "digest"}, allow_nan=False))
    return {**parts, "digest": json_sha256(parts)}


def read_sealed(path: Path) -> dict[str, Any]:
    """JSON that was written sealed.

    Raises:
        OSError: missing or unreadable.
        ValueError: damaged.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or sealed(content) != content:
        raise ValueError("it does not match its own digest")
    return content


def record_of(folder: Path, kind: str, identity: str) -> dict[str, Any] | None:
    """The record ``<kind>.json`` in ``folder`` if it is there, intact, and belongs to ``identity``, else None.

    Works on a folder of the store and on an exported one alike.
    """
    try:
        record = read_sealed(folder / f"{kind}.json")
    except (OSError, ValueError):
        return None
    return record if record.get("identity") == identity else None


def known_record(kind: str, identity: str, target: Path | None) -> dict[str, Any] | None:
    """The record of a run in the store, or else in the folder of its copies; None where neither has a good one."""
    stored = record_of(root() / f"{kind}-{identity}", kind, identity)
    return stored or (record_of(target, kind, identity) if target else None)


def known_file(kind: str, identity: str, name: str, target: Path | None) -> Path:
    """A file of a run in the store, or in the folder of its copies where the store lacks it."""
    stored = root() / f"{kind}-{identity}" / name
    return target / name if target and not stored.exists() else stored


def finished(folder: Path, kind: str, identity: str) -> dict[str, Any] | None:
    """The record of a run of the store if the run is complete, else None; the run is then to be made or resumed.

    Raises:
        UserError: the record, or a file that it lists, is damaged. Only the user can say whether the run should be made again.
    """
    path = folder / f"{kind}.json"
    if not path.exists():
        return None
    record = record_of(folder, kind, identity)
    if record is None:
        raise UserError(f"{path}: damaged record; delete it, then `fdm {kind}` makes this run again")
    if not all((folder / name).is_file() for name in record["files"]):
        path.unlink(missing_ok=True)  # what is made anew from here on is complete only when a new record says so
        return None
    for name in record["files"]:
        require_intact(folder / name, record)
    return record


def intact(path: Path, record: Mapping[str, Any]) -> bool:
    """Is ``path`` there, and the file that the record of its run lists?"""
    return path.is_file() and sha256(path) == record["files"].get(path.name)


def exported(target: Path | None, kind: str, identity: str) -> dict[str, Any] | None:
    """The record of a run in the folder of its copies, if that and all files that it lists are there and intact."""
    record = record_of(target, kind, identity) if target else None
    if target is None or record is None or not all(intact(target / name, record) for name in record["files"]):
        return None
    return record


def require_intact(path: Path, record: Mapping[str, Any]) -> Path:
    """``path`` if it is intact.

    Raises:
        UserError: missing, or not what the run wrote.
    """
    if not intact(path, record):
        raise UserError(
            f"{path}: missing or damaged (it is not the file that its record lists); delete it, then "
            f"`fdm {record['kind']}` or snakemake makes it again"
        )
    return path


@contextlib.contextmanager
def locked(folder: Path, part: str = "", wait: bool = False) -> Iterator[None]:
    """Hold a folder, most often that of a run, or a named part of it, for this process.

    Args:
        folder: made if missing.
        part: what to hold, if not all of it.
        wait: wait for a process that holds it, instead of failing.

    Raises:
        UserError: another process holds it, or the folder may not be written.
    """
    lock = FileLock(folder / f"{part}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UserError(f"{folder}: another process is working on this run; wait for it or end it") from None
        print(f"{folder}: waiting for another process that is at work there", file=sys.stderr, flush=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"{folder}: cannot write there: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what killed writers of ``name`` left in ``folder``. The caller knows that nobody writes it now."""
    for part in folder.glob(f".{name}.*.tmp"):
        with contextlib.suppress(OSError):
            part.unlink()


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
    # Shards may write the same file of a shared folder from machines, or containers, whose process numbers coincide.
    part = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        # safetensors wraps the operating system's error in its own type, with its number in the text.
        if isinstance(error, OSError) or "os error" in str(error):
            raise UserError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from None
        raise


def put_in_place(part: Path, target: Path) -> None:
    """Let the finished folder ``part`` replace ``target``, wholly or not at all; the caller holds a lock on it.

    What is left of an earlier ``target`` beside it, by a killed process, is removed.

    Raises:
        OSError: the disk refuses; ``target`` is then as it was before.
    """
    old = target.with_name(f".{target.name}.old")
    _remove(old)
    if target.exists() or target.is_symlink():
        os.replace(target, old)
    try:
        os.replace(part, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    with contextlib.suppress(OSError):  # all is in place; the next call tries again
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compressed: bool = False) -> None:
    """Write ``arrays`` atomically as one ``.npz``; UserError as ``write_atomic``."""

    def write(part: Path) -> None:
        with part.open("wb") as file:  # given a name, NumPy would append .npz to the temporary one
            (np.savez_compressed if compressed else np.savez)(file, allow_pickle=False, **arrays)

    write_atomic(path, write)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array atomically as ``.npy``; UserError as ``write_atomic``."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.save(file, array, allow_pickle=False)

    write_atomic(path, write)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` atomically as indented JSON; NaN and infinity are refused (ValueError)."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))


def export(folder: Path, names: Sequence[str], target: Path, record: Mapping[str, Any]) -> None:
    """Copy files of a finished run to ``target``, each atomically; copies that are the same already are left alone.

    Args:
        names: the last is the one that says whose files these are. It goes first and comes last, so that a copy that was
            interrupted is not taken for complete.
        record: of the run.

    Raises:
        UserError: a file of the run is damaged, or the copy cannot be written.
    """
    *others, last = names
    for name in names:
        sweep(target, name)
    stale = [name for name in others if not intact(target / name, record)]
    for name in (*stale, *({last} & record["files"].keys())):
        require_intact(folder / name, record)
    if stale or not same(folder / last, target / last):
        with contextlib.suppress(OSError):  # where that is refused, writing is as well, and says so
            (target / last).unlink()
        for name in (*stale, last):
            write_atomic(target / name, lambda part, source=folder / name: shutil.copyfile(source, part))  # type: ignore[misc]


def check_target(target: Path | None) -> None:
    """Can a run's copies be written to ``target``, where it is to have any? Asked before the work, not after it; makes nothing.

    Raises:
        UserError: they cannot.
    """
    if target:
        try:
            place = next(path for path in (target, *target.parents) if path.exists())
            if place.is_file():
                raise UserError(f"{target}: cannot write: {place} is a file")
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise UserError(f"{target}: cannot write: {error.strerror}") from None


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
        dirty = git("status", "--porcelain", "--untracked-files=all", "--", "fdm", ":/fdm").strip()
        return git("rev-parse", "HEAD").strip() + ("+changes" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(content: Any) -> str:
    """SHA-256 of the canonical JSON of ``content``: sorted keys, no spaces, nothing but ASCII."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def same(source: Path, copy: Path) -> bool:
    """Is ``copy`` there, with the bytes of ``source``?"""
    return copy.is_file() and copy.read_bytes() == source.read_bytes()
