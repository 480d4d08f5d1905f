"""Costs before a run: counted on the meta device, against torch's counter on real networks and against closed forms."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fdm.config import NetworkConfig
from fdm.errors import UserError
from fdm.evaluation.budget import Budget, budget_of, saved_numbers
from fdm.evaluation.cost import autoencoder_passes
from fdm.evaluation.cost_table import Rate, lines_of, print_cost, total_hours
from fdm.experiment import load_experiment, load_suite
from fdm.networks.autoencoder import Autoencoder
from fdm.networks.unet import UNet
from fdm.processes import Move, Stage, build_process

ATTENTIVE = ["network.attention=[4]", "network.blocks=2"]


@pytest.mark.parametrize("reference", ["smoke:ddpm", "smoke:fdm-ds-3", "scale-space:ssd", "blur:fdm-blur-g"])
def test_counts_are_those_of_a_real_network(project: Path, reference: str) -> None:
    """Meta device against CPU; forward times three against torch's count of a real forward and backward."""
    experiment = load_experiment(reference, ATTENTIVE)
    budget = budget_of(experiment)
    process = build_process(experiment.method, experiment.dataset.channels, experiment.dataset.resolution)
    network = UNet(experiment.network, experiment.dataset.resolution, process.stages)
    assert budget.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert sum(part.share for part in budget.stages) == pytest.approx(1)
    for part in budget.stages:
        z = torch.randn(1, *part.stage.shape)
        with FlopCounterMode(display=False) as counter:
            output = network(z, torch.rand(1), part.stage.index)
            assert counter.get_total_flops() == part.flops
            output.square().mean().backward()
        # Not exactly three times: nothing asks for the gradient of the first layer's input, and attention's backward computes
        # one of its products again.
        assert counter.get_total_flops() / part.flops == pytest.approx(3, rel=0.02)


def test_flops_of_a_convolution_and_of_attention_in_closed_form(project: Path) -> None:
    """2 k^2 C_in C_out pixels for a convolution; 2 (2 L^2 C) for L pixels that attend to each other."""
    plain, attentive = (
        budget_of(load_experiment("smoke:ddpm", [f"network.attention={sides}", "network.head_channels=8"]))
        for sides in ("[]", "[8]")
    )
    channels, pixels, places = 8, 64, 3  # one block down and two up at 8 pixels, each followed by attention
    projections = 2 * channels * 4 * channels * pixels  # q, k, v and out: 1x1 convolutions
    products = 2 * 2 * pixels**2 * channels
    assert attentive.stages[0].flops - plain.stages[0].flops == places * (projections + products)

    wide = budget_of(load_experiment("smoke:ddpm", ["dataset.channels=3"])).stages[0].flops
    grey = budget_of(load_experiment("smoke:ddpm")).stages[0].flops
    assert wide - grey == 2 * (2 * 9 * 2 * channels * pixels)  # two more channels in the first and the last convolution


def test_kept_numbers_are_what_a_real_forward_pass_keeps() -> None:
    """Attention is left out: the meta device has it in its plain form, which keeps more than a fused one."""
    stage = Stage(0, 0.0, 1.0, (1, 8, 8), 1, 8)
    config = NetworkConfig(channels=8, mult=(1, 2), blocks=1)
    with torch.device("meta"):
        meta = saved_numbers(UNet(config, 8, (stage,)), stage)
    assert meta == saved_numbers(UNet(config, 8, (stage,)), stage)

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, padding=1)

        def forward(self, z: torch.Tensor, t: torch.Tensor, stage: int) -> torch.Tensor:
            return self.conv(z).square()  # keeps z for the weights and the convolution's output for the square

    assert saved_numbers(cast(UNet, One()), stage) == 64 + 4 * 64


def test_evaluations_follow_the_spacing(project: Path) -> None:
    budgets = [
        budget_of(load_experiment("smoke:fdm-ds-3", ["sampling.steps=12", f"sampling.spacing={spacing}"]))
        for spacing in ("uniform", "cosine", "quadratic", "cubic")
    ]
    assert [[part.evaluations for part in budget.stages] for budget in budgets] == [
        [4, 4, 4],
        [4, 3, 5],
        [6, 3, 3],
        [7, 3, 2],
    ]


def test_totals_by_hand(project: Path) -> None:
    """fdm-ds-3: stages of equal length, six evaluations, two at each."""
    experiment = load_experiment("smoke:fdm-ds-3", ["training.images=1000", "training.batch=64"])
    budget = budget_of(experiment)
    flops = [part.flops for part in budget.stages]
    assert [part.evaluations for part in budget.stages] == [2, 2, 2]
    assert budget.flops_per_sample == 2 * sum(flops) and budget.sampling_flops == 256 * 2 * sum(flops)
    assert budget.training_flops == pytest.approx(1024 * sum(flops))  # 16 whole steps, three times forward, thirds
    saved = budget.stages[0].saved
    assert budget.memory_bytes == 20 * budget.parameters + 4 * 64 * saved

    half = budget_of(load_experiment("smoke:fdm-ds-3", ["training.precision=bf16", "training.accumulate=4"]))
    assert half.memory_bytes == 22 * half.parameters + 2 * 16 * saved
    assert half.training_flops == pytest.approx(1280 * sum(flops))


def _latent(name: str) -> Budget:
    return budget_of(load_experiment(f"latent:{name}"))


def test_passes_through_the_autoencoder(project: Path) -> None:
    """A moving stage before the latent encodes and decodes, the latent one encodes, a finer one does neither."""
    counts = {name: [(p.passes.encodings, p.passes.decodings) for p in _latent(name).stages] for name in NAMES}
    assert counts["fdm-vqvae"] == [(1, 1), (1, 0)]
    assert counts["fdm-ds-vqvae"] == [(0, 0), (1, 1), (1, 0)]
    assert counts["ldm-vqvae"] == [(1, 0)]
    assert counts["ddpm"] == [(0, 0)] and autoencoder_passes(load_experiment("latent:ddpm").method, 1, 32) == {}


NAMES = ("ddpm", "fdm-vqvae", "fdm-ds-vqvae", "ldm-vqvae")


def test_the_autoencoder_counts_in_training_and_once_in_a_sample(project: Path) -> None:
    budget = _latent("ldm-vqvae")
    (part,) = budget.stages
    needed = build_process(budget.experiment.method, 1, 32).pretraining()
    assert needed
    model = Autoencoder(needed.config, needed.shape)
    with FlopCounterMode(display=False) as encoding:
        model.encode(torch.zeros(1, *needed.shape))
    with FlopCounterMode(display=False) as decoding:
        model.decode(torch.zeros(1, *model.latent_shape))
    encode, decode = encoding.get_total_flops(), decoding.get_total_flops()
    assert encode > 0 and budget.training_flops == 24_000 * (3 * part.flops + encode)
    assert budget.flops_per_sample == 50 * part.flops + decode
    assert budget.autoencoder and budget.autoencoder.flops == 20_000 * 3 * (encode + decode)

    # Shared by two experiments, trained once.
    shared = lines_of([load_experiment(f"latent:{name}") for name in ("fdm-vqvae", "ldm-vqvae")], Rate())
    assert shared[0].pretraining == shared[1].pretraining > 0
    separately = sum(total_hours([line]) for line in shared)
    assert total_hours(shared) == pytest.approx(separately - shared[0].pretraining)


def test_hours_follow_from_the_assumed_rate(project: Path) -> None:
    experiment = load_experiment("smoke:ddpm")
    budget = budget_of(experiment)
    (line,) = lines_of([experiment], Rate(peak=2.0, utilisation=0.5))
    assert line.training == pytest.approx(budget.training_flops / 1e12 / 3600)
    assert line.sampling == pytest.approx(budget.sampling_flops / 1e12 / 3600)
    (default,) = lines_of([experiment], Rate())
    assert default.training == pytest.approx(line.training / (156 * 0.3))  # precision 32


def test_every_suite_has_a_cost(project: Path) -> None:
    """Also at 256x256 pixels: nothing is computed. A plan of another length than the budget's would show here."""
    out = io.StringIO()
    print_cost(None, (), Rate(), Console(file=out, width=200))
    for path in Path("params/suites").glob("*.yaml"):
        assert f" {path.stem} " in out.getvalue()
        for experiment in load_suite(path.stem).experiments.values():
            budget = budget_of(experiment)
            process = build_process(experiment.method, experiment.dataset.channels, experiment.dataset.resolution)
            moves = sum(isinstance(event, Move) for event in process.plan(experiment.sampling.steps))
            assert moves == experiment.sampling.steps
            assert sum(part.evaluations for part in budget.stages) == experiment.sampling.passes * moves
            assert 0 < budget.training_flops < 1e24 and budget.memory_bytes < 80e9  # one card of 80 GB


def test_the_command(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fdm.cli.inspection import show

    show("smoke:fdm-ds-3", cost=True, peak_tflops=0.5)
    said = capsys.readouterr().out
    assert "1×4×4" in said and "30% of 0.5 TFLOP/s" in said
    show("smoke", cost=True, measured=True, threads=1)
    said = capsys.readouterr().out
    assert "fdm-ds-3" in said and "timed on this machine's CPU with 1 threads" in said
    with pytest.raises(UserError, match="go with --cost"):
        show("smoke:ddpm", utilisation=0.5)
    with pytest.raises(UserError, match="--measured times this machine"):
        show("smoke", cost=True, measured=True, peak_tflops=1.0)
