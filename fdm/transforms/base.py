"""The interface of a transform pair x^{k} = f(x^{k-1}), x_hat^{k-1} = g(x^k)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Protocol

from pydantic import ValidationError
from torch import Tensor

from fdm.config import AutoencoderConfig, Frozen, nearest
from fdm.discover import plugins
from fdm.operators import Separable

Shape = tuple[int, int, int]


class Codec(Protocol):
    """A pretrained autoencoder as transforms use it (``fdm.networks.autoencoder`` is one)."""

    def encode(self, x: Tensor) -> Tensor:
        """Standardised latents of signals."""

    def decode(self, latents: Tensor) -> Tensor:
        """Signals of standardised latents."""


class Transform(ABC):
    """f and g between images of shape ``fine`` and signals of shape ``coarse`` (channels, height, width).

    Attributes:
        fine, coarse: shapes on the two sides.
        up: g as a separable operator, or None where g is not one (a learned decoder); exact jumps need it.
        down: f as a separable operator, or None where f is not one; restoration needs it.
        linear: whether f and g are linear, so that the oracle and `operator` prediction apply.
        power_ratio: gamma = P(g f x) / P(f x) where it is known in closed form, else None (measured on data).
        bounded: whether f keeps signals inside [-1, 1], so that predictions may be clipped there.
        autoencoder: what has to be pretrained and attached before f or g is called, or None.
    """

    fine: Shape
    coarse: Shape
    up: Separable | None = None
    down: Separable | None = None
    linear: bool = False
    power_ratio: float | None = None
    bounded: bool = True
    autoencoder: AutoencoderConfig | None = None

    def attach(self, codec: Codec) -> None:
        """Bring the pretrained autoencoder that ``autoencoder`` describes."""
        raise ValueError("this transform takes no autoencoder")

    @property
    def dimension_ratio(self) -> float:
        """d = dim x^{k-1} / dim x^k."""
        return math.prod(self.fine) / math.prod(self.coarse)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """f: (B, *fine) -> (B, *coarse)."""

    @abstractmethod
    def backward(self, y: Tensor) -> Tensor:
        """g: (B, *coarse) -> (B, *fine)."""


def parse_transform(raw: Any) -> Frozen:
    """Validate one entry of a method's ``transforms`` list with the ``Config`` of the file its ``kind`` names.

    Raises:
        ValueError: unknown kind, or a key that the transform does not have.
    """
    if isinstance(raw, Frozen):
        return raw
    known = plugins("transforms")
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"kind must be one of {', '.join(known)}, not {kind!r}{nearest(str(kind), known)}")
    model: type[Frozen] = known[kind].Config
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        hint = ""
        if first["type"] == "extra_forbidden":
            hint = f"{nearest(key, model.model_fields)}; allowed here: {', '.join(model.model_fields)}"
        raise ValueError(f"{kind}.{key}: {first['msg']}{hint}") from None


def build_transform(config: Frozen, fine: Shape) -> Transform:
    """The transform that ``config`` describes, for signals of shape ``fine``.

    Raises:
        ValueError: it does not fit that shape (a side that is not divisible, for example).
    """
    transform: Transform = plugins("transforms")[config.kind].build(config, fine)  # type: ignore[attr-defined]
    return transform
