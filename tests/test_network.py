"""The any-level U-Net: shapes, gradients everywhere, no work above the entry level, Flexi-style outputs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from fdm.config import NetworkConfig
from fdm.evaluation.cost import flops_per_evaluation
from fdm.networks.unet import UNet, check_levels
from fdm.processes import Process, Stage, build_process
from fdm.processes.staged import Config

SMALL = NetworkConfig(channels=8, mult=(1, 2, 2), blocks=1, attention=(4,), head_channels=8)


def process(stages: int, channels: int = 1) -> Process:
    config = Config(process="staged", transforms=[{"kind": "resize"}] * (stages - 1))
    return build_process(config, channels, 16)


def randomised(network: UNet) -> UNet:
    """Replace the zero initialisations, so that every path carries signal."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return network


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_shapes_and_gradients(stages: int, channels: int) -> None:
    p = process(stages, channels)
    network = randomised(UNet(SMALL, 16, p.stages))
    for stage in p.stages:
        output = network(torch.randn(2, *stage.shape), torch.rand(2), stage.index)
        assert output.shape == (2, stage.outputs, *stage.shape[1:])
        output.square().mean().backward()
    missing = [
        name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert missing == []


def test_coarse_stages_leave_finer_levels_alone() -> None:
    p = process(3)
    network = randomised(UNet(SMALL, 16, p.stages))
    network(torch.randn(2, 1, 4, 4), torch.rand(2), 2).square().mean().backward()
    touched = {
        name for name, parameter in network.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert not any(name.startswith(("levels.0", "levels.1", "input.0", "output.0", "upsample")) for name in touched)
    flops = flops_per_evaluation(network, p.stages)
    assert flops[0] > 1.5 * flops[1] > 2 * flops[2] > 0


def test_flops_are_those_of_the_convolutions() -> None:
    """One 3x3 convolution, counted by hand: 2 * 9 * inputs * outputs * pixels."""
    p = process(1)
    tiny = UNet(NetworkConfig(channels=8, mult=(1,), blocks=1), 16, p.stages)

    def conv(inputs: int, outputs: int, kernel: int = 3) -> int:
        return 2 * kernel**2 * inputs * outputs * 256

    by_hand = conv(1, 8) + conv(8, 1)
    by_hand += 3 * (conv(8, 8) + conv(8, 8))  # one block down, two in the middle
    by_hand += 2 * (conv(16, 8) + conv(8, 8) + conv(16, 8, 1))  # two blocks up, with skips
    linear = 2 * (8 * 32 + 32 * 32) + 5 * 2 * 32 * 16  # time embedding, five modulations
    assert flops_per_evaluation(tiny, p.stages)[0] == by_hand + linear


def test_an_output_may_be_finer_than_its_state() -> None:
    """As Scale Space Diffusion needs it: enter at 8 pixels, leave at 16, every parameter used."""
    base = process(1).stages[0]
    stages = (
        base,
        Stage(1, 0.5, 1.0, (1, 8, 8), 1, 16),
        Stage(2, 0.7, 1.0, (1, 4, 4), 1, 8),
    )
    network = randomised(UNet(SMALL, 16, stages))
    for stage in stages:
        output = network(torch.randn(2, *stage.shape), torch.rand(2), stage.index)
        assert output.shape[-1] == stage.output_resolution
        output.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_time_and_stage_matter() -> None:
    p = process(2)
    network = randomised(UNet(SMALL, 16, p.stages))
    z = torch.randn(1, 1, 16, 16)
    early, late = network(z, torch.tensor([0.1]), 0), network(z, torch.tensor([0.4]), 0)
    assert not torch.allclose(early, late)
    shared = tuple(dataclasses.replace(p.stages[0], index=k) for k in range(2))
    both = randomised(UNet(SMALL, 16, shared))
    assert not torch.allclose(both(z, torch.tensor([0.1]), 0), both(z, torch.tensor([0.1]), 1))


@pytest.mark.parametrize(
    ("resolution", "stages", "words"), [(16, 4, "2x2 pixels needs a network level"), (18, 1, "cannot be halved")]
)
def test_stages_that_no_level_serves(resolution: int, stages: int, words: str) -> None:
    config = Config(process="staged", transforms=[{"kind": "resize"}] * (stages - 1))
    with pytest.raises(ValueError, match=words):
        check_levels(SMALL, resolution, build_process(config, 1, resolution).stages)
