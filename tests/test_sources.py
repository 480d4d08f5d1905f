"""What makes code the same: meaning, not wording; and only the code that a run reaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdm import sources


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package: loop -> room (its __init__ -> base) -> tools; store is plumbing."""
    files = {
        "loop.py": "from fdm.room import Base\nfrom fdm import ignored\nfrom fdm.store import save\nimport math\n",
        "room/__init__.py": "from fdm.room.base import Base\n",
        "room/base.py": "import fdm.tools\nclass Base: ...\n",
        "room/first.py": '"""Doc."""\ndef f(x):\n    """Twice."""\n    return 2 * x\n',
        "room/second.py": "y = 1\n",
        "tools.py": "z = 1\n",
        "store.py": "w = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    return tmp_path


def version(*entries: str) -> str:
    return sources.source_version.__wrapped__(*entries)


def test_wording_does_not_count_and_meaning_does(package: Path) -> None:
    first = package / "room/first.py"
    base = version("room/first")
    first.write_text('"""Other."""\n\n# comment\ndef f(x):\n    """Double."""\n    return (2 * x)\n')
    assert version("room/first") == base
    first.write_text(first.read_text().replace("2", "3"))
    assert version("room/first") != base


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("loop.py", True),
        ("room/__init__.py", True),
        ("room/base.py", True),
        ("tools.py", True),
        ("room/second.py", False),
        ("room/third.py", False),
        ("store.py", False),
    ],
)
def test_only_reached_code_counts(package: Path, changed: str, counts: bool) -> None:
    before = version("loop", "room/first")
    path = package / changed
    path.write_text((path.read_text() if path.exists() else "") + "new = 1\n")
    assert (version("loop", "room/first") != before) is counts


def test_a_package_stands_for_its_files(package: Path) -> None:
    before = version("room")
    (package / "room/third.py").write_text("")
    assert version("room") != before


def test_a_training_reaches_what_shapes_it() -> None:
    reached = {
        str(path.relative_to(sources.PACKAGE)) for path in sources._reached(("training/loop", "processes/staged"))
    }
    assert {"training/loop.py", "rng.py", "schedules.py", "processes/base.py", "networks/layers.py"} <= reached
    assert not {"processes/gaussian.py", "evaluation/scores.py", "sampling/sampler.py", "data/pack.py"} & reached
