"""The whole family: what every method of params/methods has to satisfy. A new file there is covered with no change here."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY
from lightning_fabric import Fabric
from torch import Tensor

from fdm.config import SamplingConfig
from fdm.data import open_store, to_float
from fdm.evaluation.forward import write_forward
from fdm.evaluation.oracle import image_covariance, verify
from fdm.evaluation.verify import verification_process
from fdm.experiment import load_experiment, load_methods
from fdm.processes import Process, build_process
from fdm.report.extras import load_forward
from fdm.sampling.sampler import draw, network_denoiser
from fdm.sampling.solvers import build_solver
from fdm.training.autoencoder import AutoencoderTrainer
from fdm.training.loop import Trainer

METHODS = sorted(path.stem for path in (REPOSITORY / "params/methods").glob("*.yaml"))
SUITE = {
    "title": "Family",
    "dataset": "digits8",
    "network": "tiny8",
    "training": {"images": 6400, "batch": 32, "lr": 5e-3, "warmup": 5},
    "sampling": {"steps": 200, "clip": True},
    "experiments": {name: {"method": name} for name in METHODS},
}
TINY_AUTOENCODER = {"factor": 2, "width": 8, "codebook": 32, "images": 1920, "perceptual": 0.0}


@pytest.fixture
def family(smoke: Path) -> Path:
    """A project with 8x8 digits, a suite of all methods, and autoencoders that are tiny."""
    (smoke / "params/suites/family.yaml").write_text(yaml.safe_dump(SUITE))
    for path in (smoke / "params/autoencoders").glob("*.yaml"):
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **TINY_AUTOENCODER}))
    return smoke


def pixels(family: Path) -> Tensor:
    return torch.from_numpy(open_store(family / "data/digits8").split("train").images.copy())


def trainer(name: str, images: Tensor) -> Trainer:
    """Of a method on 8x8 digits, calibrated, with an autoencoder that has seen a few batches where it needs one."""
    experiment = load_experiment(f"family:{name}")
    codec = None
    needed = build_process(experiment.method, 1, 8).pretraining()
    if needed:
        autoencoder = AutoencoderTrainer(needed, 0, False, torch.device("cpu"))
        for step in range(autoencoder.config.steps):
            autoencoder.step(step, images)
        codec = autoencoder.model.eval().requires_grad_(False)
        codec.measure(needed.signal(to_float(images)))
    calibration = build_process(experiment.method, 1, 8, codec=codec).calibrate(to_float(images))
    process = build_process(experiment.method, 1, 8, calibration, codec)
    return Trainer(experiment, 0, process, Fabric(accelerator="cpu", devices=1))


@pytest.mark.parametrize("name", METHODS)
def test_the_law_of_samples_converges_or_owns_up_to_a_floor(project: Path, name: str) -> None:
    """For every solver E falls as 1/N to below 0.01 at N = 1000, faster where second order is claimed; or there is a floor.

    Which of the two is claimed by the process itself (``Process.exact``).
    """
    method = load_methods()[name]
    if not build_process(method, 1, 8).linear:
        return  # no closed form; the next test sees that it is said
    process = verification_process(name, method, 4, image_covariance(4, 1))
    solvers = [build_solver(SamplingConfig(solver=solver)) for solver in process.solvers]  # type: ignore[arg-type]
    found = dict(zip(solvers, verify(process, solvers, image_covariance(4, 1), (200, 1000)), strict=True))
    slowest = min(verdict.errors[1000] for solver, verdict in found.items() if solver.order == 1)
    for solver, verdict in found.items():
        early, late = verdict.errors.values()
        if not process.exact:
            assert verdict.floor is not None or late > early, solver.name
        else:
            assert verdict.floor is None and late <= 0.01, (solver.name, verdict)
            if solver.order == 1:
                assert verdict.start or verdict.order == pytest.approx(1, abs=0.1), (solver.name, verdict)
            else:
                assert late <= 1e-3 and late <= slowest / 2, (solver.name, verdict)


def test_one_table_of_all(project: Path, fdm: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Every method is in the table, once for each solver, or named as passed over with the reason; 80 columns hold it."""
    words = ["--steps", "4", "--steps", "8", "--side", "4", "--to", "table.json"]
    result = fdm("verify", "--all", *words, COLUMNS="80")
    assert result.returncode == 0, result.stderr
    linear = {name: build_process(method, 1, 8) for name, method in load_methods().items()}
    for name, process in linear.items():
        said = f"{name}: passed over: the closed-form oracle needs a linear process" in result.stderr
        assert said != process.linear, name
    rows = json.loads(Path("table.json").read_text())
    wanted = [(name, solver) for name, process in linear.items() if process.linear for solver in process.solvers]
    assert [(row["experiment"], row["solver"]) for row in rows] == wanted
    assert all(set(row["errors"]) == {"4", "8"} and row["verdict"] for row in rows)
    assert len(result.stdout.splitlines()) < len(wanted) + len(linear) + 8, "no row is broken in two"


@pytest.mark.parametrize("name", METHODS)
def test_a_few_hundred_steps_beat_predicting_the_mean_and_every_solver_samples(family: Path, name: str) -> None:
    """On real images; samples are finite, of the data's shape and near its range, with any weights and with trained ones.

    The report can read what evaluation says of the forward process.
    """
    images = pixels(family)
    one = trainer(name, images)
    wild = copy.deepcopy(one.network)
    for parameter in wild.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    assert check_samples(one.process, wild, images) < 10
    for step in range(one.config.steps):
        one.step(step, images)
    for part in one.prepare(0, images)[1]:
        assert torch.equal(one.process.training_times(part.t), part.t), (
            "the network is told other times than in sampling"
        )
    mine, constant = losses(one, images)
    assert mine < 0.98 * constant, (mine, constant)
    assert check_samples(one.process, one.network, images) < 4
    experiment = load_experiment(f"family:{name}")
    write_forward(family / "forward.npz", one.process, experiment.method, experiment.sampling, to_float(images[:8]))
    frames = load_forward(family / "forward.npz").frames
    assert len(frames) == 3 * sum(stage.length > 0 for stage in one.process.stages)


def losses(one: Trainer, images: Tensor) -> tuple[float, float]:
    """Mean losses of the network and of each stage's mean target, over stages as training draws them."""
    process: Process = one.process
    x = to_float(images[:512])
    mine = constant = 0.0
    for stage in process.stages:
        t = stage.start + stage.length * (torch.arange(len(x), dtype=torch.float64) + 0.5) / len(x)
        t = process.training_times(t[torch.randperm(len(x), generator=torch.Generator().manual_seed(2))])
        eps = torch.randn(len(x), *stage.shape, generator=torch.Generator().manual_seed(1))
        example = process.example(x, t, stage.index, eps)
        with torch.no_grad():
            output = one.network(example.z, t, stage.index)
        mean = example.target.mean(0, keepdim=True).expand_as(example.target)
        mine += stage.frequency * float(process.loss(output, example.target, example.weight))
        constant += stage.frequency * float(process.loss(mean, example.target, example.weight))
    return mine, constant


def check_samples(process: Process, network: torch.nn.Module, images: Tensor) -> float:
    """At every solver that the process has; returns the largest absolute value (predictions are clipped, a last step may deblur)."""
    process = process.at_steps(12)  # a network that belongs to more steps gives numbers all the same
    plan, denoise = process.plan(12), network_denoiser(network.eval(), "cpu")
    largest = 0.0
    for name in process.solvers:
        solver = build_solver(SamplingConfig(solver=name))  # type: ignore[arg-type]
        samples = draw(process, denoise, solver, plan, 0, range(4))
        assert samples.shape == (4, *images.shape[1:]) and torch.isfinite(samples).all(), name
        largest = max(largest, float(samples.abs().max()))
    return largest
