"""How close restored images are to the truth, and how consistent with the measurement: one number per image, then intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import bootstrap
from torch import Tensor
from torch.nn.functional import conv2d

from fdm.evaluation.lpips import SMALLEST, Lpips
from fdm.operators import Separable

Images = Float[Tensor, "b c h w"]
Scores = dict[str, np.ndarray]

RESAMPLES = 2000
WINDOW, DEVIATION = 11, 1.5


def psnr(x: Images, truth: Images) -> Float[Tensor, " b"]:
    """10 log10(2^2 / mean squared error) of images in [-1, 1], dB; an exact image counts as an error of 1e-10."""
    return 10 * torch.log10(4 / (x - truth).square().mean(dim=(1, 2, 3)).clamp_min(1e-10))


def ssim(x: Images, truth: Images) -> Float[Tensor, " b"]:
    """Structural similarity of images in [-1, 1]: Wang et al. 2004, an 11 x 11 Gaussian window of deviation 1.5, K = 0.01 and 0.03.

    On the scale from 0 to 1, which the luminance term depends on. Means over all places where the window fits, and over
    channels. Images of less than 11 pixels are taken with the largest odd window that fits. Written here because no
    dependency has it.
    """
    x, truth = (x + 1) / 2, (truth + 1) / 2
    size = min(WINDOW, (x.shape[-1] - 1) // 2 * 2 + 1)
    taps = torch.exp(-0.5 * ((torch.arange(size, dtype=x.dtype, device=x.device) - size // 2) / DEVIATION).square())
    kernel = (taps[:, None] * taps[None, :] / taps.sum() ** 2)[None, None]

    def mean(image: Tensor) -> Tensor:
        return conv2d(image.flatten(0, 1).unsqueeze(1), kernel)

    c1, c2 = 0.01**2, 0.03**2
    a, b = mean(x), mean(truth)
    aa, bb, ab = mean(x * x) - a * a, mean(truth * truth) - b * b, mean(x * truth) - a * b
    index = (2 * a * b + c1) * (2 * ab + c2) / ((a * a + b * b + c1) * (aa + bb + c2))
    return index.mean(dim=(1, 2, 3)).reshape(x.shape[:2]).mean(dim=1)


def consistency(operator: Separable, x: Images, y: Images) -> Float[Tensor, " b"]:
    """Root mean square of f(x) - y per element, of x as it is: not clamped, not rounded."""
    return (operator.apply(x.double()) - y.double()).square().mean(dim=(1, 2, 3)).sqrt()


def scores(x: Images, truth: Images, operator: Separable, y: Images, lpips: Lpips | None) -> Scores:
    """``psnr``, ``ssim`` and ``lpips`` of x clamped to [-1, 1], ``consistency`` of x itself; each (B,).

    LPIPS is left out where there is no network, or where the images are smaller than its smallest.
    """
    shown = x.clamp(-1, 1)
    found = {"psnr": psnr(shown.double(), truth.double()), "ssim": ssim(shown.double(), truth.double())}
    if lpips is not None and x.shape[-1] >= SMALLEST:
        found["lpips"] = lpips(shown.float(), truth.float())
    found["consistency"] = consistency(operator, x, y)
    return {name: values.double().cpu().numpy() for name, values in found.items()}


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean over images with its 95 % percentile bootstrap interval (2,000 resamples, fixed seed)."""
    mean = float(values.mean())
    if len(values) < 2 or np.ptp(values) == 0:
        return {"mean": mean, "low": mean, "high": mean}
    found = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return {"mean": mean, "low": float(found.low), "high": float(found.high)}


def summarise(scored: Mapping[str, Scores], reference: str) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """For every method the interval of every score; and of its difference to ``reference``, image by image."""
    return {
        "scores": {method: {name: interval(values) for name, values in own.items()} for method, own in scored.items()},
        "against_" + reference: {
            method: {name: interval(values - scored[reference][name]) for name, values in own.items()}
            for method, own in scored.items()
            if method != reference
        },
    }
