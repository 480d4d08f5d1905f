"""From one machine to another: push to a remote, clone, pull; nothing is trained again and the report is the same.

Against real servers: a folder, OpenSSH and S3. The commands are those of docs/dvc.md.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from .conftest import Repository
from .servers import s3_server, ssh_server

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

Configure = Callable[[Repository], None]


@contextlib.contextmanager
def _folder(repository: Repository, tmp_path: Path) -> Iterator[Configure]:
    repository.dvc(f"remote add --default store {tmp_path / 'remote'}")
    yield lambda _: None


@contextlib.contextmanager
def _ssh(repository: Repository, tmp_path: Path) -> Iterator[Configure]:
    with ssh_server(tmp_path / "sshd") as server:
        repository.dvc(f"remote add --default store ssh://{server.user}@127.0.0.1:{server.port}{tmp_path / 'remote'}")
        yield lambda one: one.dvc(f"remote modify --local store keyfile {server.key}")


@contextlib.contextmanager
def _s3(repository: Repository, tmp_path: Path) -> Iterator[Configure]:
    with s3_server(tmp_path / "s3", "bucket") as server:
        repository.dvc(
            "remote add --default store s3://bucket/fdm", f"remote modify store endpointurl {server.endpoint}"
        )
        (tmp_path / "remote").symlink_to(server.folder / "bucket/fdm")
        yield lambda one: one.dvc(
            f"remote modify --local store access_key_id {server.access_key}",
            f"remote modify --local store secret_access_key {server.secret_key}",
        )


@pytest.mark.parametrize("remote", [_folder, _ssh, _s3])
def test_clone_pull_report(
    published: Repository,
    tmp_path: Path,
    remote: Callable[[Repository, Path], AbstractContextManager[Configure]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "home").mkdir()  # keys, settings and credentials of whoever runs this play no part
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with remote(published, tmp_path) as configure:
        published.commit()
        configure(published)
        published.dvc("push --quiet")
        assert len(list((tmp_path / "remote").glob("files/md5/??/*"))) > 30

        clone = published.clone(tmp_path / "there")
        configure(clone)
        assert not list(clone.root.glob("results/*"))
        assert "up to date" in clone.dvc("pull --quiet", "status")
        assert clone.plan() == {}

        pulled = _contents(clone.root / "reports")
        shutil.rmtree(clone.root / "reports")
        said = clone.snakemake()
        assert "report on smoke" in said and not (clone.root / "work").exists()  # no step has run that makes a run
        made = _contents(clone.root / "reports")
        assert made == pulled and {Path("smoke/tables"), Path("smoke/figures")} <= {path.parent for path in made}
        assert "up to date" in clone.dvc("status")
    assert not (tmp_path / "home/.ssh").exists()


def test_a_damaged_remote_is_found_out(published: Repository, tmp_path: Path) -> None:
    """With ``verify``, a file of the remote that has changed is not taken for what its name says."""
    remote = tmp_path / "remote"
    published.dvc(f"remote add --quiet --default store {remote}", "remote modify store verify true", "push --quiet")
    published.commit()
    model = published.root / "results/smoke/ddpm/seed0/model.safetensors"
    stored = next(path for path in remote.rglob("*") if path.is_file() and path.read_bytes() == model.read_bytes())
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.chmod(0o644)
    stored.write_bytes(content)
    clone = published.clone(tmp_path / "there")
    said = clone.run("dvc", "pull", status=None)
    assert "ERROR: failed to pull data" in said and "results/smoke" in said and "Traceback" not in said
    assert not list(clone.root.glob("results/**/model.safetensors"))


def _contents(folder: Path) -> dict[Path, bytes]:
    paths = [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock" and path.name != ".snakemake_timestamp"
    ]
    return {path.relative_to(folder): path.read_bytes() for path in paths}
