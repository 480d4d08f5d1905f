"""`fdm gc`: what stays is exactly what can be reached from results, and nothing that is at work or young is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from fdm.errors import UserError
from fdm.experiment import load_experiment
from fdm.gc import TRASH, collect, stored_runs, survey
from fdm.restoration import restoration_of
from fdm.runs import Run
from fdm.store import run_folder, write_json
from fdm.variations import Interpolations, Variations

KINDS = ("pretrain", "train", "sample", "evaluate")
DAY = 86400.0


def _name(n: int) -> str:
    return f"{n:016x}"


def _make(n: int, *needs: int, kind: str = "train", finished: bool = True, days: float = 30.0) -> Path:
    """A run in the store that was last at work ``days`` ago."""
    folder = run_folder(kind, _name(n), *map(_name, needs))
    (folder / "state.bin").write_bytes(b"x" * 1000)
    (folder / ".lock").touch()  # as new as can be, whatever the age of the run
    if finished:
        write_json(folder / f"{kind}.json", {"kind": kind, "identity": _name(n)})
    for path in [*folder.iterdir(), folder]:
        if path.name != ".lock":
            os.utime(path, (time.time() - days * DAY,) * 2)
    return folder


def _result(n: int, where: str = "smoke/ddpm/seed0", kind: str = "train") -> Path:
    path = Path("results", where, f"{kind}.json")
    write_json(path, {"kind": kind, "identity": _name(n), "seconds": 1.5})
    return path


def _left() -> set[str]:
    return {path.name for path in Path("work").iterdir()}


def _collect(delete: bool = True, days: float = 7, dropped: bool = False) -> str:
    return "\n".join(collect([Path("results")], days, dropped, delete))


@pytest.fixture(autouse=True)
def _here(project: Path) -> None:
    """Every test in a project of its own."""


@st.composite
def _graphs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """Needs (N, N), strictly lower triangular; the states of N runs; and which of them results name."""
    count = draw(st.integers(1, 7))
    needs = np.tril(
        np.array(draw(st.lists(st.booleans(), min_size=count**2, max_size=count**2))).reshape(count, count), -1
    )
    states = np.array(draw(st.lists(st.sampled_from(["done", "old", "young", "busy"]), min_size=count, max_size=count)))
    return needs, states, draw(st.sets(st.integers(0, count - 1), min_size=1))


@given(_graphs())
def test_what_remains_is_what_can_be_reached(graph: tuple[np.ndarray, np.ndarray, set[int]]) -> None:
    needs, states, named = graph
    for folder in ("work", "results"):
        shutil.rmtree(folder, ignore_errors=True)
    count = len(states)
    folders = [
        _make(
            n,
            *np.flatnonzero(needs[n]),
            kind=KINDS[n % 4],
            finished=states[n] == "done",
            days=1 if states[n] == "young" else 30,
        )
        for n in range(count)
    ]
    for n in named:
        _result(n, f"smoke/e{n}/seed0", KINDS[n % 4])
    # Reachability by powers of the matrix: N steps reach whatever can be reached.
    reach = np.linalg.matrix_power(needs.astype(int) + np.eye(count, dtype=int), count) > 0
    roots = [n for n in range(count) if n in named or states[n] in ("young", "busy")]
    expected = {folders[n].name for n in np.flatnonzero(reach[roots].any(axis=0))}
    with contextlib.ExitStack() as held:
        for n in np.flatnonzero(states == "busy"):
            held.enter_context(FileLock(folders[n] / "shard1of2.lock"))
        _collect(delete=False)
        assert _left() == {folder.name for folder in folders}
        _collect()
        assert _left() == expected
        assert all((Path("work") / name / "state.bin").stat().st_size == 1000 for name in expected)


def test_the_list_names_sizes_and_removes_nothing() -> None:
    _make(1), _make(2, days=400), _make(3, finished=False), _make(4, finished=False, days=3)
    Path("work/reference").mkdir()
    _result(1)
    said = _collect(delete=False).splitlines()
    day = time.strftime("%Y-%m-%d", time.localtime(Path("work", f"train-{_name(2)}").stat().st_mtime))
    assert said[0] == f"      0.0 MB  work/train-{_name(2)}: unknown experiment, finished, {day} (400 days ago)"
    assert said[1].startswith(f"      0.0 MB  work/train-{_name(3)}: unknown experiment, unfinished, ")
    assert said[2] == "2 runs, 0.0 MB: can go (`--delete` removes them)"
    assert said[3].startswith(
        "why: no file in results names them, and no run that stays needs them: made without --to, or "
    )
    assert said[4] == "1 runs, 0.0 MB: results need them; 0 are at work; 1 changed within 7 days"
    assert len(_left()) == 5
    sizes = {run.identity: run.size for run in stored_runs()}
    record = Path("work", f"train-{_name(1)}", "train.json").stat().st_size
    assert sizes == {_name(1): 1000 + record, _name(2): 1000 + record, _name(3): 1000, _name(4): 1000}


def test_young_runs_go_when_asked() -> None:
    """Also finished ones: who trains by hand, without --to, has no results that could name the run."""
    _make(1), _make(2, finished=False, days=3), _make(3, finished=False, days=0.5), _make(4, days=3), _make(5, days=0.5)
    _result(1)
    _collect(days=1)
    assert _left() == {f"train-{_name(n)}" for n in (1, 3, 5)}
    _collect(days=0)
    assert _left() == {f"train-{_name(1)}"}


def test_caches_and_strange_folders_stay() -> None:
    _make(1), _make(2)
    for name in ("reference", "notes", f"train-{_name(9)}x"):
        Path("work", name).mkdir()
    Path("work", f"sample-{_name(8)}").symlink_to(Path("work/notes").absolute())
    _result(1)
    _collect()
    assert _left() == {f"train-{_name(1)}", "reference", "notes", f"train-{_name(9)}x", f"sample-{_name(8)}"}


def test_a_killed_removal_leaves_no_half_run() -> None:
    _make(1)
    _result(1)
    _make(2)  # made again since
    half = Path("work", f"{TRASH}train-{_name(2)}")
    half.mkdir()
    (half / "train.json").write_text("{")  # what is on its way out is not read
    _collect()
    assert _left() == {f"train-{_name(1)}"}


@pytest.mark.parametrize(
    "text", ['{"identity": "00', "", "{}", '{"identity": "000000000000000g"}', "\x00", "[" * 100_000]
)
@pytest.mark.parametrize("where", ["results/smoke/ddpm/seed0/train.json", "results/smoke/ddpm/seed0/manifest.json"])
def test_a_damaged_result_stops_it(where: str, text: str) -> None:
    _make(1), _make(2)
    _result(1, "smoke/fdm/seed0")
    Path(where).parent.mkdir(parents=True)
    Path(where).write_text(text)
    with pytest.raises(UserError, match=rf"^{where}: (cannot be read|names no run).*nothing is removed"):
        _collect()
    assert len(_left()) == 2


def test_a_damaged_note_of_a_run_that_stays_stops_it() -> None:
    _make(1), _make(2, 1, kind="sample"), _make(3)
    _result(2, kind="sample")
    Path("work", f"sample-{_name(2)}", "needs.json").write_text('["00000')
    with pytest.raises(UserError, match=r"needs.json: cannot be read.*nothing is removed"):
        _collect()
    assert len(_left()) == 3


def test_results_behind_links_count(tmp_path: Path) -> None:
    _make(1), _make(2), _make(3)
    _result(1)
    Path("results/smoke").rename(tmp_path / "disk")
    Path("results/smoke").symlink_to(tmp_path / "disk")
    _result(2, "digits/ddpm/seed0").rename(tmp_path / "record")
    Path("results/digits/ddpm/seed0/train.json").symlink_to(tmp_path / "record")
    _collect()
    assert _left() == {f"train-{_name(1)}", f"train-{_name(2)}"}


def test_a_folder_that_cannot_be_read_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _make(1), _make(2)
    _result(1)
    closed, scandir = _result(2, "digits/ddpm/seed0").parent, os.scandir

    def refuse(path: str) -> object:  # root may read everything, so permissions would not do
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(UserError, match=rf"^{closed}: cannot be read \(Permission denied\).*nothing is removed"):
            _collect()
    assert len(_left()) == 2


def test_without_results_nothing_goes() -> None:
    _make(1)
    for prepare in (
        lambda: None,
        lambda: Path("results").mkdir(),
        lambda: write_json(Path("results/s/cost.json"), {"a": 1}),
    ):
        prepare()
        with pytest.raises(UserError, match="no results that refer to a run, so every run could go"):
            _collect()
    assert len(_left()) == 1


def test_results_of_other_checkouts_count() -> None:
    _make(1), _make(2), _make(3)
    _result(1)
    shutil.copytree("results", "other")
    write_json(Path("other/smoke/ddpm/seed0/train.json"), {"identity": _name(2)})
    found = survey([Path("results"), Path("other")], 7)
    assert [run.identity for run in found.removable] == [_name(3)]


def test_not_while_snakemake_is_at_work(fdm: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    _make(1), _make(2)
    _result(1)
    Path(".snakemake").mkdir()
    with FileLock(".snakemake/driver.lock"):
        done = fdm("gc", "--delete")
        assert done.returncode == 1 and done.stderr.startswith("error: snakemake is at work in this folder; ")
        assert len(done.stderr.splitlines()) == 1 and len(_left()) == 2
        assert "1 runs, 0.0 MB: can go" in fdm("gc").stdout
    done = fdm("gc", "--delete")
    assert done.returncode == 0 and "1 runs, 0.0 MB: removed" in done.stdout and len(_left()) == 1


def test_results_that_a_suite_has_dropped() -> None:
    for n, where in enumerate(("smoke/ddpm/seed0", "smoke/ddpm/seed1", "smoke/gone/seed0", "mine/ddpm/seed7")):
        _make(n)
        _result(n, where)
    said = _collect()
    assert said.startswith("0 runs") and len(_left()) == 4
    said = _collect(delete=False, dropped=True)
    assert "results/smoke/ddpm/seed1: no longer in its suite" in said and "2 results and 2 runs" in said
    _collect(dropped=True)
    assert _left() == {f"train-{_name(n)}" for n in (0, 3)}
    left = {str(path.parent.relative_to("results")) for path in Path("results").rglob("train.json")}
    assert left == {"smoke/ddpm/seed0", "mine/ddpm/seed7"}  # there is no suite `mine` that could have dropped it


def test_real_runs_say_what_they_need(smoke: Path) -> None:
    """A sampling alone in the results keeps its training; another training goes."""
    changes = ["training.images=128", "sampling.count=8", "sampling.steps=2"]
    run = Run(load_experiment("smoke:ddpm", changes), 0, "cpu", Path("results/smoke/ddpm/seed0"))
    other = Run(load_experiment("smoke:ddpm", changes), 1, "cpu")
    run.train(), other.train(), run.sample(), other.sample()
    for name in ("train.json", "model.safetensors", "training.csv"):
        Path("results/smoke/ddpm/seed0", name).unlink()
    assert "3 changed within 7 days" in _collect(), "the training behind these samples too"
    said = _collect(days=0)
    for identity in (other.train_identity, other.sample_identity):
        assert f"-{identity}: ddpm seed 1 on digits8, finished, " in said and "(0 days ago)" in said
    assert _left() == {f"train-{run.train_identity}", f"sample-{run.sample_identity}"}
    needs = json.loads(Path("work", f"sample-{run.sample_identity}", "needs.json").read_text())
    assert needs == [run.train_identity]
    assert run.train()["identity"] == run.train_identity


@pytest.mark.parametrize("kind", ["restore", "vary", "interpolate"])
def test_what_is_being_made_of_a_training_keeps_it(smoke: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """And a restoration its baseline too: ended before its record was written, it goes on from trainings that are old."""
    changes = ["training.images=128", "restoration.stages=[1]", "restoration.baseline=smoke:ddpm"]
    run = Run(load_experiment("smoke:fdm-ds-3", changes), 0, "cpu")
    restoration = restoration_of(run, changes)
    run.train(), restoration.baseline.train()
    for path in Path("work").rglob("*"):
        os.utime(path, (time.time() - 30 * DAY,) * 2)
    _make(1)
    _result(1)
    monkeypatch.setattr(Run, "model", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        if kind == "restore":
            restoration.restore()
        else:
            (Variations if kind == "vary" else Interpolations)(run).make()
    _collect()
    needed = [run, restoration.baseline] if kind == "restore" else [run]
    kept = {f"train-{_name(1)}", *(f"train-{each.train_identity}" for each in needed)}
    assert {name for name in _left() if not name.startswith(kind)} == kept
