"""Latent signals: shapes without weights, measured ratios, the jump of a learned g, and the commands from end to end."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor

from fdm.config import AutoencoderConfig
from fdm.data import Store, open_store, to_float
from fdm.errors import UserError
from fdm.evaluation import features
from fdm.experiment import identity, load_experiment, load_suite
from fdm.networks.autoencoder import Autoencoder
from fdm.pretrained import AutoencoderRun, pretraining_of
from fdm.processes import Jump, Prediction, Process, build_process
from fdm.processes.latent_diffusion import Config as LatentDiffusionConfig
from fdm.processes.staged import Config as StagedConfig
from fdm.runs import Run
from fdm.sampling.sampler import draw
from fdm.sampling.solvers import Solver
from fdm.training.latents import KnownLatents, worth_knowing
from fdm.training.loop import Trainer
from fdm.transforms import Codec

Command = Callable[..., subprocess.CompletedProcess[str]]
BLOCK: dict[str, Any] = {
    "kind": "vqvae", "factor": 2, "latent_channels": 3, "width": 8, "codebook": 32, "images": 1920, "warmup": 5,
}  # fmt: skip


def codec(shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0, **changes: Any) -> Autoencoder:
    """An untrained autoencoder with latents that are standardised all the same."""
    torch.manual_seed(seed)
    model = Autoencoder(AutoencoderConfig(**{**BLOCK, "kind": "vae", **changes}), shape)
    model.measure(images(64, shape[1]))
    return model.eval().requires_grad_(False)


def images(count: int, side: int = 8) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(5)) * 2 - 1


def staged(*before: dict[str, Any], **changes: Any) -> StagedConfig:
    latent = {"kind": "latent", "autoencoder": {**BLOCK, "kind": "vae"}}
    return StagedConfig.model_validate({"process": "staged", "transforms": [*before, latent], **changes})


def process(side: int = 8, *before: dict[str, Any], **changes: Any) -> Process:
    config = staged(*before, **changes)
    plain = build_process(config, 1, side)
    needed = plain.pretraining()
    assert needed
    model = codec(needed.shape)
    calibration = build_process(config, 1, side, codec=model).calibrate(images(64, side))
    return build_process(config, 1, side, calibration, model)


# --- the process --------------------------------------------------------------------------------------------------


def test_shapes_are_known_before_any_autoencoder_exists() -> None:
    plain = build_process(staged({"kind": "resize"}), 1, 16)
    assert [stage.shape for stage in plain.stages] == [(1, 16, 16), (1, 8, 8), (3, 4, 4)]
    assert [stage.outputs for stage in plain.stages] == [2, 2, 3]
    assert [stage.bounded for stage in plain.stages] == [True, True, False]
    assert not plain.linear and len(plain.plan(9)) == 11
    needed = plain.pretraining()
    assert needed and needed.shape == (1, 8, 8) and len(needed.before) == 1
    assert needed.signal(images(2, 16)).shape == (2, 1, 8, 8)
    with pytest.raises(UserError, match="run `fdm pretrain` first"):
        plain.signals(images(2, 16))
    with pytest.raises(ValueError, match="calibrate on data first"):
        plain.level(0.9, 2)


def test_two_latents_and_operator_prediction_are_refused() -> None:
    latent = {"kind": "latent", "autoencoder": {**BLOCK}}
    with pytest.raises(ValueError, match="at most one of them may be latent"):
        build_process(staged(latent), 1, 8)
    with pytest.raises(ValueError, match="operator needs linear transforms"):
        build_process(staged(predict="operator"), 1, 8)
    with pytest.raises(ValueError, match="takes no autoencoder"):
        build_process(load_method("gaussian"), 1, 8, codec=codec())


def load_method(name: str) -> Any:
    from fdm.processes.gaussian import Config

    return Config.model_validate({"process": name})


@pytest.mark.parametrize(("side", "before"), [(8, ()), (16, ({"kind": "resize"},))])
def test_ratios_are_measured_on_data(side: int, before: tuple[dict[str, Any], ...]) -> None:
    one = process(side, *before)
    x = one.clean(images(64, side), len(before))  # type: ignore[attr-defined]
    model = codec((1, 8, 8))
    latents = model.encode(x)
    gamma = float(model.decode(latents).square().mean() / latents.square().mean())
    assert one.power_ratios[-1] == pytest.approx(gamma, rel=1e-5)  # type: ignore[attr-defined]
    d = 64 / 48
    assert one.snr_ratio(len(before) + 1) == pytest.approx(d * gamma, rel=1e-5)  # type: ignore[attr-defined]
    # What the name says: total signal energy over noise is the same on both sides of the jump.
    tau = one.stages[-1].start
    fine, coarse = one.level(tau, len(before)), one.level(tau, len(before) + 1)
    energies = [
        float(level.log_snr) + math.log(float(signal.square().sum()))
        for level, signal in ((fine, model.decode(latents)), (coarse, latents))
    ]
    assert energies[0] == pytest.approx(energies[1], abs=1e-4)


def test_a_perfect_network_gets_the_signal_back_across_the_jump() -> None:
    """With the true x^1 the state after the jump is N(alpha g x^1, sigma^2 I), and the network's targets lead to x."""
    one = process()
    x = images(500)
    latents = one.signals(x)[1]
    noise = torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    z = one.jump(torch.zeros_like(latents), Prediction(latents), 1, noise)
    fine = one.level(0.5, 0)
    torch.testing.assert_close(
        (z - float(fine.sigma) * noise) / float(fine.alpha), codec().decode(latents), atol=1e-4, rtol=0
    )
    t = torch.full((500,), 0.3, dtype=torch.float64)
    for stage, time in ((0, t), (1, t + 0.4)):
        eps = torch.randn(500, *one.stages[stage].shape, generator=torch.Generator().manual_seed(stage))
        example = one.example(x, time, stage, eps)
        found = one.predict(example.target, example.z, float(time[0]), stage, clip=False)
        torch.testing.assert_close(found.clean, one.signals(x)[stage], atol=2e-3, rtol=0)
        assert one.loss(example.target, example.target) == 0


def test_latents_are_not_clipped_and_pixels_are() -> None:
    one = process()
    for stage in (0, 1):
        z = torch.full((1, *one.stages[stage].shape), 100.0)
        output = torch.zeros(1, one.stages[stage].outputs, *z.shape[2:])
        clean = one.predict(output, z, 0.25 + 0.5 * stage, stage, clip=True).clean
        assert (clean.abs().max() > 1) == (stage == 1)


def test_delta_weighs_in_the_moving_stage_only() -> None:
    """The latent stage has more channels than the pixels, but no delta."""
    one = process(8, delta_weight=100.0)
    target = torch.randn(2, 3, 4, 4)
    assert float(one.loss(torch.zeros_like(target), target)) == pytest.approx(float(target.square().mean()))
    target = torch.randn(2, 2, 8, 8)
    expected = target[:, :1].square().mean() + 100 * target[:, 1:].square().mean()
    assert float(one.loss(torch.zeros_like(target), target)) == pytest.approx(float(expected))


@pytest.mark.parametrize("solver", [Solver("ancestral", 1.0), Solver("multistep2", 0.0, multistep=True)])
def test_latent_diffusion_is_diffusion_of_latents(solver: Solver) -> None:
    """States and samples equal those of the plain process on the latents, decoded at the end."""
    block = {**BLOCK, "kind": "vae"}
    model = codec()
    config = LatentDiffusionConfig.model_validate({"process": "latent-diffusion", "autoencoder": block})
    ldm = build_process(config, 1, 8, codec=model)
    plain = build_process(load_method("gaussian"), 3, 4)
    x, eps = images(5), torch.randn(5, 3, 4, 4)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    one, other = ldm.example(x, t, 0, eps), plain.example(model.encode(x), t, 0, eps)
    assert torch.equal(one.z, other.z) and torch.equal(one.target, other.target)

    def denoise(z: Tensor, t: float, stage: int) -> Tensor:
        return 0.3 * z

    sample = draw(ldm, denoise, solver, ldm.plan(5), 1, range(3), clip=True)
    latents = draw(plain, denoise, solver, plain.plan(5), 1, range(3), clip=False)
    assert sample.shape == (3, 1, 8, 8) and torch.equal(sample, model.decode(latents))
    with pytest.raises(ValueError, match="no jumps"):
        ldm.jump(latents, Prediction(latents), 1, latents)


def test_every_sampler_crosses_the_learned_jump() -> None:
    one = process(16, {"kind": "resize"})

    def denoise(z: Tensor, t: float, stage: int) -> Tensor:
        return torch.zeros(len(z), one.stages[stage].outputs, *z.shape[2:])

    plan = one.plan(6)
    assert sum(isinstance(event, Jump) for event in plan) == 2
    for solver in (Solver("ancestral", 1.0), Solver("ddim", 0.0), Solver("multistep2", 0.0, multistep=True)):
        sample = draw(one, denoise, solver, plan, 0, range(3))
        assert sample.shape == (3, 1, 16, 16) and torch.isfinite(sample).all()


# --- configuration and identity -----------------------------------------------------------------------------------


@pytest.fixture
def latent(smoke: Path) -> Path:
    """The smoke project with a suite of latent methods on 8x8 digits."""
    (smoke / "params/autoencoders/tiny.yaml").write_text(json.dumps(BLOCK))
    (smoke / "params/suites/tiny.yaml").write_text(
        "title: Tiny\ndataset: digits8\nnetwork: tiny8\ntraining: {images: 640, warmup: 5}\n"
        "sampling: {count: 128, steps: 6}\nevaluation: {kid_subsets: 2, kid_subset_size: 50, reference_limit: 130}\nexperiments:\n"
        "  ddpm: {method: ddpm}\n"
        "  fdm: {method: fdm-vqvae, overrides: {method: {transforms: [{kind: latent, autoencoder: tiny}]}}}\n"
        "  mixed: {method: fdm-vqvae, overrides: {method: {transforms: [{kind: resize}, {kind: latent, autoencoder: tiny}]}}}\n"
        "  ldm: {method: ldm-vqvae, overrides: {method: {autoencoder: tiny}}}\n"
    )
    return smoke


def test_names_become_blocks_and_overrides_reach_them(latent: Path) -> None:
    one = load_experiment("tiny:fdm", ["method.transforms.0.autoencoder.images=320"])
    block = one.method.transforms[0].autoencoder  # type: ignore[attr-defined]
    assert block.images == 320 and block.codebook == 32
    assert load_experiment("tiny:ldm", ["method.autoencoder.lr=0.5"]).method.autoencoder.lr == 0.5  # type: ignore[attr-defined]
    again = load_experiment("tiny:ldm", ["method.autoencoder=vae-f4"])
    assert again.method.autoencoder.kind == "vae"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("reference", "override", "words"),
    [
        ("tiny:ldm", "method.autoencoder=tni", "no such autoencoder file; did you mean 'tiny'"),
        ("tiny:ldm", "method.autoencoder.imges=3", "imges: unknown key; did you mean 'images'"),
        ("tiny:fdm", "method.transforms.0.autoencoder.factr=3", "factr: unknown key; did you mean 'factor'"),
        ("tiny:ldm", "method.autoencoder.factor=16", "8x8 pixels cannot be encoded with factor 16"),
        ("tiny:fdm", "method.transforms=[{kind: latent}]", "latent.autoencoder"),
    ],
)
def test_wrong_autoencoders_are_one_line(latent: Path, reference: str, override: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment(reference, [override])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_autoencoder_is_shared_and_part_of_the_identity(latent: Path) -> None:
    runs = {name: Run(experiment, 0) for name, experiment in load_suite("tiny").experiments.items()}
    assert runs["ddpm"].autoencoder is None and runs["ddpm"].pretrain() is None
    assert runs["fdm"].pretrain_identity == runs["ldm"].pretrain_identity != runs["mixed"].pretrain_identity
    assert Run(load_experiment("tiny:fdm"), 1).pretrain_identity != runs["fdm"].pretrain_identity
    longer = Run(load_experiment("tiny:fdm", ["training.images=128"]), 0)
    assert (
        longer.pretrain_identity == runs["fdm"].pretrain_identity
        and longer.train_identity != runs["fdm"].train_identity
    )
    other = Run(load_experiment("tiny:fdm", ["method.transforms.0.autoencoder.lr=0.1"]), 0)
    assert (
        other.pretrain_identity != runs["fdm"].pretrain_identity and other.train_identity != runs["fdm"].train_identity
    )
    assert pretraining_of(runs["mixed"].experiment).shape == (1, 4, 4)  # type: ignore[union-attr]
    assert identity(load_experiment("tiny:fdm").method) != identity(load_experiment("tiny:mixed").method)


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_which_images_are_kept_back_is_part_of_the_identity(
    monkeypatch: pytest.MonkeyPatch, latent: Path, splits: tuple[str, ...]
) -> None:
    """Where there is no test split, and some of the training images take its place."""
    data = Store(Path("data"), {"splits": dict.fromkeys(splits)}, "0")
    one = load_experiment("tiny:fdm")
    needed = pretraining_of(one)
    assert needed

    def own() -> str:
        return AutoencoderRun(one, needed, 0, lambda: data, torch.device("cpu")).identity

    before = own()
    monkeypatch.setattr("fdm.pretrained.HELD_OUT_EVERY", 10)
    assert (own() == before) is ("test" in splits)


@pytest.mark.parametrize("name", ["fdm", "mixed", "ldm"])
@pytest.mark.parametrize("flip", [False, True])
def test_known_latents_train_as_encoded_images_do(latent: Path, name: str, flip: bool) -> None:
    """Every stage, two micro-batches a step: the pairs that the network gets, for pixels and for looked-up latents."""
    one = load_experiment(
        f"tiny:{name}", [f"dataset.flip={flip}".lower(), "training.batch=16", "training.accumulate=2"]
    )
    pixels = torch.from_numpy(open_store(latent / "data/digits8").split("train").images[:300].copy())
    needed = build_process(one.method, 1, 8).pretraining()
    assert needed
    model = codec(needed.shape)
    calibration = build_process(one.method, 1, 8, codec=model).calibrate(to_float(pixels))
    fabric = Fabric(accelerator="cpu", devices=1)

    def process(codec: Codec) -> Process:
        return build_process(one.method, 1, 8, calibration, codec)

    known = KnownLatents(model, process(model).pretraining() or needed, pixels, flip, torch.device("cpu"), "latents")
    assert known.encoded == 300 * (1 + flip)
    plain = Trainer(one, 0, process(model), fabric)
    quick = Trainer(one, 0, process(known), fabric, latents=known)
    stages = set()
    for step in range(12):
        (stage, expected), (_, found) = plain.prepare(step, pixels), quick.prepare(step, pixels)
        stages.add(stage)
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b.example.z, a.example.z)
            torch.testing.assert_close(b.example.target, a.example.target)
    assert stages == set(range(len(plain.process.stages)))


def test_latents_are_made_once_where_that_is_less_work_and_little_memory() -> None:
    needed = build_process(staged(), 1, 8).pretraining()
    assert needed and needed.config.latent_shape(needed.shape) == (3, 4, 4)
    most = (1 << 30) // (4 * 3 * 4 * 4)
    assert worth_knowing(needed, 100, 101) and not worth_knowing(needed, 100, 100)
    assert worth_knowing(needed, most, 10 * most) and not worth_knowing(needed, most + 1, 10 * most)


def test_a_killed_training_on_known_latents_ends_in_the_same_weights(latent: Path, fdm: Command) -> None:
    changes = ["-o", "training.images=19200", "--threads", "1"]
    assert fdm("pretrain", "tiny:fdm").returncode == 0
    assert fdm("train", "tiny:fdm", "--to", "calm", *changes).returncode == 0
    done = next(Path("work").glob("train-*"))
    done.rename("calm-run")
    words = [sys.executable, "-m", "fdm", "train", "tiny:fdm", "--to", "rough", *changes]
    environment = {**os.environ, "FDM_CHECKPOINT_SECONDS": "0.1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    while not (done / "state.safetensors").exists():
        assert process.poll() is None
        sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    last = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert last.returncode == 0 and ": latents" in last.stderr, last.stderr
    calm, rough = load_file("calm/model.safetensors"), load_file("rough/model.safetensors")
    assert all(torch.equal(calm[key], rough[key]) for key in calm)
    assert json.loads(Path("rough/train.json").read_text())["encoded"] is not None


# --- commands -----------------------------------------------------------------------------------------------------


def test_training_asks_for_the_autoencoder(latent: Path, fdm: Command) -> None:
    result = fdm("train", "tiny:fdm", "--threads", "1")
    assert result.returncode == 1 and "run `fdm pretrain`" in result.stderr and "Traceback" not in result.stderr
    result = fdm("verify", "tiny:fdm")
    assert result.returncode == 1 and "this one has a learned transform" in result.stderr
    result = fdm("pretrain", "tiny:ddpm")
    assert result.returncode == 0 and "needs no autoencoder" in result.stderr


@pytest.mark.parametrize(("name", "epochs"), [("fdm", 0.5), ("mixed", 0.5), ("ldm", 0.5), ("fdm", 1.5), ("ldm", 1.5)])
def test_pretrain_train_sample_evaluate(latent: Path, name: str, epochs: float) -> None:
    target = Path("results/tiny") / name / "seed0"
    count = len(open_store(latent / "data/digits8").split("train").images)
    one = Run(load_experiment(f"tiny:{name}", [f"training.images={int(epochs * count)}"]), 0, "cpu", target)
    record = one.pretrain()
    assert record and record["metrics"]["count"] == 359
    metrics = record["metrics"]
    assert metrics["psnr"] > 7 and 0 < metrics["codebook_use"] <= 1 <= metrics["perplexity"] <= 32
    assert metrics["features"]["efficientnet-lite0"]["frechet_distance"] > 0
    trained = one.train()
    ratios = trained["calibration"].get("power_ratios", [])
    assert len(ratios) == {"fdm": 1, "mixed": 2, "ldm": 0}[name] and all(ratio > 0 for ratio in ratios)
    assert one.sample()
    samples = np.load(target / "samples.npy")
    assert samples.shape == (128, 1, 8, 8) and samples.dtype == np.uint8 and samples.std() > 0
    one.evaluate()
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["identities"]["pretrain"] == one.pretrain_identity == manifest["records"]["pretrain"]["identity"]
    cost = json.loads((target / "cost.json").read_text())
    encode, decode = cost["autoencoder"]["encode_flops"], cost["autoencoder"]["decode_flops"]
    assert decode > 0
    # Per training image and stage: the network forward and backward, and so many encodings and decodings. In more than one
    # epoch every image is encoded once and for all.
    passes = {"fdm": [(1, 1), (1, 0)], "mixed": [(0, 0), (1, 1), (1, 0)], "ldm": [(1, 0)]}[name]
    once = count if epochs > 1 else 0
    assert trained["encoded"] == (once or None)
    if once:
        passes = [(0, decodings) for _, decodings in passes]
    seen = [steps * one.experiment.training.batch for steps in trained["stage_steps"]]
    flops = [cost["flops_per_evaluation"][str(stage)] for stage in range(len(seen))]
    assert cost["training"]["flops"] == once * encode + sum(
        images * (3 * evaluation + encodings * encode + decodings * decode)
        for images, evaluation, (encodings, decodings) in zip(seen, flops, passes, strict=True)
    )
    before = (target / "autoencoder.safetensors").stat().st_mtime_ns
    assert one.pretrain() == record and (target / "autoencoder.safetensors").stat().st_mtime_ns == before
    # A clone with pulled results has no run store: the copies will do.
    (latent / "work").rename(latent / "gone")
    again = Run(one.experiment, 0, "cpu", target)
    network, loaded = again.model()
    assert torch.isfinite(loaded.finish(torch.zeros(2, *loaded.stages[0].shape))).all() and not network.training


def test_features_of_the_originals_are_computed_for_the_first_autoencoder_only(
    latent: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded, embed = [], features._embedded
    monkeypatch.setattr(features, "_embedded", lambda *given: embedded.append(len(given[1])) or embed(*given))
    one = load_experiment("tiny:fdm", ["method.transforms.0.autoencoder.images=320"])
    records = [Run(one, seed, "cpu").pretrain() for seed in (0, 1)]
    assert sum(embedded) == 3 * 359, "both sets of reconstructions, the originals once"
    distances = [
        record["metrics"]["features"]["efficientnet-lite0"]["frechet_distance"] for record in records if record
    ]
    assert len(set(distances)) == 2 and min(distances) > 0
    assert "score autoencoder of fdm seed 1: 100 % · 718/718 img" in capsys.readouterr().err
    assert not list(Path("work").glob("pretrain-*/features"))
