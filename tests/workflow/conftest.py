"""Copies of the repository in which real Snakemake and DVC run the suite ``smoke``, made a little smaller still."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PARTS = (
    "Snakefile", "workflow", "profiles", "fdm", "params", "params.yaml", "dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvc/plots",
    ".dvcignore", ".gitignore", "pyproject.toml",
)  # fmt: skip

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
DVC = """
import shlex, sys
from dvc.cli import main

for command in sys.argv[1:]:
    if status := main(shlex.split(command)):
        sys.exit(f"dvc {command}: status {status}")
"""


@dataclass(frozen=True)
class Repository:
    """A working copy and what one does in it."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """The tools of this Python, but the package of the copy."""
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": tools, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command here; its two streams come as one."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *command: str, status: int | None = 0) -> str:
        """Run a command here, check its exit status (None: any failure), return what it said."""
        process = self.start(*command)
        try:
            said, _ = process.communicate(timeout=900)  # seconds, unless the machine is busy with other work
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == status if status is not None else process.returncode != 0, said
        return said

    def snakemake(self, *arguments: str, config: Sequence[str] = (), status: int | None = 0) -> str:
        """Run Snakemake on the suite."""
        return self.run("snakemake", *arguments, "--config", "suite=smoke", *config, status=status)

    def dvc(self, *commands: str) -> str:
        """Run DVC commands one after the other in one process: most of each is the start of Python and DVC."""
        return self.run(sys.executable, "-c", DVC, *commands)

    def commit(self) -> None:
        """Commit all that has changed."""
        self.run("git", "add", "--all")
        self.run(*GIT, "commit", "--quiet", "--message", "test: results")

    def trained(self) -> set[str]:
        """Names of the trainings in the run store."""
        return {path.name for path in self.root.glob("work/train-*")}

    def clone(self, root: Path) -> Repository:
        """A clone, as of another machine: nothing but what git holds."""
        self.run("git", "clone", "--quiet", str(self.root), str(root))
        return Repository(root)

    def plan(self, *config: str) -> dict[str, int]:
        """How many jobs of each rule a run would start."""
        said = self.snakemake("--dry-run", config=config)
        if "Nothing to be done" in said:
            return {}
        table = said.rsplit("Job stats:", 1)[1].split("\n\n")[0].splitlines()[3:]
        return {name: int(count) for name, count in map(str.split, table) if name not in ("all", "total")}

    def edit(self, path: str, change: Callable[[Any], object]) -> None:
        """Change a YAML file in place."""
        content = yaml.safe_load((self.root / path).read_text())
        change(content)
        (self.root / path).write_text(yaml.safe_dump(content, sort_keys=False))

    def edit_suite(self, change: Callable[[Any], object]) -> None:
        """Change the suite."""
        self.edit("params/suites/smoke.yaml", change)


def _smaller(suite: dict[str, Any]) -> None:
    suite["training"] |= {"images": 640}
    suite["sampling"] |= {"count": 128, "steps": 3, "batch": 64}
    suite["evaluation"] |= {"reference_limit": 128, "kid_subsets": 2, "kid_subset_size": 50}


def descendant(driver: subprocess.Popen[str], program: str, word: str = "") -> psutil.Process:
    """The first process below ``driver`` that runs ``program`` (with ``word`` among its arguments), once there is one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and driver.poll() is None:
        for process in psutil.Process(driver.pid).children(recursive=True):
            try:
                names = [Path(part).name for part in process.cmdline()]
            except psutil.Error:
                continue
            if program in names[:2] and (not word or word in names):
                return process
        time.sleep(0.01)
    said = "" if driver.poll() is None else driver.communicate()[0]
    raise AssertionError(f"no {program} {word} has started: {said}")


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as a clone has it: nothing made yet."""
    root = tmp_path_factory.mktemp("fresh") / "repository"
    for part in PARTS:
        source, target = ROOT / part, root / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target, follow_symlinks=False)
    Repository(root).edit_suite(_smaller)
    Repository(root).edit("params.yaml", lambda params: params.update(suite="smoke", dataset="digits8"))
    return root


@dataclass(frozen=True)
class Finished:
    """A repository after one run, and what that run said."""

    root: Path
    said: str


@pytest.fixture(scope="session")
def finished(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The suite, run once from end to end. Not to be changed: take ``repository``."""
    root = tmp_path_factory.mktemp("finished") / "repository"
    shutil.copytree(fresh, root, symlinks=True)
    return Finished(root, Repository(root).snakemake())


@pytest.fixture
def repository(finished: Finished, tmp_path: Path) -> Repository:
    """A copy of the finished run, to be changed at will."""
    shutil.copytree(finished.root, tmp_path / "repository", symlinks=True)
    return Repository(tmp_path / "repository")


@pytest.fixture(scope="session")
def committed(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished suite in git and DVC's cache. Not to be changed: take ``published``."""
    root = tmp_path_factory.mktemp("committed") / "repository"
    shutil.copytree(finished.root, root, symlinks=True)
    repository = Repository(root)
    repository.run("git", "init", "--quiet", ".")
    repository.dvc("commit --quiet --force")
    repository.commit()
    return root


@pytest.fixture
def published(committed: Path, tmp_path: Path) -> Repository:
    """A copy of that, to be changed at will."""
    shutil.copytree(committed, tmp_path / "published", symlinks=True)
    return Repository(tmp_path / "published")


@pytest.fixture
def clone(fresh: Path, tmp_path: Path) -> Repository:
    """A copy of the repository in which nothing was made yet."""
    shutil.copytree(fresh, tmp_path / "clone", symlinks=True)
    return Repository(tmp_path / "clone")
