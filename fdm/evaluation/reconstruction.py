"""How well an autoencoder gives back images that it has not seen, and how much of its codebook it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fdm.config import FEATURES
from fdm.data import to_float, to_uint8
from fdm.evaluation import fidelity
from fdm.evaluation.features import Kept, Name, load
from fdm.evaluation.scores import frechet_distance
from fdm.networks.autoencoder import Autoencoder, Codebook
from fdm.progress import Progress


@dataclass(frozen=True)
class Reconstructions:
    """Images as bytes, before and after, (N, C, H, W)."""

    original: UInt8[np.ndarray, "n c h w"]
    decoded: UInt8[np.ndarray, "n c h w"]


def reconstruct(model: Autoencoder, x: Float[Tensor, "n c h w"]) -> Reconstructions:
    """g(f(x)) for signals x in [-1, 1], both rounded to bytes as any image is that leaves the program."""
    return Reconstructions(to_uint8(x).cpu().numpy(), to_uint8(model.decode(model.encode(x))).cpu().numpy())


def psnr(pair: Reconstructions) -> float:
    """Mean over images, dB."""
    original, decoded = (to_float(torch.from_numpy(images)).double() for images in (pair.original, pair.decoded))
    return float(fidelity.psnr(decoded, original).mean())


def codebook_scores(model: Autoencoder, x: Float[Tensor, "n c h w"]) -> dict[str, float]:
    """``codebook_use``: share of codes that occur at least once in x; ``perplexity``: exp(entropy); {} without a codebook."""
    if not isinstance(model.bottleneck, Codebook):
        return {}
    counts = torch.bincount(model.indices(x), minlength=len(model.bottleneck.codes)).double()
    share = counts / counts.sum()
    return {
        "codebook_use": float((counts > 0).double().mean()),
        "perplexity": float((-torch.xlogy(share, share).sum()).exp()),
    }


def feature_scores(
    names: Sequence[Name], original: Kept, decoded: Kept, device: str, title: str
) -> dict[str, dict[str, Any]]:
    """Fréchet distance between images and their reconstructions: ``rfid`` with Inception-v3, else ``frechet_distance``.

    null where there are too few images to fill a covariance; ``count`` of the record says how many there were.

    Args:
        names: feature networks.
        original: images, (N, C, H, W); all autoencoders of the same images find features of these in its folder.
        decoded: their reconstructions, in the same order.
        title: shown beside the progress.
    """
    enough = [name for name in names if len(original.images) > FEATURES[name]]
    images = len(original.images) + len(decoded.images)
    result: dict[str, dict[str, Any]] = {}
    with Progress(title, len(enough) * images, "img") as bar:
        for name in names:
            distance = None
            if name in enough:
                embed = load(name, device)
                fake, real = (
                    np.concatenate(kept.extract(name, embed, kept.share(0, 1), bar.advance))
                    for kept in (decoded, original)
                )
                distance = frechet_distance(fake, real)
            result[name] = {"rfid" if name == "inception-v3" else "frechet_distance": distance}
    return result
