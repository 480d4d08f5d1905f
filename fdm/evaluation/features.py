"""Feature networks: uint8 images → float32 features, batch by batch; finished batches can be kept on disk.

Which layer, which input, and why: docs/metrics.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from fdm.errors import UserError
from fdm.evaluation.weights import efficientnet, inception_network, inception_weights
from fdm.shards import shard_range
from fdm.tensors import load_tensors, save_tensors

Name = Literal["efficientnet-lite0", "inception-v3", "inception-v3-clean"]
Embed = Callable[[Tensor], Tensor]

VERSION = 1  # of everything below that moves a feature by more than rounding: layer, input, weights; part of the cache's file names
BATCH = 50
LITE0_SIDE = 96  # pixels
LITE0_BLOCKS = 5  # of 7
FORMAT = torch.channels_last
"""Of Inception-v3's weights: 1.65 times as fast on a CPU, features change by 1e-6 of the largest."""


def load(name: Name, device: str) -> Embed:
    """Network ``name`` as a function of uint8 (B, 3, H, W) in 0..255, any size, to float32 (B, D), D as in ``fdm.config.FEATURES``.

    Raises:
        UserError: its weights are missing and cannot be fetched, or are not the right ones.
    """
    networks = {"efficientnet-lite0": _lite0, "inception-v3": _inception, "inception-v3-clean": _inception_clean}
    return networks[name](torch.device(device))


def extract(embed: Embed, images: UInt8[np.ndarray, "n c h w"]) -> Float32[np.ndarray, "n d"]:
    """Features of ``images`` in their order; one channel is repeated to three.

    Args:
        embed: what ``load`` returned.
        images: (N, C, H, W) with C 1 or 3; may be a memory map, it is read in batches of ``BATCH``.
    """
    return np.concatenate([_embedded(embed, images[b.start : b.stop]) for b in _batches(range(len(images)))])


@dataclass(frozen=True)
class Kept:
    """Images whose features are computed once: each batch is a file ``folder/<name>-<VERSION>/<start>-<stop>.safetensors``.

    The file names the sha256 of its images and of its features; one that is damaged or was made from others (another split or
    limit of the same data) is made again, alone.
    """

    images: UInt8[np.ndarray, "n c h w"]
    folder: Path

    def share(self, shard: int, shards: int) -> range:
        """Images of one shard: whole batches, so that their number changes no feature."""
        return shard_range(len(self.images), BATCH, shard, shards)

    def extract(
        self, name: Name, embed: Embed, wanted: range, advance: Callable[[int], object] | None = None
    ) -> list[Float32[np.ndarray, "b d"]]:
        """Features of the wanted images (a ``share``), a list of batches: read, or computed and written.

        Raises:
            UserError: the disk refuses.
        """
        rows = []
        for batch in _batches(wanted):
            path = self.folder / f"{name}-{VERSION}" / f"{batch.start:07d}-{batch.stop:07d}.safetensors"
            images = self.images[batch.start : batch.stop]
            source = _digest(images)
            features = _read(path, source)
            if features is None:
                features = _embedded(embed, images)
                _write(path, source, features)
            rows.append(features)
            if advance:
                advance(len(batch))
        return rows


def _batches(wanted: range) -> Iterator[range]:
    for start in range(wanted.start, wanted.stop, BATCH):
        yield range(start, min(start + BATCH, wanted.stop))


def _embedded(embed: Embed, images: UInt8[np.ndarray, "b c h w"]) -> Float32[np.ndarray, "b d"]:
    # TensorFloat-32 convolutions would make a score depend on the GPU's generation.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        features: np.ndarray = embed(torch.tensor(images).expand(-1, 3, -1, -1)).cpu().numpy()
    return features


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.shape}".encode() + array.tobytes()).hexdigest()


def _write(path: Path, source: str, features: np.ndarray) -> None:
    save_tensors(path, {"features": torch.from_numpy(features)}, {"identity": source})


def _read(path: Path, source: str) -> Float32[np.ndarray, "b d"] | None:
    try:
        features: np.ndarray = load_tensors(path, source)[0]["features"].numpy()
        return features
    except UserError:
        return None


def _lite0(device: torch.device) -> Embed:
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


def _inception(device: torch.device) -> Embed:
    """torch-fidelity's pipeline, TensorFlow's bilinear resizing to 299 px included."""
    network = inception_network(inception_weights()).to(device, memory_format=FORMAT)
    return lambda images: network(images.to(device))[0]


def _inception_clean(device: torch.device) -> Embed:
    """clean-fid's pipeline: each image resized by PIL (bicubic, antialiased, not rounded), then the same network.

    clean-fid's own network file is a TorchScript of the same weights; docs/metrics.md has the measured difference.
    """
    from cleanfid.resize import build_resizer

    network = inception_network(inception_weights())
    resize = build_resizer("clean")
    # torch-fidelity's forward() wants uint8 and resizes itself, so its layers are applied one after the other here.
    layers = nn.Sequential(*list(network.children())[:-1], nn.Flatten()).to(device).to(memory_format=FORMAT)

    def embed(images: Tensor) -> Tensor:
        resized = np.stack([resize(image) for image in images.permute(0, 2, 3, 1).numpy()])
        features: Tensor = layers((torch.from_numpy(resized).permute(0, 3, 1, 2).to(device) - 128) / 128)
        return features

    return embed
