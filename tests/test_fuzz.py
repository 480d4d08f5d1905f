"""At least 500 malformed inputs through the real command line: one clear line each, and nothing that counts as complete.

Parameter files, overrides, images, weights, arrays and records are real ones that ``malformed`` breaks. A case may come out harmless
(a broken file can be a valid one); then the command has to end well. Examples are the same in every run (profile ``ci``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import yaml
from commandline import attempt
from conftest import REPOSITORY
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from malformed import (
    ODD_VALUES,
    broken_images,
    broken_manifests,
    broken_npy,
    broken_safetensors,
    broken_yaml,
)

from fdm.data import open_store
from fdm.training.loop import save_tensors

QUICK = ("-o", "training.images=128", "-o", "sampling.count=64", "-o", "sampling.steps=3", "--device", "cpu")
COMPLETE = {".json", ".safetensors", ".npy", ".npz", ".png"}
"""Suffixes of what counts as a result."""


def repeat(count: int, strategy: st.SearchStrategy, case: Callable[..., object]) -> int:
    """Put ``count`` examples of ``strategy`` to ``case``; returns how many there were."""
    seen = 0

    @settings(
        max_examples=count,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(example: object) -> None:
        nonlocal seen
        case(example)
        seen += 1

    each()
    return seen


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, digits8: Path) -> Iterator[Path]:
    """A project with data, as the working directory of this module's tests."""
    root = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(REPOSITORY / "params", root / "params")
    shutil.copytree(digits8, root / "data")
    before, work = Path.cwd(), os.environ.pop("FDM_WORK", None)
    os.chdir(root)
    yield root
    os.chdir(before)
    if work is not None:
        os.environ["FDM_WORK"] = work


# --- parameters

BUILDING_BLOCKS = ("suites", "datasets", "networks", "methods", "autoencoders")
FILES = [
    (kind, path.read_bytes())
    for kind in BUILDING_BLOCKS
    for path in sorted((REPOSITORY / "params" / kind).glob("*.yaml"))
]
GRID = b"""
ablations:
  target: {title: Target, question: Which, baseline: ddpm, grid: {method.target: [v, eps], network: {wide: {channels: 48}}}}
"""
SMOKE = (REPOSITORY / "params/suites/smoke.yaml").read_bytes()
# Longer files say the same over again, and are slower to read.
REAL = [*((kind, text) for kind, text in FILES if len(text) < 1450), ("suites", SMOKE + GRID)]
VERBS = ("train", "sample", "evaluate", "pretrain", "restore", "vary", "interpolate", "verify")


@st.composite
def broken_parameters(draw: st.DrawFn) -> tuple[str, bytes]:
    """The kind of a block and the broken content of a file of it."""
    kind, text = draw(st.sampled_from(REAL))
    return kind, draw(broken_yaml(text))


@st.composite
def broken_overrides(draw: st.DrawFn) -> list[str]:
    """What might stand after ``-o``."""
    keys = ("training.images", "training.lr", "training.betas", "dataset.resolution", "dataset.name", "network.mult", "network.channels",
            "network.attention", "method", "method.transforms", "method.transforms.0.factor", "method.boundaries", "method.schedule.kind",
            "sampling.steps", "sampling.classes", "sampling.guidance", "evaluation.features", "conditioning.classes", "restoration.stages",
            "exploration.vary", "title", "dataset", "network", "training", "nothing", "", "a..b", ".", "method.", "name", "-o")  # fmt: skip
    plain = [value for value in ODD_VALUES if isinstance(value, (str, int, float, list)) and "\x00" not in str(value)]
    value = draw(
        st.sampled_from(plain).map(str)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
    )
    form = draw(
        st.sampled_from(["{}={}"] * 6 + ["{}", "{}:{}", "{}=[{}", "{}={{{}: {}}}", "{}=!!python/object:os.system {}"])
    )
    return ["-o", form.format(draw(st.sampled_from(keys)), value, value)]


def test_parameters(place: Path) -> None:
    """Files and overrides: refused before anything is made, whatever the verb; or resolved."""
    suite = yaml.safe_load(Path("params/suites/smoke.yaml").read_text())

    def written(kind: str, content: bytes) -> str:
        """Put the file there and make a suite that uses it; returns the experiment."""
        Path("params", kind, "broken.yaml").write_bytes(content)
        change = {"datasets": {"dataset": "broken"}, "networks": {"network": "broken"}}.get(kind, {})
        if kind in ("methods", "autoencoders"):
            method = "broken" if kind == "methods" else "fdm-vqvae"
            overrides = {"method": {"transforms": {0: {"autoencoder": "broken"}}}} if kind == "autoencoders" else {}
            change = {"experiments": {"ddpm": {"method": method, "overrides": overrides}}}
        if kind != "suites":
            Path("params/suites/broken.yaml").write_text(yaml.safe_dump({**suite, **change}))
        return "broken:ddpm"

    before = sorted(place.rglob("*"))

    def file(example: tuple[str, bytes]) -> None:
        experiment = written(*example)
        refuse_alike(experiment)
        for kind in BUILDING_BLOCKS:
            Path("params", kind, "broken.yaml").unlink(missing_ok=True)
        assert sorted(place.rglob("*")) == before, "something was made of parameters that are broken, or only shown"

    def refuse_alike(experiment: str, *options: str) -> None:
        outcome = attempt("show", "--yaml", experiment, *options)
        if outcome.refused:
            verb = VERBS[hash_of(outcome.stderr) % len(VERBS)]
            assert attempt(verb, experiment, *options).refused, verb

    def override(example: list[str]) -> None:
        refuse_alike("smoke:fdm-ds-3", *example)
        assert sorted(place.rglob("*")) == before

    assert repeat(185, broken_parameters(), file) + repeat(80, broken_overrides(), override) >= 250


def hash_of(text: str) -> int:
    """The same in every process, unlike ``hash``."""
    return sum(text.encode())


# --- images


def test_images(trained: Path) -> None:
    """As a dataset, and as what is to be restored."""
    folder = Path("pictures")

    def case(example: list[bytes]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, content in enumerate(example):
            (folder / f"{number}.png").write_bytes(content)
        words = (
            "-o",
            "dataset.source=folder",
            "-o",
            f"dataset.path={folder}",
            "-o",
            "dataset.resolution=8",
            "-o",
            "dataset.name=brought",
        )
        outcome = attempt("data", "digits8", *words, "-o", "dataset.fit=crop-resize")
        left = {path.name for path in Path("data").iterdir()}
        if outcome.refused:
            assert left <= {"digits8", ".digits8.lock", ".brought.lock"} and str(folder) in outcome.stderr
        else:
            open_store(Path("data/brought")).verify()
            shutil.rmtree("data/brought")

    def restored(example: list[bytes]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, content in enumerate(example):
            (folder / f"{number}.jpg").write_bytes(content)
        outcome = attempt("restore", "smoke:fdm-ds-3", *QUICK, "--stage", "1", "--images", str(folder), "--to", "out")
        finished = list(Path("work").glob("restore-*/*.json"))
        assert outcome.refused != bool(finished) and outcome.refused != Path("out/restore.json").exists()
        for made in (Path("out"), *Path("work").glob("restore-*")):
            shutil.rmtree(made, ignore_errors=True)

    some = st.lists(broken_images(), min_size=1, max_size=2)
    assert repeat(105, some, case) + repeat(25, some, restored) >= 125


# --- weights and stores

RUN = "smoke:fdm-ds-3"
LONGER = (*QUICK, "-o", "training.images=1280")


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """A finished training in ``work/``, and in ``unfinished/`` one that stopped half-way."""

    def save(path: Path, *content: object) -> None:
        save_tensors(path, *content)  # type: ignore[arg-type]
        if path.name == "state.safetensors":
            shutil.copytree(path.parent, Path("unfinished", path.parent.name))

    with mock.patch.dict(os.environ, FDM_CHECKPOINT_SECONDS="0"), mock.patch("fdm.training.loop.save_tensors", save):
        assert attempt("train", RUN, *LONGER).status == 0
    shutil.rmtree("work")
    assert attempt("train", RUN, *QUICK).status == 0
    shutil.copytree("work", "finished")
    shutil.copytree("data", "prepared")
    return place


@dataclass(frozen=True)
class Target:
    """A file that is broken.

    Attributes:
        work: what the run store holds then; None: nothing.
        path: of the file, as a pattern.
        broken: its content -> what may become of it.
        commands: that read it.
    """

    work: str | None
    path: str
    broken: Callable[[bytes], st.SearchStrategy[bytes]]
    commands: tuple[tuple[str, ...], ...]


TRAIN, GO_ON = ("train", RUN, *QUICK), ("train", RUN, *LONGER)
USE = (
    ("sample", RUN, *QUICK),
    ("restore", RUN, *QUICK, "--stage", "1", "--count", "2"),
    ("vary", RUN, *QUICK, "--stage", "1", "--count", "1"),
)
TARGETS = {
    Target("finished", "work/train-*/model.safetensors", broken_safetensors, USE): 60,
    Target("unfinished", "work/train-*/state.safetensors", broken_safetensors, (GO_ON,)): 30,
    Target(None, "data/digits8/train/images.npy", broken_npy, (TRAIN,)): 22,
    Target(None, "data/digits8/train/labels.npy", broken_npy, (TRAIN,)): 8,
    Target(None, "data/digits8/manifest.json", broken_manifests, (TRAIN,)): 15,
}


def damage(target: Target, count: int) -> int:
    """Break a file ``count`` times, and give one of the commands each time."""

    def restore() -> Path:
        for part, pristine in (("work", target.work), ("data", "prepared"), ("out", None)):
            shutil.rmtree(part, ignore_errors=True)
            if pristine:
                shutil.copytree(pristine, part, copy_function=os.link)
        (path,) = Path().glob(target.path)
        return path

    def case(example: tuple[bytes, tuple[str, ...]]) -> None:
        content, command = example
        broken = restore()
        broken.unlink()
        broken.write_bytes(content)
        outcome = attempt(*command, "--to", "out")
        record = f"{command[0]}.json"
        assert outcome.refused != Path("out", record).exists(), outcome.stderr
        if outcome.refused:
            assert not results("out") and not list(Path("work").glob(f"{command[0]}-*/{record}"))
            assert broken.name in outcome.stderr, "says which file"
        restore()

    examples = st.tuples(target.broken(restore().read_bytes()), st.sampled_from(target.commands))
    return repeat(count, examples, case)


def results(folder: str) -> list[Path]:
    """What in a folder looks like a result."""
    return [path for path in Path(folder).rglob("*") if path.suffix in COMPLETE]


def test_weights_and_stores(trained: Path) -> None:
    """Refused, naming the file; or done anew; or harmless."""
    assert sum(damage(target, count) for target, count in TARGETS.items()) >= 125
