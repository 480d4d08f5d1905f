"""Faults, injected: damaged files, killed writers, full and read-only disks, bad numbers, clocks that go wrong.

Each test spoils a copy of one undisturbed run and calls the documented command again. It must end with the undisturbed result,
or stop with one line, and then end with that result once what the line says was done. docs/reliability.md lists the faults.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fdm import cli, store
from fdm.errors import UserError
from fdm.sampling import shards
from fdm.tensors import load_tensors, save_tensors
from fdm.training.loop import Trainer

ROOT = Path(__file__).parent.parent
SUITE = """
title: Faults
dataset: digits8
network: tiny8
training: {images: 480, batch: 16, warmup: 5}
sampling: {count: 128, steps: 4, batch: 16}
evaluation: {features: [efficientnet-lite0], reference_limit: 128, kid_subsets: 2, kid_subset_size: 50}
experiments: {ddpm: {method: ddpm}}
"""
OUT = Path("results/faults/ddpm/seed0")
VERBS = ("train", "sample", "evaluate")
RESULT = ("model.safetensors", "samples.npy", "metrics.json", "neighbours.npz", "forward.npz")
"""What two runs have bit for bit alike; other files hold seconds."""
Damage = Callable[[Path], None]


def call(*words: str) -> None:
    """``fdm WORDS`` in this process. Raises SystemExit as the command line does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fdm", *words])
        cli.main()


def run(verb: str) -> None:
    """The documented command; it must succeed."""
    with pytest.raises(SystemExit) as end:
        call(verb, "faults:ddpm", "--to", str(OUT), "--threads", "1")
    assert end.value.code in (0, None)


def stops(capsys: pytest.CaptureFixture[str], verb: str, *expected: str) -> None:
    """The documented command must fail with one line that holds all of ``expected``."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        call(*(("report", "faults") if verb == "report" else (verb, "faults:ddpm", "--to", str(OUT))))
    assert end.value.code == 1
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said.rstrip().endswith(errors[0]) and "Traceback" not in said, said
    for words in expected:
        assert words in errors[0]


def flip(path: Path, position: int = -100, bit: int = 0) -> None:
    """Change one bit; negative positions count from the end."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 50)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def digit(path: Path, before: str) -> None:
    """Change the last digit of the first number after ``before``."""
    content = path.read_text()
    number = re.compile(re.escape(before) + r"\D*\d*(\d)").search(content)
    assert number
    path.write_text(content[: number.start(1)] + str((int(number[1]) + 1) % 10) + content[number.end(1) :])


def stored(kind: str, name: str) -> Path:
    """A file in the run store."""
    (path,) = Path("work").glob(f"{kind}-*/{name}")
    return path


@contextlib.contextmanager
def undisturbed_folder(root: Path, digits8: Path) -> Iterator[Path]:
    """A project with data, as the working directory."""
    shutil.copytree(ROOT / "params", root / "params")
    shutil.copytree(digits8, root / "data")
    (root / "params/suites/faults.yaml").write_text(SUITE)
    with contextlib.chdir(root), pytest.MonkeyPatch.context() as patch:
        patch.delenv("FDM_WORK", raising=False)
        yield root


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, digits8: Path) -> Path:
    """The undisturbed run. Not to be changed: take ``place``."""
    with undisturbed_folder(tmp_path_factory.mktemp("calm"), digits8) as root:
        for verb in VERBS:
            run(verb)
        return root


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory, digits8: Path) -> Path:
    """A training that was killed after step 25 of 30, with a state of step 20. Not to be changed: take ``begun``."""
    real = Trainer.step

    def step(self: Trainer, number: int, *rest: object) -> object:
        if number == 25:
            raise Killed
        return real(self, number, *rest)  # type: ignore[arg-type]

    with undisturbed_folder(tmp_path_factory.mktemp("half"), digits8) as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        patch.setenv("FDM_CHECKPOINT_SECONDS", "0")
        with pytest.raises(Killed):
            call("train", "faults:ddpm", "--to", str(OUT), "--threads", "1")
        assert load_tensors(*_named(stored("train", "state.safetensors")))[1]["step"] == "20"
        return root


def _named(path: Path) -> tuple[Path, str]:
    return path, path.parent.name.partition("-")[2]


def _copy(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(source, target)
    monkeypatch.chdir(target)
    monkeypatch.delenv("FDM_WORK", raising=False)
    return target


@pytest.fixture
def place(calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the undisturbed run, to be spoiled."""
    return _copy(calm, tmp_path / "place", monkeypatch)


@pytest.fixture
def begun(half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the training that was killed, to be spoiled."""
    return _copy(half, tmp_path / "begun", monkeypatch)


def same(calm: Path, *names: str) -> None:
    """What is in results is what the undisturbed run made."""
    for name in names or RESULT:
        assert (OUT / name).read_bytes() == (calm / OUT / name).read_bytes(), name
    assert not list(OUT.glob(".*.tmp")), "nothing half-written is left"


def forget(*verbs: str) -> None:
    """Remove what these verbs have made, in the store and in results."""
    kinds = {"train": ("model", "training", "train"), "sample": ("samples", "grid", "trajectory", "sample")}
    for verb in verbs:
        for folder in Path("work").glob(f"{verb}-*"):
            shutil.rmtree(folder)
        for path in OUT.glob("*"):
            scored = path.stem in ("metrics", "cost", "neighbours", "forward", "manifest")
            if path.stem in kinds.get(verb, ()) or (verb == "evaluate" and scored):
                path.unlink()


# --- a training that was interrupted


def test_killed_in_the_middle_of_training(begun: Path, calm: Path) -> None:
    run("train")
    same(calm, "model.safetensors")


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        pytest.param("state.safetensors", truncate, "truncated or damaged checkpoint", id="state-truncated"),
        pytest.param("state.safetensors", empty, "truncated or damaged checkpoint", id="state-empty"),
        pytest.param("state.safetensors", flip, "truncated or damaged checkpoint", id="state-bit-of-a-weight"),
        pytest.param(
            "state.safetensors",
            lambda path: path.write_bytes(path.read_bytes().replace(b'step\\": \\"20', b'step\\": \\"10')),
            "truncated or damaged checkpoint",
            id="state-step-number",
        ),
        pytest.param("training.csv", truncate, "the run cannot go on without it", id="log-truncated"),
        pytest.param("training.csv", lambda path: digit(path, "\n5,"), "cannot go on without it", id="log-digit"),
        pytest.param("training.csv", Path.unlink, "the run cannot go on without it", id="log-missing"),
    ],
)
def test_damaged_state_of_a_training(
    begun: Path, calm: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Damage, says: str
) -> None:
    """One line, the file stays; without state.safetensors, as the line says, the run starts again and ends as ever."""
    before = stored("train", name).read_bytes()
    damage(stored("train", name))
    spoiled = stored("train", "state.safetensors")
    assert name != "state.safetensors" or spoiled.read_bytes() != before
    stops(capsys, "train", says, "delete")
    assert not (OUT / "model.safetensors").exists() and spoiled.exists()
    spoiled.unlink()
    run("train")
    same(calm, "model.safetensors")


def test_file_of_a_killed_writer(begun: Path, calm: Path) -> None:
    """A state that was half written when its writer was killed: not read, and cleared away."""
    left = stored("train", "state.safetensors").with_name(".state.safetensors.99999999.tmp")
    left.write_bytes(stored("train", "state.safetensors").read_bytes()[:1000])
    run("train")
    same(calm, "model.safetensors")
    assert not left.exists()


@pytest.mark.parametrize("seed", range(3))
def test_no_changed_bit_of_a_checkpoint_goes_unnoticed(tmp_path: Path, seed: int) -> None:
    tensors = {"a": torch.randn(40), "step": torch.tensor(3.0), "b": torch.arange(6).reshape(2, 3).bfloat16()}
    path = tmp_path / "state.safetensors"
    save_tensors(path, tensors, {"identity": "me", "step": "7"})
    found = load_tensors(path, "me")
    assert found[1] == {"identity": "me", "step": "7"} and torch.equal(found[0]["b"], tensors["b"])
    content, draw = path.read_bytes(), random.Random(seed)
    for _ in range(150):
        flip(path, draw.randrange(len(content)), draw.randrange(8))
        with pytest.raises(UserError, match=r"damaged checkpoint|belongs to another"):
            load_tensors(path, "me")
        path.write_bytes(content)


# --- bad numbers


def test_nan_in_a_batch(
    begun: Path, calm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, at step 23, as from a faulty device: weights and loss are not finite. The state of step 20 is kept."""
    real = Trainer.step

    def step(self: Trainer, number: int, *rest: object) -> tuple[int, torch.Tensor, torch.Tensor]:
        stage, loss, norm = real(self, number, *rest)  # type: ignore[arg-type]
        if number == 23:
            with torch.no_grad():
                for parameter in self.network.parameters():
                    parameter.mul_(torch.nan)
            loss = loss * torch.nan
        return stage, loss, norm

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        patch.setenv("FDM_CHECKPOINT_SECONDS", "0")
        stops(capsys, "train", "the loss is not finite at step 23", "the state before it is kept")
    assert load_tensors(*_named(stored("train", "state.safetensors")))[1]["step"] == "20"
    run("train")
    same(calm, "model.safetensors")


def test_nan_in_a_sample(
    place: Path, calm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget("sample")
    real = shards.draw
    with monkeypatch.context() as patch:
        spoilt = lambda *a, **k: real(*a, **k) * (torch.nan if a[5].start == 32 else 1)  # noqa: E731
        patch.setattr(shards, "draw", spoilt)
        stops(capsys, "sample", "samples 32-48 are not finite")
    assert len(list(Path("work").glob("sample-*/part-*.npz"))) == 2 and not (OUT / "samples.npy").exists()
    run("sample")
    same(calm)


# --- clocks


def test_clock_that_goes_back(begun: Path, calm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the wall clock is an hour earlier than the last one. States are saved, seconds do not go back."""
    hours = iter(range(10**6))
    real, saved = time.time(), []
    monkeypatch.setattr(time, "time", lambda: real - 3600 * next(hours))
    monkeypatch.setenv("FDM_CHECKPOINT_SECONDS", "0")
    save = Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self, *a: (saved.append(a), save(self, *a)))
    for verb in VERBS:
        run(verb)
    same(calm)
    assert not saved, "resumed at step 20 of 30; the last ten end the run"
    seconds = np.loadtxt(OUT / "training.csv", delimiter=",", skiprows=1)[:, -1]
    assert (np.diff(seconds) >= 0).all() and seconds[0] >= 0
    assert json.loads((OUT / "cost.json").read_text())["seconds_per_sample"] > 0


def test_file_times_in_the_future(place: Path, calm: Path) -> None:
    for path in place.rglob("*"):
        os.utime(path, (4e9, 4e9))
    before = {path: path.stat().st_mtime_ns for path in OUT.iterdir()}
    for verb in VERBS:
        run(verb)
    assert {path: path.stat().st_mtime_ns for path in OUT.iterdir()} == before, "nothing was to be done"
    (OUT / "metrics.json").unlink()
    run("evaluate")
    same(calm)


# --- finished files that were damaged


@pytest.mark.parametrize(
    ("verb", "name", "damage"),
    [
        pytest.param("train", "model.safetensors", flip, id="model-bit"),
        pytest.param("train", "training.csv", truncate, id="log-truncated"),
        pytest.param("train", "train.json", lambda path: digit(path, '"images"'), id="train-record-digit"),
        pytest.param("sample", "samples.npy", flip, id="samples-bit"),
        pytest.param("sample", "samples.npy", truncate, id="samples-truncated"),
        pytest.param("sample", "sample.json", empty, id="sample-record-empty"),
        pytest.param("evaluate", "metrics.json", lambda path: digit(path, "frechet_distance"), id="metrics-digit"),
        pytest.param("evaluate", "metrics.json", truncate, id="metrics-truncated"),
        pytest.param("evaluate", "neighbours.npz", flip, id="neighbours-bit"),
        pytest.param("evaluate", "manifest.json", lambda path: digit(path, '"seconds"'), id="manifest-digit"),
    ],
)
def test_damaged_copy_in_results(place: Path, calm: Path, verb: str, name: str, damage: Damage) -> None:
    """The verb that made it copies it again from the run store."""
    before = (OUT / name).read_bytes()
    damage(OUT / name)
    assert (OUT / name).read_bytes() != before
    times = {path.name: path.stat().st_mtime_ns for path in Path("work").glob("*/*")}
    run(verb)
    same(calm)
    assert (OUT / name).read_bytes() == before
    assert {path.name: path.stat().st_mtime_ns for path in Path("work").glob("*/*")} == times, "nothing was computed"


@pytest.mark.parametrize(
    ("kind", "name", "damage", "reader", "says"),
    [
        pytest.param("train", "model.safetensors", truncate, "sample", "damaged checkpoint", id="model-truncated"),
        pytest.param("train", "model.safetensors", flip, "sample", "damaged checkpoint", id="model-bit"),
        pytest.param("sample", "samples.npy", flip, "evaluate", "missing or damaged", id="samples-bit"),
        pytest.param("sample", "samples.npy", truncate, "evaluate", "missing or damaged", id="samples-truncated"),
    ],
)
def test_next_step_refuses_damage_in_the_store(
    place: Path,
    calm: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    name: str,
    damage: Damage,
    reader: str,
    says: str,
) -> None:
    """The line names the file; without it, the copy in results serves, and without that, the run is made again."""
    forget(reader)
    damage(stored(kind, name))
    stops(capsys, reader, f"{stored(kind, name)}: ", says, "delete it")
    assert not list(Path("work").glob(f"{reader}-*/{reader}.json"))
    stored(kind, name).unlink()
    run(reader)
    same(calm, *(["samples.npy"] if reader == "sample" else []))
    (OUT / name).unlink()
    run(kind)
    assert (OUT / name).read_bytes() == (calm / OUT / name).read_bytes()


@pytest.mark.parametrize(
    ("verb", "name", "damage"),
    [
        pytest.param("train", "train.json", lambda path: digit(path, '"images"'), id="train-digit"),
        pytest.param("train", "train.json", lambda path: path.write_text("[]"), id="train-garbage"),
        pytest.param("sample", "sample.json", truncate, id="sample-truncated"),
        pytest.param("evaluate", "evaluate.json", empty, id="evaluate-empty"),
        pytest.param("train", "training.csv", lambda path: digit(path, "\n5,"), id="log-digit"),
        pytest.param("evaluate", "metrics.json", lambda path: digit(path, "frechet_distance"), id="metrics-digit"),
    ],
)
def test_damaged_file_in_the_store_is_not_copied(
    place: Path, calm: Path, capsys: pytest.CaptureFixture[str], verb: str, name: str, damage: Damage
) -> None:
    """results is gone and the store is damaged: one line; without the file that it names, the run is made again."""
    shutil.rmtree("results")
    damage(stored(verb, name))
    stops(capsys, verb, f"{stored(verb, name)}: ", "damaged", "delete it")
    assert not OUT.exists() or not list(OUT.iterdir())
    stored(verb, name).unlink()
    run(verb)
    same(calm, {"train": "model.safetensors", "sample": "samples.npy", "evaluate": "metrics.json"}[verb])


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        pytest.param("train", "model.safetensors", id="model"),
        pytest.param("sample", "grid.png", id="picture"),
        pytest.param("evaluate", "cost.json", id="cost"),
    ],
)
def test_damage_in_the_store_is_found_without_copies(
    place: Path, calm: Path, capsys: pytest.CaptureFixture[str], verb: str, name: str
) -> None:
    """Without --to there is nothing to copy: what is damaged is not called finished for that."""
    shutil.rmtree("results")
    flip(stored(verb, name))
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        call(verb, "faults:ddpm")
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.startswith(f"error: {stored(verb, name)}: missing or damaged"), said
    stored(verb, name).unlink()
    run(verb)
    same(calm, {"train": "model.safetensors", "sample": "samples.npy", "evaluate": "metrics.json"}[verb])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(truncate, id="truncated"),
        pytest.param(lambda path: flip(path, path.stat().st_size // 2), id="bit"),
        pytest.param(empty, id="empty"),
    ],
)
def test_damaged_part_of_the_samples(
    place: Path, calm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, damage: Damage
) -> None:
    """Killed before the parts were put together, and one is damaged: that one alone is drawn again."""
    forget("sample")
    real, drawn = shards.draw, []
    with monkeypatch.context() as patch:
        patch.setattr("fdm.runs.merge_parts", lambda *a: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run("sample")
    damage(sorted(Path("work").glob("sample-*/part-*.npz"))[3])
    stops(capsys, "sample", "part-0000048-0000064.npz: damaged", "run the same command again")
    monkeypatch.setattr(shards, "draw", lambda *a, **k: (drawn.append(a[5]), real(*a, **k))[1])
    run("sample")
    same(calm)
    assert drawn == [range(48, 64)], "nothing else"


def test_no_changed_bit_of_a_part_matters_unnoticed(tmp_path: Path) -> None:
    """Where a bit has no meaning (dates inside the archive), the images are the same; anything else is noticed."""
    images = torch.rand(3, 1, 4, 4) * 2 - 1
    shards.save_part(tmp_path, range(3), images, 1.5)
    (part,) = shards.finished_parts(tmp_path)
    content, draw, noticed = part.path.read_bytes(), random.Random(0), 0
    expected = part.load()
    for _ in range(300):
        flip(part.path, draw.randrange(len(content)), draw.randrange(8))
        try:
            found = part.load()
            assert np.array_equal(found.images, expected.images) and found.seconds == expected.seconds
        except UserError:
            noticed += 1
        part.path.write_bytes(content)
    assert noticed > 150


@pytest.mark.parametrize("damage", [pytest.param(flip, id="bit"), pytest.param(truncate, id="truncated")])
def test_damaged_cache_of_features(place: Path, calm: Path, damage: Damage) -> None:
    forget("evaluate")
    cache = min(Path("work/reference").rglob("*.safetensors"))
    before = cache.read_bytes()
    damage(cache)
    run("evaluate")
    same(calm)
    assert cache.read_bytes() == before


def test_changed_bit_in_the_data(place: Path, calm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Found before anything is computed from it; the command that the line names mends it."""
    forget(*VERBS)
    flip(Path("data/digits8/train/images.npy"))
    stops(capsys, "train", "data/digits8/train/images.npy: damaged", "run `fdm data digits8 --force`")
    assert {path.name for path in Path("work").glob("train-*/*")} == {".lock", "about.json"}
    with pytest.raises(SystemExit) as end:
        call("data", "digits8", "--force")
    assert end.value.code in (0, None)
    run("train")
    same(calm, "model.safetensors")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param("metrics.json", lambda path: digit(path, "frechet_distance"), id="metrics-digit"),
        pytest.param("training.csv", lambda path: digit(path, "\n5,"), id="log-digit"),
        pytest.param("manifest.json", lambda path: digit(path, '"parameters"'), id="manifest-digit"),
        pytest.param("samples.npy", flip, id="samples-bit"),
    ],
)
def test_the_report_refuses_damaged_results(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Damage
) -> None:
    damage(OUT / name)
    stops(capsys, "report", f"{OUT / name}: ", "damaged", "again")
    assert not Path("reports/faults").exists()


# --- copies that were interrupted, folders that are gone


def test_killed_while_copying(place: Path, calm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of other settings in the place, half of them replaced: what is there is never taken for complete."""
    forget("train")
    with pytest.raises(SystemExit):
        call("train", "faults:ddpm", "--to", str(OUT), "-o", "training.lr=0.002")
    other, real, copied = (OUT / "train.json").read_bytes(), shutil.copyfile, []

    def copyfile(source: Path, target: Path) -> None:
        if len(copied) == 1:
            target.write_bytes(b"half")
            os.rename(target, target.with_name(f".{source.name}.99999999.tmp"))  # what SIGKILL leaves
            raise Killed
        copied.append(source.name)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", copyfile)
        with pytest.raises(Killed):
            run("train")
    assert copied == ["model.safetensors"] and not (OUT / "train.json").exists()
    (OUT / "train.json").write_bytes(other)  # as an older version, or a restored backup, would leave it
    with pytest.raises(SystemExit):
        call("train", "faults:ddpm", "--to", str(OUT), "-o", "training.lr=0.002")
    assert (OUT / "model.safetensors").read_bytes() != (calm / OUT / "model.safetensors").read_bytes()
    run("train")
    same(calm)


def test_killed_while_the_report_is_put_in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old report moved away, the new one not yet there: the same command makes it, and nothing else is left."""
    from fdm.report import assemble

    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target) == Path("reports/faults"):
            raise Killed
        real(source, target)

    with pytest.raises(SystemExit):
        call("report", "faults")
    before = {path: path.read_bytes() for path in Path("reports/faults").rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        patch.setattr(assemble.shutil, "rmtree", lambda *a, **k: None)  # SIGKILL clears nothing away
        with pytest.raises(Killed):
            call("report", "faults")
    assert sorted(path.name for path in Path("reports").iterdir()) == [".faults.lock", ".faults.old", ".faults.part"]
    with pytest.raises(SystemExit) as end:
        call("report", "faults")
    assert end.value.code in (0, None)
    assert {path: path.read_bytes() for path in Path("reports/faults").rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in Path("reports").iterdir()) == [".faults.lock", "faults"]


@pytest.mark.parametrize("gone", [pytest.param("results", id="results"), pytest.param("work", id="work")])
def test_a_folder_is_gone(place: Path, calm: Path, gone: str) -> None:
    """Without results, the store has all. Without the store, results have what the next step needs."""
    shutil.rmtree(gone)
    if gone == "work":
        for name in ("samples.npy", "metrics.json"):
            (OUT / name).unlink()
    for verb in VERBS:
        run(verb)
    same(calm)
    assert gone == "results" or not list(Path("work").glob("train-*")), "not trained again"


# --- disks


@pytest.fixture
def disk(place: Path) -> Iterator[Callable[[str, str], None]]:
    """``disk(folder, options)``: mount a small file system there with what it holds, or remount it with other options."""
    mounted: list[str] = []

    def mount(*words: str) -> None:
        done = subprocess.run(["mount", *words], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")

    def use(folder: str, options: str) -> None:
        if folder in mounted:
            mount("-o", f"remount,{options}", folder)
            return
        shutil.move(folder, "aside")
        Path(folder).mkdir()
        mount("-t", "tmpfs", "-o", options, "tmpfs", folder)
        mounted.append(folder)
        shutil.copytree("aside", folder, dirs_exist_ok=True)

    yield use
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def fill(folder: str, spare: int) -> Path:
    """Leave so many bytes free; returns the file that takes the rest."""
    path = Path(folder, "filler")
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(path, max(0, path.stat().st_size - spare))
    return path


@pytest.mark.parametrize(
    ("verb", "folder", "spare"),
    [
        pytest.param("train", "work", 0, id="training-first-byte"),
        pytest.param("train", "work", 100_000, id="training"),
        pytest.param("sample", "work", 8_192, id="sampling"),
        pytest.param("evaluate", "work", 0, id="scoring"),
        pytest.param("train", "results", 40_960, id="copying"),
    ],
)
def test_full_disk(
    place: Path,
    calm: Path,
    disk: Callable[[str, str], None],
    capsys: pytest.CaptureFixture[str],
    verb: str,
    folder: str,
    spare: int,
) -> None:
    forget(verb)
    disk(folder, "size=24m")
    filler = fill(folder, spare)
    stops(capsys, verb, folder, os.strerror(errno.ENOSPC))
    assert not list(Path(folder).rglob("*.tmp")) and not (OUT / f"{verb}.json").exists()
    filler.unlink()
    run(verb)
    same(calm)


@pytest.mark.parametrize("folder", [pytest.param("work", id="work"), pytest.param("results", id="results")])
def test_read_only_folder(
    place: Path, calm: Path, disk: Callable[[str, str], None], capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    forget("sample")
    disk(folder, "size=24m")
    disk(folder, "ro")
    stops(capsys, "sample", folder, os.strerror(errno.EROFS))
    assert not list(Path("work").glob("sample-*/*.np[yz]")), "nothing is drawn that could not be kept"
    disk(folder, "rw")
    run("sample")
    same(calm)


def test_a_file_where_a_folder_should_be(place: Path, calm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("results")
    Path("results").write_text("")
    stops(capsys, "train", "results/faults/ddpm/seed0", "cannot write")
    Path("results").unlink()
    run("train")
    same(calm, "model.safetensors")


# --- processes


HELD = """
import sys, time
from fdm.cli import main
from fdm.sampling import shards

draw, calls = shards.draw, []

def held(*words, **options):
    calls.append(words)
    if len(calls) > 1:
        time.sleep(600)
    return draw(*words, **options)

shards.draw, sys.argv[0] = held, "fdm"
main()
"""
"""The command line, but sampling stays at its second batch until a signal comes."""


def _process(*words: str, start: tuple[str, ...] = ("-m", "fdm"), **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *start, *words, "--to", str(OUT), "--threads", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


SAVING = {"FDM_CHECKPOINT_SECONDS": "0", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGKILL, id="SIGKILL"), pytest.param(signal.SIGINT, id="SIGINT")],
)
def test_sampling_is_ended_by_a_signal(place: Path, calm: Path, number: signal.Signals) -> None:
    """Finished batches stay; the same command draws the rest."""
    forget("sample")
    process = _process("sample", "faults:ddpm", start=("-c", HELD))
    while not list(Path("work").glob("sample-*/part-*.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == -number and "Traceback" not in said
    assert number == signal.SIGKILL or "stopped by SIGINT; what is finished is kept" in said.splitlines()[-1]
    assert not (OUT / "samples.npy").exists()
    run("sample")
    same(calm)


def test_ctrl_c_ends_a_loop(begun: Path, calm: Path) -> None:
    """As a terminal sends it, to the shell as well: no later run of the loop begins, and the same loop ends alike."""
    loop = f"for seed in 0 1; do {sys.executable} -m fdm train faults:ddpm --seed $seed --to {OUT.parent}/seed$seed --threads 1; done"
    words = ["bash", "-c", loop.replace("--threads 1", "--threads 1 -o training.images=480000")]
    shell = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, **SAVING}
    )
    while len(list(Path("work").glob("train-*/state.safetensors"))) < 2:
        assert shell.poll() is None, shell.communicate()
        time.sleep(0.05)
    os.killpg(shell.pid, signal.SIGINT)
    _, said = shell.communicate(timeout=300)
    assert shell.returncode == -signal.SIGINT and said.count("stopped by SIGINT") == 1 and "seed 1" not in said
    subprocess.run(["bash", "-c", loop], check=True)
    same(calm, "model.safetensors")


def test_nobody_reads_the_progress(begun: Path, calm: Path) -> None:
    """The pipe behind `2>&1 | tee log` is closed, as when tee is killed: the job fails, nothing is lost."""
    process = _process("train", "faults:ddpm")
    assert process.stderr
    process.stderr.close()
    assert process.wait(timeout=300) != 0
    assert not (OUT / "train.json").exists()
    run("train")
    same(calm, "model.safetensors")


def test_another_process_holds_the_run(begun: Path, calm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); input()",
            str(stored("train", "state.safetensors").with_name(".lock")),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert held.stdout and held.stdout.readline() == "held\n"
    stops(capsys, "train", "another process is working on this run; wait for it or end it")
    held.kill()
    held.communicate(timeout=300)
    run("train")  # the lock went with its holder
    same(calm, "model.safetensors")


# --- JSON


def test_no_changed_character_of_a_record_goes_unnoticed(tmp_path: Path) -> None:
    """Every character in turn; only where it does not matter (layout) may the record be read, and then it says the same."""
    content = {"kind": "train", "identity": "0123", "seconds": 1.5, "stages": [1, 2], "device": "é", "none": None}
    path = tmp_path / "train.json"
    store.write_json(path, store.sealed(content))
    text, draw = path.read_bytes(), random.Random(0)
    for position in range(len(text)):
        flip(path, position, draw.randrange(8))
        with contextlib.suppress(ValueError):
            assert store.read_sealed(path) == store.sealed(content)
        path.write_bytes(text)
    path.write_text(json.dumps({**json.loads(text), "seconds": 2.5}))
    with pytest.raises(ValueError, match="its own digest"):
        store.read_sealed(path)


# --- the list


def _tests(path: Path) -> set[str]:
    """Names of the tests of a file, with the ids of their parameters, as ``test_name[id]``."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            keywords = [word for d in node.decorator_list for word in ast.walk(d) if isinstance(word, ast.keyword)]
            ids = [word.value.value for word in keywords if word.arg == "id" and isinstance(word.value, ast.Constant)]
            names |= {f"{node.name}[{name}]" for name in ids} or {node.name}
    return names


def test_every_fault_is_listed() -> None:
    """docs/reliability.md names existing tests only, each of ours, and at least 25 faults."""
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| .+ \| `(\S+)` \|$", text, re.MULTILINE)
    assert len({fault for fault, _ in rows}) == len(rows) >= 25
    listed: dict[str, set[str]] = {}
    for _, test in rows:
        file, _, name = test.partition("::")
        listed.setdefault(file, set()).add(name)
    for file, names in listed.items():
        known = _tests(ROOT / "tests" / file)
        plain = {name.partition("[")[0] for name in known}
        assert names <= known | plain, f"{file} has no {sorted(names - known - plain)}"
    for file in ("test_faults.py", "workflow/test_faults.py"):
        missing = _tests(ROOT / "tests" / file) - listed[file] - {"test_every_fault_is_listed"}
        assert not missing, f"docs/reliability.md lacks {sorted(missing)}"
