"""The run store ``work/<kind>-<identity>/``: where every run lives, resumes, and is exported from.

A run is complete when its record ``<kind>.json`` exists; that file is written last and atomically. Everything else in
the folder before that is resumable state. The record is then sealed with the digests of the run's files. ``results/`` holds
plain copies, so deleting it loses nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def seal(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Note in the record of a run that was just finished what its files are.

    Adds ``files``, the SHA-256 of each by name, and ``digest``, that of the record itself. A sealed record stays as it is.

    Args:
        names: files of the run, its record last.

    Returns:
        The sealed record.

    Raises:
        UserError: a file is missing, or the record cannot be read.
    """
    *files, last = names
    try:
        record: dict[str, Any] = json.loads((folder / last).read_text(encoding="utf-8"))
        if "files" in record and "digest" in record:
            if record["digest"] != record_digest(record):
                raise ValueError(f"{last} does not match its own digest")
            return record
        record["files"] = record.get("files") or {name: sha256(folder / name) for name in files}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: damaged ({error}); delete this folder and run the same command again") from None
    record["digest"] = record_digest(record)
    write_json(folder / last, record)
    return record


def record_digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a record without its ``digest``."""
    content = {key: value for key, value in record.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def export(folder: Path, names: Sequence[str], target: Path) -> None:
    """Copy files of a run, its record last, to ``target``, each atomically; copies that are the same already are left alone.

    Raises:
        UserError: a file is no longer what the run's record says; nothing of it is copied.
    """
    recorded = seal(folder, names)["files"]
    for name in names:
        source, copy = folder / name, target / name
        wanted = recorded.get(name) or sha256(source)
        if copy.is_file() and sha256(copy) == wanted:
            continue
        _require(source, wanted)
        write_atomic(copy, lambda part, source=source: shutil.copyfile(source, part))  # type: ignore[misc]


def require_intact(path: Path, kind: str, identity: str) -> None:
    """Refuse a file of a run, in the store or exported, that is not what the record beside it says.

    Passes where that record is of another run, or not sealed (yet): then nothing is known about the file.

    Raises:
        UserError: it is missing or damaged.
    """
    record = record_of(path.parent, kind, identity) or {}
    if wanted := record.get("files", {}).get(path.name):
        _require(path, wanted)


def _require(path: Path, wanted: str) -> None:
    try:
        if sha256(path) == wanted:
            return
        what = "its SHA-256 is not the one that was recorded when it was made"
    except OSError as error:
        what = error.strerror or str(error)
    raise UserError(f"{path}: damaged: {what}; delete {path.parent} and run the same command again")


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
