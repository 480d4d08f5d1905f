"""Shared fixtures: one thread (so that bits can be compared), and a scratch project with the smoke suite's data."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

REPOSITORY = Path(__file__).parent.parent

# Shells start commands in the background with SIGINT ignored, and processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
# Reproducible examples, and no deadline: CI machines are shared.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("ci")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder with the repository's params, as the working directory."""
    shutil.copytree(REPOSITORY / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FDM_WORK", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def digits8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared 8x8 digits, made once."""
    from fdm.config import DatasetConfig
    from fdm.data import prepare

    root = tmp_path_factory.mktemp("digits8") / "data"
    config = DatasetConfig(name="digits8", source="sklearn-digits", resolution=8, channels=1, fit="exact")
    prepare(config, root=root)
    return root


@pytest.fixture
def smoke(project: Path, digits8: Path) -> Path:
    """A project whose smoke data is ready."""
    shutil.copytree(digits8, project / "data")
    return project


@pytest.fixture
def fdm() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, in the working directory."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fdm", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    return run
