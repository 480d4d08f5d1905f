"""Blurs against direct convolution, f-DM with blurs, and the network with several stages on one level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import fft
from torch import Tensor
from torch.nn.functional import conv2d

from fdm import operators
from fdm.config import NetworkConfig
from fdm.evaluation.oracle import image_covariance, relative_error, sample_covariance
from fdm.networks.unet import UNet
from fdm.processes import Prediction, build_process
from fdm.processes.blur_diffusion import Config as BlurConfig
from fdm.processes.blur_diffusion import build as build_blur
from fdm.processes.staged import Config, Staged
from fdm.sampling.solvers import Solver
from fdm.transforms import build_transform, parse_transform

F64 = torch.float64


def image(channels: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=F64)


def convolve(x: Tensor, kernel: np.ndarray, boundary: str) -> Tensor:
    """Plain two-dimensional convolution of every channel with the outer product of a kernel."""
    radius = len(kernel) // 2
    mode = "constant" if boundary == "zero" else "symmetric"
    padded = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), (radius, radius), (radius, radius)], mode=mode))
    weight = torch.from_numpy(np.outer(kernel, kernel))[None, None]
    return torch.stack([conv2d(padded[:, c : c + 1], weight)[:, 0] for c in range(x.shape[1])], 1)


@given(
    st.floats(0.3, 3),
    st.sampled_from(["zero", "reflect"]),
    st.sampled_from([1, 3]),
    st.integers(2, 9),
    st.integers(0, 99),
)
def test_gaussian_is_direct_convolution(width: float, boundary: Any, channels: int, side: int, seed: int) -> None:
    taps = np.arange(-40, 41)
    kernel = np.exp(-(taps**2) / (2 * width**2))
    x = image(channels, side, seed)
    found = operators.gaussian(side, width, boundary).apply(x)
    torch.testing.assert_close(found, convolve(x, kernel / kernel.sum(), boundary), rtol=0, atol=1e-12)


@given(st.sampled_from([1, 3, 5, 7]), st.sampled_from(["zero", "reflect"]), st.sampled_from([1, 3]), st.integers(2, 9))
def test_uniform_is_direct_convolution(width: int, boundary: Any, channels: int, side: int) -> None:
    x = image(channels, side)
    found = operators.uniform(side, width, boundary).apply(x)
    torch.testing.assert_close(found, convolve(x, np.full(width, 1 / width), boundary), rtol=0, atol=1e-12)


def test_uniform_of_any_width() -> None:
    """Where the box ends inside a pixel, so much of the pixel counts."""
    row = operators.uniform(9, 2.5).matrix[4]
    torch.testing.assert_close(row[2:7], torch.tensor([0, 0.3, 0.4, 0.3, 0], dtype=F64), rtol=0, atol=1e-15)
    with pytest.raises(ValueError, match="narrower than one pixel"):
        operators.uniform(8, 0.5)


@given(st.floats(0, 5), st.integers(2, 9), st.sampled_from([1, 3]))
def test_heat_is_a_multiplication_of_cosines(tau: float, side: int, channels: int) -> None:
    x = image(channels, side)
    k = math.pi * np.arange(side) / side
    decay = np.exp(-(k[:, None] ** 2 + k[None, :] ** 2) * tau)
    plain = fft.idctn(decay * fft.dctn(x.numpy(), axes=(2, 3), norm="ortho"), axes=(2, 3), norm="ortho")
    torch.testing.assert_close(operators.heat(side, tau).apply(x), torch.from_numpy(plain), rtol=0, atol=1e-12)
    factors = torch.exp(-operators.dct_frequencies(side) * tau)
    basis = operators.dct_basis(side)
    torch.testing.assert_close(basis.apply(factors * basis.adjoint(x)), torch.from_numpy(plain), rtol=0, atol=1e-12)
    twice = operators.heat(side, tau / 3) @ operators.heat(side, 2 * tau / 3)
    torch.testing.assert_close(twice.apply(x), torch.from_numpy(plain), rtol=0, atol=1e-12)


def test_reflecting_blurs_keep_constants_and_widths_compose() -> None:
    ones = torch.ones(1, 1, 9, 9, dtype=F64)
    for blur in (operators.gaussian(9, 1.3), operators.uniform(9, 4), operators.heat(9, 2.0)):
        torch.testing.assert_close(blur.apply(ones), ones, rtol=0, atol=1e-12)
    both = operators.gaussian(16, 1.0) @ operators.gaussian(16, 2.0)
    torch.testing.assert_close(both.matrix, operators.gaussian(16, math.sqrt(5)).matrix, rtol=0, atol=1e-7)


@given(st.floats(0.3, 1), st.sampled_from(["zero", "reflect"]), st.integers(2, 9), st.sampled_from([1, 3]))
def test_eigenbasis(width: float, boundary: Any, side: int, channels: int) -> None:
    """Orthonormal, and functions of the blur are functions of its eigenvalues: W^{1/2} twice is W."""
    blur = operators.gaussian(side, width, boundary)
    values, basis = operators.eigenbasis(blur)
    x = image(channels, side)
    torch.testing.assert_close(basis.apply(basis.adjoint(x)), x, rtol=0, atol=1e-12)
    root = values.clamp_min(0).sqrt()
    half = basis.apply(root * basis.adjoint(x))
    torch.testing.assert_close(basis.apply(root * basis.adjoint(half)), blur.apply(x), rtol=0, atol=1e-10)


def test_only_symmetric_operators_have_an_eigenbasis() -> None:
    with pytest.raises(ValueError, match="symmetric"):
        operators.eigenbasis(operators.bilinear_up(4, 2))
    with pytest.raises(ValueError, match="symmetric"):
        operators.eigenbasis(operators.Separable(torch.tensor([[1.0, 2.0], [0.0, 1.0]])))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_step_of_blur_diffusion_is_direct_convolution(channels: int) -> None:
    """The channel layout is where the published code went wrong (9.6 % off for three channels)."""
    process = build_blur(BlurConfig(process="blur-diffusion"), (channels, 16, 16))
    kernel = np.exp(-(np.arange(-15, 16) ** 2) / (2 * 0.4**2))
    x = image(channels, 16)
    found = process.filter(process.blur, x)
    torch.testing.assert_close(found, convolve(x, kernel / kernel.sum(), "zero"), rtol=0, atol=1e-12)
    single = process.filter(process.blur, x.float())
    torch.testing.assert_close(single.double(), found, rtol=0, atol=1e-6)


KERNELS: list[tuple[str, dict[str, Any]]] = [
    ("gaussian", {"kernel": "gaussian", "width": 1.0}),
    ("uniform", {"kernel": "uniform", "width": 3}),
    ("dct", {"kernel": "dct", "width": 1.0}),
]


def staged(side: int, channels: int, kernel: dict[str, Any], **keys: Any) -> Staged:
    transforms = [{"kind": "blur", **kernel}, {"kind": "blur", **kernel, "width": 2 * kernel["width"]}]
    process = build_process(Config(process="staged", transforms=transforms, **keys), channels, side)
    assert isinstance(process, Staged)
    return process


@pytest.mark.parametrize(("name", "kernel"), KERNELS)
def test_jumps_between_blurs_change_nothing(name: str, kernel: dict[str, Any]) -> None:
    process = staged(8, 3, kernel)
    assert process.power_ratios == [1.0, 1.0] and process.snr_ratio(1) == 1.0
    z = image(3, 8)
    for stage in (1, 2):
        assert process.exact_jump(stage)
        torch.testing.assert_close(
            process.jump(z, Prediction(z), stage, image(3, 8, 1)), z, rtol=0, atol=1e-12, msg=f"{name} {stage}"
        )
    clean = process.signals(z)
    assert [signal.shape for signal in clean] == [z.shape] * 3
    powers = [float(signal.square().mean()) for signal in clean]
    assert powers[0] > powers[1] > powers[2]


def test_blur_stages_with_second_order_steps_and_operator_prediction() -> None:
    covariance = image_covariance(8, 1)
    second = Solver("multistep2", eta=0.0, multistep=True, order=2)
    process = staged(8, 1, KERNELS[0][1])
    errors = [relative_error(sample_covariance(process, second, n, covariance), covariance) for n in (100, 400)]
    assert math.log(errors[0] / errors[1], 4) >= 1.6
    operator = staged(8, 1, KERNELS[0][1], predict="operator")
    other = relative_error(sample_covariance(operator, second, 100, covariance), covariance)
    assert other == pytest.approx(errors[0], rel=0.05)


@pytest.mark.parametrize("channels", [1, 3])
def test_stages_on_one_level_share_the_network(channels: int) -> None:
    """Outputs of 2C and C channels leave through one layer; every parameter receives a gradient."""
    process = staged(8, channels, KERNELS[0][1])
    assert [stage.outputs for stage in process.stages] == [2 * channels, 2 * channels, channels]
    network = UNet(NetworkConfig(channels=8, mult=(1, 2), blocks=1, attention=(4,), head_channels=8), 8, process.stages)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for stage in process.stages:
        output = network(torch.randn(2, *stage.shape), torch.rand(2), stage.index)
        assert output.shape == (2, stage.outputs, 8, 8)
        output.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"kernel": "uniform", "width": 0.5}, "at least one pixel"),
        ({"kernel": "dct", "width": 1, "boundary": "zero"}, "reflecting"),
        ({"kernel": "box", "width": 1}, "gaussian"),
        ({"width": 0}, "greater than 0"),
    ],
)
def test_bad_blurs(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_transform({"kind": "blur", **keys})


def test_blurs_need_square_images() -> None:
    with pytest.raises(ValueError, match="not square"):
        build_transform(parse_transform({"kind": "blur", "width": 1}), (1, 4, 8))
