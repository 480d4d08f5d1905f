"""Separable linear operators X -> A X A^T, exact through one small singular value decomposition.

With A = U diag(s) V^T (s padded with zeros), any function of M^T M or M M^T of the two-dimensional operator M is two small
matrix products: h(M^T M) X = V [h(s_i^2 s_j^2) * (V^T X V)] V^T. Everything is built in float64 and applied in the dtype
of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

Images = Float[Tensor, "*batch n n"]
Spectrum = Callable[[Tensor], Tensor]


class Separable:
    """The operator M: X -> A X A^T on square images, channel by channel.

    Args:
        matrix: A, shape (m, n), float64.
    """

    def __init__(self, matrix: Float[Tensor, "m n"]) -> None:
        self.matrix = matrix.detach().to(torch.float64)
        self.rows, self.columns = matrix.shape
        self._cast: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        left, values, right = torch.linalg.svd(self.matrix, full_matrices=True)
        return left, values, right.mT

    @property
    def norm_squared(self) -> float:
        """‖M‖², the largest eigenvalue of M M^T."""
        return float(self._svd[1][0]) ** 4

    def _as(self, name: str, like: Tensor) -> Tensor:
        key = (name, like.dtype, like.device)
        if key not in self._cast:
            left, _, right = self._svd if name in "UV" else (None, None, None)
            matrix = {"A": self.matrix, "U": left, "V": right}[name]
            assert matrix is not None
            self._cast[key] = matrix.to(dtype=like.dtype, device=like.device)
        return self._cast[key]

    def apply(self, x: Images) -> Images:
        """M x: (..., n, n) -> (..., m, m)."""
        a = self._as("A", x)
        return a @ x @ a.mT

    def adjoint(self, y: Images) -> Images:
        """M^T y: (..., m, m) -> (..., n, n)."""
        a = self._as("A", y)
        return a.mT @ y @ a

    def pseudo_inverse(self, y: Images) -> Images:
        """M^+ y: (..., m, m) -> (..., n, n), the least-squares solution of least norm."""
        smallest = torch.finfo(torch.float64).eps * max(self.rows, self.columns) * self.norm_squared

        def inverse(values: Tensor) -> Tensor:
            return torch.where(values > smallest, 1 / values.clamp_min(smallest), 0.0)

        return self.adjoint(self.cogram(inverse, y))

    def polar(self, x: Images) -> Images:
        """The isometry nearest to M, M (M^T M)^{-1/2}, for an injective M: (..., n, n) -> (..., m, m)."""
        u, v = self._as("U", x), self._as("V", x)
        a = u[:, : self.columns] @ v.mT
        return a @ x @ a.mT

    def gram(self, h: Spectrum, x: Images) -> Images:
        """h(M^T M) x, shape (..., n, n); ``h`` maps eigenvalues (float64 tensor) to factors, elementwise."""
        return self._spectral(h, x, "V", self.columns)

    def spread(self, h: Spectrum, noise: Images) -> Images:
        """V [h(s_i^2 s_j^2) * noise] V^T, shape (..., n, n): of covariance h^2(M^T M) for white noise.

        White noise stays white in the basis V, so that the first half of ``gram`` can be left out: two matrix products.
        """
        v = self._as("V", noise)
        return v @ (self._factors(h, self.columns, noise) * noise) @ v.mT

    def cogram(self, h: Spectrum, y: Images) -> Images:
        """h(M M^T) y, shape (..., m, m)."""
        return self._spectral(h, y, "U", self.rows)

    def _spectral(self, h: Spectrum, x: Images, basis: str, size: int) -> Images:
        b = self._as(basis, x)
        return b @ (self._factors(h, size, x) * (b.mT @ x @ b)) @ b.mT

    def _factors(self, h: Spectrum, size: int, like: Images) -> Images:
        values = torch.zeros(size, dtype=torch.float64)
        found = self._svd[1]
        values[: len(found)] = found.square()
        return h(values[:, None] * values[None, :]).to(dtype=like.dtype, device=like.device)

    def __matmul__(self, first: Separable) -> Separable:
        """Composition: (self @ first).apply(x) = self.apply(first.apply(x))."""
        return Separable(self.matrix @ first.matrix)


def box(size: int, factor: int) -> Separable:
    """Average pooling by ``factor``; M M^T = I / factor**2 in two dimensions."""
    _check(size, factor)
    return Separable(torch.eye(size // factor, dtype=torch.float64).repeat_interleave(factor, 1) / factor)


def nearest(size: int, factor: int) -> Separable:
    """Nearest-neighbour up-sampling of images of side ``size`` by ``factor``; ‖M‖² = factor**2."""
    return Separable(torch.eye(size, dtype=torch.float64).repeat_interleave(factor, 0))


def bilinear_down(size: int, factor: int) -> Separable:
    """Anti-aliased bilinear down-sampling by ``factor`` (triangle filter widened by the factor, edges renormalised)."""
    _check(size, factor)
    return _interpolation(size, size // factor, antialias=True)


def bilinear_up(size: int, factor: int) -> Separable:
    """Bilinear up-sampling of images of side ``size`` by ``factor`` (half-pixel centres, edges repeated)."""
    return _interpolation(size, size * factor, antialias=False)


def _interpolation(size: int, out: int, antialias: bool) -> Separable:
    identity = torch.eye(size, dtype=torch.float64)[None, None]
    columns = interpolate(identity, size=(out, size), mode="bilinear", antialias=antialias, align_corners=False)
    return Separable(columns[0, 0])


def _check(size: int, factor: int) -> None:
    if size % factor:
        raise ValueError(f"side {size} is not divisible by {factor}")
