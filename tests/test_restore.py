"""`fdm restore`, `fdm vary` and `fdm interpolate` through the real command line, and their place in the report."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from test_bad_input import error_of
from test_report import edit, make_results

from fdm import operators
from fdm.cli import app
from fdm.errors import UserError
from fdm.report import build

Command = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ["-o", "training.images=128", "-o", "sampling.steps=8", "--threads", "1"]
BLUR = ["blur:fdm-blur-g", "-o", "method.transforms.0.width=0.6"]


def call(*words: str) -> None:
    """The command line in this process, which has its imports behind it; what users get wrong is a UserError."""
    app(list(words), standalone_mode=False)


def refused(*words: str) -> str:
    """The one line that a command ends with."""
    with pytest.raises(UserError) as caught:
        call(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, digits8: Path) -> Path:
    """A project with three models, hardly trained."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(REPOSITORY / "params", folder / "params")
    shutil.copytree(digits8, folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("FDM_WORK", raising=False)
        for words in (["smoke:ddpm"], ["smoke:fdm-ds-3"], BLUR):
            call("train", *words, *QUICK)
    return folder


@pytest.fixture
def trained(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, as the working directory."""
    shutil.copytree(once, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("FDM_WORK", raising=False)
    return tmp_path / "project"


def test_restoring_end_to_end(trained: Path, fdm: Command) -> None:
    words = ["restore", "smoke:fdm-ds-3", "--baseline", "smoke:ddpm", "--count", "12", "--to", "out", *QUICK]
    result = fdm(*words)
    assert result.returncode == 0, result.stderr
    assert "super-resolution from stage 2: projected: psnr" in result.stderr
    record = json.loads(Path("out/restore.json").read_text())
    assert [(task["stage"], task["measurement"], task["evaluations"]) for task in record["tasks"]] == [
        (1, [1, 4, 4], 3),
        (2, [1, 2, 2], 5),
    ]
    assert record["lpips"] is None, "8 pixels are too few for it"
    truth = np.load("data/digits8/test/images.npy")[:12]
    with np.load("out/restored.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["truth"], truth)
        for task in record["tasks"]:
            stage, scores = task["stage"], task["scores"]
            assert list(scores) == ["bicubic", "ilvr", "ddnm", "unprojected", "projected"]
            y, box = arrays[f"stage{stage}_measurement"], operators.box(8, 2**stage).matrix.numpy()
            assert np.abs(box @ (truth / 127.5 - 1) @ box.T - y).max() <= 0.5 / 127.5 + 1e-6, "rounded to 8 bits"
            for method in scores:
                x = arrays[f"stage{stage}_{method}"].astype(np.float64)
                errors = np.sqrt(((box @ x @ box.T - y) ** 2).mean(axis=(1, 2, 3)))
                assert scores[method]["consistency"]["mean"] == pytest.approx(errors.mean(), rel=1e-6, abs=1e-12)
                squares = ((x.clip(-1, 1) - (truth / 127.5 - 1)) ** 2).mean(axis=(1, 2, 3))
                assert scores[method]["psnr"]["mean"] == pytest.approx((10 * np.log10(4 / squares)).mean(), rel=1e-5)
            for method in ("projected", "ilvr", "ddnm"):
                assert scores[method]["consistency"]["high"] < 1e-6
            assert scores["unprojected"]["consistency"]["low"] > 1e-3
            difference = task["against_bicubic"]["projected"]["psnr"]["mean"]
            assert difference == pytest.approx(scores["projected"]["psnr"]["mean"] - scores["bicubic"]["psnr"]["mean"])
    assert Image.open("out/restore.png").width > 8 * 64

    before = Path("out/restored.npz").stat().st_mtime_ns
    again = fdm(*words, FDM_WORK="nowhere")
    assert again.returncode == 0 and "projected: psnr" in again.stderr and not Path("nowhere").exists()
    assert Path("out/restored.npz").stat().st_mtime_ns == before


def test_only_what_is_asked_for(trained: Path) -> None:
    words = ["--count", "4", "--stage", "1", "--task", "super-resolution", "--project", "--to", "out", *QUICK]
    call("restore", "smoke:fdm-ds-3", *words)
    (task,) = json.loads(Path("out/restore.json").read_text())["tasks"]
    assert task["stage"] == 1 and list(task["scores"]) == ["bicubic", "projected"]
    assert len(list(Path("work").glob("restore-*/restore.json"))) == 1


def test_images_of_a_folder(trained: Path) -> None:
    Path("mine").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a", (20, 16)), ("b", (8, 8)), ("c", (8, 30))):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(f"mine/{name}.png")
    words = ["restore", "smoke:fdm-ds-3", "--images", "mine", "--stage", "2", "--to", "out", *QUICK]
    call(*words)
    record = json.loads(Path("out/restore.json").read_text())
    assert record["images"] == {"source": "mine", "count": 3, "shape": [1, 8, 8]}
    Image.fromarray(np.zeros((8, 7), dtype=np.uint8)).save("mine/d.png")
    assert "d.png: the image is 7x8, smaller than the model's 8x8" in refused(*words)


def test_deblurring_an_exact_measurement(trained: Path) -> None:
    exact = ["-o", "restoration.rounded=false", "-o", "restoration.cutoff=0.001", "--stage", "1"]
    call("restore", *BLUR, *QUICK, *exact, "--count", "8", "--to", "out")
    (task,) = json.loads(Path("out/restore.json").read_text())["tasks"]
    assert task["task"] == "deblur" and task["reference"] == "wiener"
    assert task["scores"]["projected"]["consistency"]["high"] < 1e-3
    assert task["scores"]["unprojected"]["consistency"]["low"] > 1e-3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["restore", "smoke:ddpm"], "ddpm: cannot restore: no state of this process"),
        (["restore", "smoke:fdm-ds-3", "--stage", "3"], "no transformed signal 3; there are 2"),
        (["restore", "smoke:fdm-ds-3", "--task", "deblur"], "no stage of it is a task of deblur"),
        (["restore", "smoke:fdm-ds-3", "--task", "deblur", "--stage", "1"], "stage 1 is super-resolution, not deblur"),
        (["restore", "smoke:fdm-ds-3", "--task", "deblurr"], "did you mean 'deblur'"),
        (["restore", "smoke:fdm-ds-3", "--seed", "7"], "no such checkpoint; run `fdm train`"),
        (["restore", "smoke:fdm-ds-3", "--images", "nowhere"], "nowhere: no such folder"),
        (["restore", "smoke:fdm-ds-3", "--baseline", "smoke:nothing"], "has no experiment 'nothing'"),
        (["restore", "smoke:fdm-ds-3", "--baseline", "digits:ddpm"], "is of dataset digits32, not digits8"),
        (["restore", "smoke:fdm-ds-3", "--baseline", "smoke:fdm-ds-3", *QUICK], "ILVR and DDNM need a process"),
        (["restore", "smoke:fdm-ds-3", "-o", "restoration.counts=3"], "unknown key; did you mean 'count'"),
        (["restore", "latent:fdm-vqvae"], "not linear operators"),
        (["train", "smoke:fdm-ds-3", "-o", "restoration.stages=[4]"], "no transformed signal 4"),
        (["vary", "smoke:ddpm"], "nothing can be held; it has one stage"),
        (["vary", "smoke:fdm-ds-3", "--stage", "5"], "nothing can be held at stage 5; stages: 1, 2"),
        (["vary", "smoke:fdm-ds-3", "--stage", "1", "--stage", "1"], "must name each stage once"),
        (["train", "smoke:ddpm", "-o", "exploration.vary=[1]"], "nothing can be held at stage 1; it has one stage"),
        (["train", "family:ihdm", "-o", "exploration.interpolate=true"], "solver ddim does not exist for this process"),
        (["interpolate", "smoke:fdm-ds-3", "--seed", "7"], "no such checkpoint; run `fdm train`"),
    ],
)
def test_wrong_words(trained: Path, words: list[str], expected: str) -> None:
    assert expected in refused(*words)
    assert not list(Path("work").glob("restore-*/restore.json"))


def test_a_wrong_word_is_one_line(trained: Path, fdm: Command) -> None:
    assert "cannot restore" in error_of(fdm("restore", "smoke:ddpm"))


def test_variations_and_interpolations(trained: Path) -> None:
    run = ["smoke:fdm-ds-3", "--to", "out", *QUICK]
    call("sample", *run, "-o", "sampling.count=8")
    samples = np.load("out/samples.npy").astype(int)
    for _ in range(2):
        call("vary", *run, "--stage", "1", "--count", "3", "--variants", "2")
        images = np.load("out/vary.npy").astype(int)
        assert images.shape == (3, 2, 1, 8, 8) and np.abs(images[:, 0] - samples[:3]).max() <= 1
        assert np.abs(images[:, 0] - images[:, 1]).max() > 1
        for path in Path("work").glob("vary-*/vary.npy"):
            path.unlink()  # a second time nothing is drawn, and nothing copied
    call("vary", *run, "--count", "3", "--variants", "2")
    every = np.load("out/vary.npy").astype(int)
    assert every.shape == (6, 2, 1, 8, 8), "each of two stages, by default"
    assert np.abs(every[:3] - images).max() <= 1 and np.abs(every[3:, 0] - samples[:3]).max() <= 1
    # Under a state that is held later there is less to draw anew.
    assert np.abs(every[3:, 1] - every[3:, 0]).mean() > np.abs(every[:3, 1] - every[:3, 0]).mean()
    call("interpolate", *run, "--count", "2", "--points", "3")
    images = np.load("out/interpolate.npy").astype(int)
    call("sample", *run, "-o", "sampling.count=8", "-o", "sampling.solver=ddim")
    samples = np.load("out/samples.npy").astype(int)
    assert images.shape == (2, 3, 1, 8, 8) and np.abs(images[:, 0] - samples[[0, 2]]).max() <= 1
    assert np.abs(images[:, 0] - images[:, 2]).mean() > 5, "the prior still counts at the end"
    assert Image.open("out/vary.png").height > 3 * 64 and Image.open("out/interpolate.png").height > 2 * 64


def restored(folder: Path, psnr: float) -> None:
    """A restore.json and its picture beside the files of a finished run."""

    def value(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.5, "high": mean + 0.5}

    ways = {
        method: {"psnr": value(psnr + k), "ssim": value(0.8), "consistency": value(1e-8 * 10**k)}
        for k, method in enumerate(("bicubic", "projected"))
    }
    content = {
        "identity": "r" * 16,
        "train": json.loads((folder / "train.json").read_text())["identity"],
        "images": {"source": "digits, test split", "count": 64, "shape": [1, 32, 32]},
        "rounded": True,
        "lpips": None,
        "tasks": [{"stage": 1, "task": "super-resolution", "measurement": [1, 16, 16], "scores": ways}],
    }
    (folder / "restore.json").write_text(json.dumps(content))
    Image.new("RGB", (300, 200), "white").save(folder / "restore.png")


def test_the_report_shows_restorations_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = make_results(tmp_path, seeds=(0, 1))
    page = build("demo", results, tmp_path / "reports/demo")
    assert 'id="restoration"' not in page.read_text() and not (page.parent / "tables/conditional.csv").exists()
    restored(results / "fdm-ds-3/seed0", 20.0)
    page = build("demo", results, tmp_path / "reports/demo")
    text = page.read_text()
    assert 'id="restoration"' in text and 'href="#restoration"' in text and "super-resolution from 16×16" in text
    assert (page.parent / "figures/restore-fdm-ds-3.png").exists()
    with open(page.parent / "tables/conditional.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["experiment"], row["restored_by"], float(row["psnr"])) for row in rows] == [
        ("fdm-ds-3", "bicubic interpolation", 20.0),
        ("fdm-ds-3", "projected", 21.0),
    ]
    assert float(rows[0]["psnr_low"]) == 19.5 and float(rows[0]["consistency"]) == 1e-8
    restored(results / "fdm-ds-3/seed1", 22.0)
    page = build("demo", results, tmp_path / "reports/demo")
    assert "| 21.0" in (page.parent / "tables/conditional.md").read_text()


def test_restorations_of_another_training_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = make_results(tmp_path)
    restored(results / "fdm-ds-2/seed0", 20.0)
    edit(results / "fdm-ds-2/seed0/restore.json", lambda content: content.update(train="0" * 16))
    with pytest.raises(UserError, match="another training"):
        build("demo", results, tmp_path / "reports/demo")


def explored(folder: Path, kind: str) -> None:
    """What `fdm vary` or `fdm interpolate` leaves beside the files of a finished run, but for its array."""
    train = json.loads((folder / "train.json").read_text())["identity"]
    record = {"identity": "e" * 16, "train": train, "shape": [4, 8, 1, 32, 32], "asked": {"count": 4, "columns": 8}}
    (folder / f"{kind}.json").write_text(json.dumps(record))
    Image.new("RGB", (300, 200), "white").save(folder / f"{kind}.png")


def test_the_report_shows_variations_and_interpolations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = make_results(tmp_path, seeds=(0, 1))
    page = build("demo", results, tmp_path / "reports/demo")
    assert 'id="exploration"' not in page.read_text()
    explored(results / "fdm-ds-3/seed1", "vary")
    text = build("demo", results, tmp_path / "reports/demo").read_text()
    assert 'href="#exploration"' in text and 'id="vary-fdm-ds-3"' in text and "interpolate-" not in text
    for name in ("ddpm", "fdm-ds-3"):
        explored(results / name / "seed0", "interpolate")
    # What was asked for after a seed was scored does not make it another experiment.
    edit(
        results / "fdm-ds-3/seed0/manifest.json",
        lambda content: content["experiment"].update(exploration={"vary": [1]}),
    )
    text = build("demo", results, tmp_path / "reports/demo").read_text()
    assert (
        text.index('id="vary-fdm-ds-3"') < text.index('id="interpolate-ddpm"') < text.index('id="interpolate-fdm-ds-3"')
    )
    figures = {path.name for path in (page.parent / "figures").glob("*.png")}
    assert {"vary-fdm-ds-3.png", "interpolate-ddpm.png", "interpolate-fdm-ds-3.png"} <= figures


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda run: edit(run / "vary.json", lambda content: content.update(train="0" * 16)),
            "vary.json: is of another",
        ),
        (lambda run: (run / "vary.json").write_text("{"), "vary.json: not valid JSON"),
        (lambda run: (run / "vary.png").unlink(), "vary.png: missing or damaged; run `fdm vary` for fdm-ds-2"),
        (
            lambda run: (run / "vary.png").write_bytes((run / "vary.png").read_bytes()[:100]),
            "vary.png: missing or damaged",
        ),
    ],
)
def test_variations_that_do_not_belong_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    results = make_results(tmp_path)
    explored(results / "fdm-ds-2/seed0", "vary")
    damage(results / "fdm-ds-2/seed0")
    with pytest.raises(UserError) as caught:
        build("demo", results, tmp_path / "reports/demo")
    assert said in str(caught.value) and "\n" not in str(caught.value)
