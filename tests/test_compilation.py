"""The compiled network is the network: the same losses, weights and samples, one program for each stage."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from fdm.data import open_store
from fdm.errors import UserError
from fdm.experiment import load_experiment
from fdm.networks.build import build_network
from fdm.networks.compilation import compile_network
from fdm.processes import build_process
from fdm.sampling.sampler import class_denoiser, denoiser_of, draw
from fdm.sampling.shards import draw_shard
from fdm.sampling.solvers import build_solver
from fdm.training.loop import Trainer

SMALL = ("network.mult=[1, 1]", "network.blocks=1", "training.batch=8", "method.transforms=[{kind: resize}]")


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_compiled_training_and_sampling_are_those_of_the_plain_path(smoke: Path) -> None:
    pixels = torch.from_numpy(open_store(smoke / "data/digits8").split("train").images[:100].copy())
    torch._dynamo.reset()
    counters.clear()
    results = []
    for compiled in ("false", "true"):
        overrides = [*SMALL, f"training.compile={compiled}", f"sampling.compile={compiled}", "sampling.steps=4"]
        experiment = load_experiment("smoke:fdm-ds-3", overrides)
        process = build_process(experiment.method, 1, 8)
        one = Trainer(experiment, 0, process, Fabric(accelerator="cpu", devices=1))
        steps = [one.step(step, pixels) for step in range(8)]
        assert {stage for stage, _, _ in steps} == {0, 1}
        network = one.average.eval()
        denoise = denoiser_of(experiment, network, torch.device("cpu"))(range(4))
        plan, solver = process.plan(4), build_solver(experiment.sampling)
        samples = draw(process, denoise, solver, plan, 0, range(4))
        results.append((torch.stack([loss for _, loss, _ in steps]), one.network.state_dict(), samples))
        programs = counters["stats"]["unique_graphs"]
        assert programs == (4 if compiled == "true" else 0)  # two stages in training, two in sampling
    (plain, weights, images), (losses, others, drawn) = results
    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=1e-5)
    assert list(weights) == list(others)
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn, images, rtol=1e-4, atol=1e-3)
    assert images.std() > 0.1


def test_the_trajectory_needs_no_programs_of_its_own(smoke: Path) -> None:
    experiment = load_experiment(
        "smoke:fdm-ds-3", [*SMALL, "sampling.compile=true", "sampling.count=16", "sampling.batch=16"]
    )
    process = build_process(experiment.method, 1, 8)
    network = build_network(experiment.network, 8, process, 0).eval()
    batches: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        batches.append(len(next(x for x in inputs if x.ndim == 4 and x.shape[-1] in (8, 4) and x.shape[1] == 1)))
        return graph.forward

    torch._dynamo.reset()
    network.compile(backend=backend, dynamic=False)
    denoiser = class_denoiser(network, "cpu", (), 1.0)
    draw_shard(process, denoiser, experiment.sampling, 0, range(16), smoke, torch.device("cpu"), "compiled")
    assert batches == [16, 16]  # one of each stage
    assert (smoke / "trajectory.npz").exists()


def test_outputs_that_share_memory_change_nothing(smoke: Path) -> None:
    """As those of CUDA graphs do; the second-order solver keeps a prediction over the next call."""
    experiment = load_experiment("smoke:ddpm", ["sampling.solver=multistep2", "method.target=x"])
    process = build_process(experiment.method, 1, 8)
    memory = torch.zeros(4, 1, 8, 8)

    class Stub(torch.nn.Module):
        def __init__(self, shared: bool) -> None:
            super().__init__()
            self.shared = shared

        def forward(self, z: torch.Tensor, t: torch.Tensor, stage: int) -> torch.Tensor:
            output = torch.tanh(3 * z) * t[0]
            return memory.copy_(output) if self.shared else output

    plan, solver = process.plan(6), build_solver(experiment.sampling)
    drawn = []
    for shared in (False, True):
        denoise = denoiser_of(experiment, Stub(shared), torch.device("cpu"))(range(4))
        drawn.append(draw(process, denoise, solver, plan, 0, range(4), clip=False))
    assert torch.equal(*drawn)


def test_without_a_compiler_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler"):
        compile_network(torch.nn.Linear(1, 1), graphs=False)


def test_without_headers_of_python_it_is_one_line_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(tmp_path))
    with FakeTensorMode():
        there = torch.nn.Linear(1, 1, device="cuda")
    with pytest.raises(UserError, match=f"needs {tmp_path}/Python.h; install"):
        compile_network(there, graphs=True)
    compile_network(torch.nn.Linear(1, 1), graphs=True)
