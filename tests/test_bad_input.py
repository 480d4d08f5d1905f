"""What users get wrong, through the real command line: one line on stderr, a status that is not zero, nothing lost."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fdm.errors import UserError
from fdm.store import check_target

Command = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ["-o", "training.images=128", "-o", "sampling.count=64", "--threads", "1"]


def error_of(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that starts with `error:`; anything like a traceback fails the test."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr + result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and result.stderr.rstrip().endswith(lines[0]), result.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "smoke:ddpm", "-o", "training.lerning_rate=1"], "unknown key"),
        (["train", "smoke:ddpm", "-o", "training.images=many"], "valid integer"),
        (["train", "smoke:fdm-ds-3", "-o", "dataset.resolution=10"], "cannot be"),
        (["train", "smoke:nothing"], "has no experiment 'nothing'"),
        (["sample", "smoke:ddpm"], "no such checkpoint; run `fdm train`"),
        (["sample", "smoke:ddpm", "--shard", "5/4"], "numbered 1/N to N/N"),
        (["sample", "smoke:ddpm", "--shard", "one"], "expected I/N"),
        (["evaluate", "smoke:ddpm"], "run `fdm train`"),
        (["train", "smoke:ddpm", "--device", "tpu"], "must be auto, cpu or cuda"),
        (["data", "digits9"], "no such dataset file; did you mean 'digits8'"),
        (["verify", "smoke:ddpm", "--solver", "heun"], "must be one of ancestral, ddim, multistep2"),
        (["verify"], "name at least one experiment"),
        (["verify", "smoke:fdm-ds-3", "--side", "6"], "cannot be verified at --side 6"),
        (["report", "smoke"], "results/smoke"),
        (["show", "--yaml"], "--yaml and -o need an experiment"),
        (["show", "smokes"], "no such suite file; did you mean 'smoke'"),
    ],
)
def test_wrong_words(smoke: Path, fdm: Command, words: list[str], expected: str) -> None:
    assert expected in error_of(fdm(*words))


def test_missing_data(project: Path, fdm: Command) -> None:
    assert "fdm data digits8" in error_of(fdm("train", "smoke:ddpm"))


def test_corrupt_data(smoke: Path, fdm: Command) -> None:
    images = Path("data/digits8/train/images.npy")
    images.chmod(0o644)
    images.write_bytes(images.read_bytes()[:-1000])
    assert "data/digits8" in error_of(fdm("train", "smoke:ddpm"))


def test_truncated_checkpoint(smoke: Path, fdm: Command) -> None:
    assert fdm("train", "smoke:ddpm", *QUICK).returncode == 0
    model = next(Path("work").glob("train-*/model.safetensors"))
    model.write_bytes(model.read_bytes()[:-50])
    assert "truncated or damaged checkpoint" in error_of(fdm("sample", "smoke:ddpm", *QUICK))


def test_checkpoint_of_another_experiment(smoke: Path, fdm: Command) -> None:
    assert fdm("train", "smoke:ddpm", "--to", "one", *QUICK).returncode == 0
    result = fdm("sample", "smoke:fdm-ds-3", "--to", "one", *QUICK, FDM_WORK="elsewhere")
    assert "belongs to another experiment" in error_of(result)


def test_too_few_samples(smoke: Path, fdm: Command) -> None:
    for verb in ("train", "sample"):
        done = fdm(verb, "smoke:ddpm", *QUICK)
        assert done.returncode == 0
        assert (
            "note: ddpm: sampling.count=64 is too few to be scored; evaluation.features=efficientnet-lite0 needs 113"
            in done.stderr
        )
    message = error_of(fdm("evaluate", "smoke:ddpm", *QUICK))
    assert "64" in message and "sampling.count" in message
    assert not list(Path("work").glob("evaluate-*/metrics.json"))


def test_missing_weights(project: Path, fdm: Command) -> None:
    """Enough images for Inception-v3, so that its weights are what is missing."""
    Path("params/suites/wide.yaml").write_text(
        "title: Wide\ndataset: digits32\nnetwork: tiny8\ntraining: {images: 64}\n"
        "sampling: {count: 2100, steps: 1, batch: 300}\nevaluation: {features: [inception-v3]}\n"
        "experiments: {ddpm: {method: ddpm}}\n"
    )
    for words in (["data", "digits32"], ["train", "wide:ddpm"], ["sample", "wide:ddpm"]):
        assert fdm(*words).returncode == 0
    result = fdm("evaluate", "wide:ddpm", FDM_INCEPTION_WEIGHTS="/nowhere/weights.pth")
    assert "/nowhere/weights.pth" in error_of(result)
    assert not list(Path("work").glob("evaluate-*/metrics.json"))


def test_no_permission(smoke: Path, fdm: Command) -> None:
    Path("blocked").write_text("a file where a folder should be")
    assert "blocked" in error_of(fdm("train", "smoke:ddpm", *QUICK, FDM_WORK="blocked"))


@pytest.mark.parametrize("to", ["blocked/here", "blocked"])
def test_a_place_for_copies_is_tried_before_the_work(smoke: Path, fdm: Command, to: str) -> None:
    Path("blocked").write_text("a file where a folder should be")
    assert f"error: {to}: cannot write: blocked is a file" == error_of(fdm("train", "smoke:ddpm", "--to", to, *QUICK))
    assert not Path("work").exists()
    assert fdm("train", "smoke:ddpm", *QUICK).returncode == 0
    assert f"error: {to}: cannot write: blocked is a file" == error_of(fdm("sample", "smoke:ddpm", "--to", to, *QUICK))
    assert [path.name.partition("-")[0] for path in Path("work").iterdir()] == ["train"], "no sample is drawn"


def test_a_place_that_may_not_be_looked_at_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refused)
    with pytest.raises(UserError, match="private/out: cannot write: Permission denied"):
        check_target(tmp_path / "private/out")


def test_no_space(smoke: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write fails with an error from the system."""

    def limit() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    words = [sys.executable, "-m", "fdm", "train", "smoke:ddpm", *QUICK]
    result = subprocess.run(words, capture_output=True, text=True, preexec_fn=limit, env=os.environ)
    assert "cannot write" in error_of(result)
    assert not list(Path("work").glob("train-*/model.safetensors")) and not list(Path("work").rglob("*.tmp"))
    assert subprocess.run(words).returncode == 0, "with space again, the same command ends well"


def test_nan_loss(smoke: Path, fdm: Command) -> None:
    message = error_of(fdm("train", "smoke:ddpm", "-o", "training.lr=1.0e+30", "-o", "training.warmup=0", *QUICK[2:]))
    assert "loss is not finite" in message and "training.lr" in message


def test_two_processes_on_one_run(smoke: Path, fdm: Command) -> None:
    from filelock import FileLock

    assert fdm("train", "smoke:ddpm", *QUICK).returncode == 0
    folder = next(Path("work").glob("train-*"))
    (folder / "train.json").unlink()
    with FileLock(folder / ".lock"):
        assert "another process is working on this run" in error_of(fdm("train", "smoke:ddpm", *QUICK))
    assert fdm("train", "smoke:ddpm", *QUICK).returncode == 0


def test_the_same_command_again_does_nothing(smoke: Path, fdm: Command) -> None:
    words = ["train", "smoke:ddpm", "--to", "out", *QUICK]
    assert fdm(*words).returncode == 0
    before = Path("out/model.safetensors").stat().st_mtime_ns
    assert fdm(*words, FDM_WORK="another").returncode == 0
    assert Path("out/model.safetensors").stat().st_mtime_ns == before and not Path("another").exists()
    Path("out/model.safetensors").unlink()
    assert fdm(*words).returncode == 0 and Path("out/model.safetensors").exists(), "copied again from the run store"


def test_a_finished_run_is_found_without_lightning(smoke: Path, fdm: Command) -> None:
    """Its import is what a command that has nothing to do would spend most of its time on."""
    words = ["train", "smoke:ddpm", *QUICK]
    assert fdm(*words).returncode == 0
    code = "import sys; from fdm.cli import main\ntry: main()\nfinally: print('lightning_fabric' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout == "False\n" and "trained on 128 images" in done.stderr


def test_results_are_readable_without_pickle(smoke: Path, fdm: Command) -> None:
    for verb in ("train", "sample"):
        assert fdm(verb, "smoke:ddpm", "--to", "out", *QUICK).returncode == 0
    assert np.load("out/samples.npy", allow_pickle=False).shape == (64, 1, 8, 8)
