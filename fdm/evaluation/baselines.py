"""Restoration without a model of images beyond their second moments: bicubic interpolation and the Wiener filter."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fdm.operators import Separable

Images = Float[Tensor, "b c h w"]


def bicubic(y: Images, side: int) -> Images:
    """Pillow's bicubic interpolation (Keys 1981, a = -1/2) to ``side`` pixels, in floating point, nothing rounded."""
    planes = y.flatten(0, 1).float().cpu().numpy()
    resized = [Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC) for plane in planes]
    found = torch.from_numpy(np.stack([np.asarray(plane) for plane in resized]))
    return found.reshape(*y.shape[:2], side, side).to(y)


def wiener(operator: Separable, y: Images, train: Images, noise: float) -> Images:
    """The Wiener filter for y = f(x) + noise, with mean and spectrum estimated from training images.

    In the singular basis A = U diag(s) V^T of the operator (cosines, for a blur that reflects at the edge), coefficients are
    taken as uncorrelated: with mean m and variance S of each coefficient c of V^T x V and singular value s,
    c = m + s S / (s^2 S + noise) (U^T y U - s m). It is the best linear estimate where that holds.

    Args:
        train: images (N, C, H, W) of which the moments are taken, per channel.
        noise: variance of the noise per element, > 0.
    """
    left, values, right_t = torch.linalg.svd(operator.matrix)
    right = right_t.mT
    s = values[:, None] * values[None, :]
    coefficients = right.mT @ train.double() @ right
    mean, spectrum = coefficients.mean(dim=0), coefficients.var(dim=0, unbiased=False)
    gain = s * spectrum / (s.square() * spectrum + noise)
    c = mean + gain * (left.mT @ y.double().cpu() @ left - s * mean)
    return (right @ c @ right.mT).to(y)
