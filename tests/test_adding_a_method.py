"""docs/adding-a-method.md, followed to the letter in a copy of the package."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY

from fdm.discover import plugins
from fdm.errors import UserError


def test_the_document_works(tmp_path: Path, digits8: Path) -> None:
    for name in ("fdm", "params"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(digits8, tmp_path / "data")
    text = (REPOSITORY / "docs/adding-a-method.md").read_text()
    files = re.findall(r"`((?:fdm|params)/[\w/.-]+)`:\n\n```\w+\n(.*?)```", text, re.S)
    assert [name for name, _ in files] == [
        "fdm/transforms/pixelate.py",
        "params/methods/fdm-pixelate.yaml",
        "params/suites/pixelate.yaml",
    ]
    for name, content in files:
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(content)

    def fdm(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        result = subprocess.run(
            [sys.executable, "-m", "fdm", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    commands = re.findall(r"^fdm (.*)$", text, re.M)
    assert len(commands) == 2
    assert "1×8×8" in fdm(*commands[0].split())
    assert "converges" in fdm(*commands[1].split())
    run = ["pixelate:fdm-pixelate", "--to", "results/pixelate/fdm-pixelate/seed0"]
    for verb in ("train", "sample", "evaluate"):
        fdm(verb, *run)
    assert (tmp_path / "results/pixelate/fdm-pixelate/seed0/metrics.json").exists()
    assert "transform-pixelate" in fdm("show", "--schema")


def test_the_page_for_python_works(smoke: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (REPOSITORY / "docs/python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, names)
    assert names["record"]["images"] == 640 and names["pixels"].shape == (16, 1, 8, 8)
    names["run"].sample()
    (stored,) = Path("work").glob("sample-*/samples.npy")
    assert np.abs(np.load(stored)[:16].astype(int) - names["pixels"]).max() <= 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == importlib.metadata.version("fdm") and said[1] == "10 staged"
    assert [line.split(" 0.")[0] for line in said[2:]] == ["0 (8, 1, 8, 8)", "1 (8, 1, 4, 4)", "2 (8, 1, 2, 2)"]


@pytest.mark.parametrize("room", ["processes", "transforms"])
@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a = 1\ndef build(:\n", 2, "SyntaxError: invalid syntax"),
        (
            "import os\n\nimport nothing_of_this_name\n",
            3,
            "ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("from fdm.processes.base import Nothing\n", 1, "ImportError: cannot import name 'Nothing'"),
        ("def f():\n    return 1 / 0\n\nf()\n", 2, "ZeroDivisionError: division by zero"),
        ("raise ValueError('two\\nlines')\n", 1, "ValueError: two lines"),
    ],
)
def test_a_broken_file_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str, text: str, line: int, why: str
) -> None:
    package = importlib.import_module(f"fdm.{room}")
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])
    with pytest.raises(UserError) as caught:
        plugins.__wrapped__(room)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/mine.py:{line}: cannot be imported: {why}") and "\n" not in said
    assert said.endswith("; mend the file, or take it away")
