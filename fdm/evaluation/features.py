"""Feature networks: uint8 images → float32 features, in batches; features of a reference set are kept in a cache.

Which layer, which input, and why: docs/metrics.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from fdm.errors import UserError
from fdm.evaluation.weights import efficientnet, inception_network, inception_weights
from fdm.training.checkpoint import load_tensors, save_tensors

Name = Literal["efficientnet-lite0", "inception-v3", "inception-v3-clean"]
Embed = Callable[[Tensor], Tensor]

DIMENSIONS: dict[Name, int] = {"efficientnet-lite0": 112, "inception-v3": 2048, "inception-v3-clean": 2048}
VERSION = 1  # of everything below that moves a feature: layer, input, weights; part of the cache's file names
BATCH = 50
LITE0_SIDE = 96  # pixels
LITE0_BLOCKS = 5  # of 7


def load(name: Name, downloads: Path, device: str) -> Embed:
    """Network ``name`` as a function of uint8 (B, 3, H, W) in 0..255, any size, to float32 (B, DIMENSIONS[name]).

    Raises:
        UserError: its weights are missing and cannot be fetched into ``downloads``, or are not the right ones.
    """
    return {"efficientnet-lite0": _lite0, "inception-v3": _inception, "inception-v3-clean": _inception_clean}[name](
        downloads, torch.device(device)
    )


def extract(
    embed: Embed, images: UInt8[np.ndarray, "n c h w"], advance: Callable[[int], object] | None = None
) -> Float32[np.ndarray, "n d"]:
    """Features of ``images`` in their order; one channel is repeated to three.

    Args:
        embed: what ``load`` returned.
        images: (N, C, H, W) with C 1 or 3; may be a memory map, it is read in batches of ``BATCH``.
        advance: called after every batch with the number of its images.
    """
    rows = []
    for start in range(0, len(images), BATCH):
        batch = torch.tensor(images[start : start + BATCH]).expand(-1, 3, -1, -1)
        # TensorFloat-32 convolutions would make a score depend on the GPU's generation.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            rows.append(embed(batch).cpu().numpy())
        if advance:
            advance(len(batch))
    return np.concatenate(rows)


def extract_cached(
    name: Name,
    embed: Embed,
    images: UInt8[np.ndarray, "n c h w"],
    digest: str,
    cache: Path,
    advance: Callable[[int], object] | None = None,
) -> Float32[np.ndarray, "n d"]:
    """``extract``, computed once and kept as ``cache/<digest>-<name>-<VERSION>.safetensors``.

    The file names the sha256 of the images that it was made from; one that is damaged or was made from others (another
    split or limit of the same data) is made again.
    """
    path = cache / f"{digest}-{name}-{VERSION}.safetensors"
    source = _digest(images)
    if (kept := _read(path, source)) is not None:
        if advance:
            advance(len(images))
        return kept
    features = extract(embed, images, advance)
    save_tensors(path, {"features": torch.from_numpy(features)}, {"identity": source})
    return features


def _read(path: Path, source: str) -> Float32[np.ndarray, "n d"] | None:
    try:
        features: np.ndarray = load_tensors(path, source)[0]["features"].numpy()
        return features
    except UserError:
        return None


def _digest(images: np.ndarray) -> str:
    digest = hashlib.sha256(str(images.shape).encode())
    for start in range(0, len(images), 1024):
        digest.update(np.ascontiguousarray(images[start : start + 1024]).data)
    return digest.hexdigest()


def _lite0(downloads: Path, device: torch.device) -> Embed:
    """Spatial mean of the fifth block stage of EfficientNet-Lite0 at 96 px; needs no download."""
    model = efficientnet()
    stages = list(model.blocks)[:LITE0_BLOCKS]
    layers = nn.Sequential(model.conv_stem, model.bn1, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(device)

    def embed(images: Tensor) -> Tensor:
        side = (LITE0_SIDE, LITE0_SIDE)
        resized = F.interpolate(images.to(device).float(), side, mode="bilinear", antialias=True, align_corners=False)
        features: Tensor = layers((resized - 127) / 128)
        return features

    return embed


def _inception(downloads: Path, device: torch.device) -> Embed:
    """torch-fidelity's pipeline, TensorFlow's bilinear resizing to 299 px included."""
    network = inception_network(inception_weights(downloads)).to(device)
    return lambda images: network(images.to(device))[0]


def _inception_clean(downloads: Path, device: torch.device) -> Embed:
    """clean-fid's pipeline: each image resized by PIL (bicubic, antialiased, not rounded), then the same network.

    clean-fid's own network file is a TorchScript of the same weights; docs/metrics.md has the measured difference.
    """
    from cleanfid.resize import build_resizer

    network = inception_network(inception_weights(downloads))
    resize = build_resizer("clean")
    # torch-fidelity's forward() wants uint8 and resizes itself, so its layers are applied one after the other here.
    layers = nn.Sequential(*list(network.children())[:-1], nn.Flatten()).to(device)

    def embed(images: Tensor) -> Tensor:
        resized = np.stack([resize(image) for image in images.permute(0, 2, 3, 1).numpy()])
        features: Tensor = layers((torch.from_numpy(resized).permute(0, 3, 1, 2).to(device) - 128) / 128)
        return features

    return embed
