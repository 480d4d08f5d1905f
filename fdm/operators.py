"""Separable linear operators X -> A X A^T, exact through one small singular value decomposition.

With A = U diag(s) V^T (s padded with zeros), any function of M^T M or M M^T of the two-dimensional operator M is two small
matrix products: h(M^T M) X = V [h(s_i^2 s_j^2) * (V^T X V)] V^T. Everything is built in float64 and applied in the dtype
of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy import fft
from torch import Tensor
from torch.nn.functional import interpolate

Images = Float[Tensor, "*batch n n"]
Spectrum = Callable[[Tensor], Tensor]
Boundary = Literal["zero", "reflect"]


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

    @cached_property
    def even(self) -> float | None:
        """The eigenvalue v where M stretches all that it keeps alike: M M^T = v I (or M^T M = v I, if M is tall); else None.

        Then M^T M = v P with a projection P, and h(M^T M) = h(0) I + (h(v) - h(0)) P needs no basis: ``apply`` and ``adjoint`` do.
        """
        values = self._svd[1]
        return self.norm_squared if math.isclose(float(values[-1]), float(values[0]), rel_tol=1e-12) else None

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

    def pseudo_inverse(self, y: Images, cutoff: float | None = None) -> Images:
        """M^+ y: (..., m, m) -> (..., n, n), the least-squares solution of least norm.

        Args:
            cutoff: singular values below this share of the largest count as zero; the default is what float64 resolves.
        """
        share = torch.finfo(torch.float64).eps * max(self.rows, self.columns) if cutoff is None else cutoff**2
        smallest = share * self.norm_squared

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
        if self.even is not None:
            return self._split(h, x, None if self.columns <= self.rows else lambda: self.adjoint(self.apply(x)))
        return self._spectral(h, x, "V", self.columns)

    def spread(self, h: Spectrum, noise: Images) -> Images:
        """V [h(s_i^2 s_j^2) * noise] V^T, shape (..., n, n): of covariance h^2(M^T M) for white noise.

        White noise stays white in the basis V, so that the first half of ``gram`` can be left out: two matrix products.
        An ``even`` M needs no basis at all.
        """
        if self.even is not None:
            return self.gram(h, noise)
        v = self._as("V", noise)
        return v @ (self._factors(h, self.columns, noise) * noise) @ v.mT

    def cogram(self, h: Spectrum, y: Images) -> Images:
        """h(M M^T) y, shape (..., m, m)."""
        if self.even is not None:
            return self._split(h, y, None if self.rows <= self.columns else lambda: self.apply(self.adjoint(y)))
        return self._spectral(h, y, "U", self.rows)

    def _split(self, h: Spectrum, x: Images, twice: Callable[[], Images] | None) -> Images:
        """h(v P) x for the eigenvalue v = ``even``; ``twice`` gives v P x, None stands for P = I."""
        assert self.even is not None
        outside, inside = h(torch.tensor([0.0, self.even], dtype=torch.float64)).tolist()
        if twice is None:
            return inside * x
        return outside * x + (inside - outside) / self.even * twice()

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


class Blocks(Separable):
    """Blocks of factor x factor pixels and their means: pooling and repetition in place of matrix products.

    Args:
        size: pixels a side on the coarse grid.
        factor: of the fine grid's side.
        down: whether M takes means; else it repeats.
    """

    def __init__(self, size: int, factor: int, down: bool) -> None:
        repeat = torch.eye(size, dtype=torch.float64).repeat_interleave(factor, 0)
        super().__init__(repeat.mT / factor if down else repeat)
        self.factor, self.down = factor, down

    def apply(self, x: Images) -> Images:
        return self._means(x) if self.down else self._repeated(x)

    def adjoint(self, y: Images) -> Images:
        return self._repeated(y) / self.factor**2 if self.down else self._means(y) * self.factor**2

    def _means(self, x: Images) -> Images:
        # Strided sums: twice as fast as avg_pool2d on a CPU.
        rows = sum(x[..., offset :: self.factor, :] for offset in range(self.factor))
        total: Tensor = sum(rows[..., offset :: self.factor] for offset in range(self.factor))  # type: ignore
        return total / self.factor**2

    def _repeated(self, x: Images) -> Images:
        return x.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


def box(size: int, factor: int) -> Separable:
    """Average pooling by ``factor``; M M^T = I / factor**2 in two dimensions."""
    _check(size, factor)
    return Blocks(size // factor, factor, down=True)


def nearest(size: int, factor: int) -> Separable:
    """Nearest-neighbour up-sampling of images of side ``size`` by ``factor``; ‖M‖² = factor**2."""
    return Blocks(size, factor, down=False)


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


def identity(size: int) -> Separable:
    """X -> X."""
    return Separable(torch.eye(size, dtype=torch.float64))


def gaussian(size: int, width: float, boundary: Boundary = "reflect") -> Separable:
    """Convolution with a sampled Gaussian of standard deviation ``width`` pixels; symmetric.

    Args:
        boundary: what lies beyond the edge: zeros, or the mirror image (edge pixels repeated), which keeps constants.
    """
    # At nine standard deviations a tap is below 1e-17 of the central one.
    radius = math.ceil(9 * width)
    taps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (taps / width).square())
    return _convolution(size, kernel / kernel.sum(), boundary)


def uniform(size: int, width: float, boundary: Boundary = "reflect") -> Separable:
    """Convolution with a box of ``width`` >= 1 pixels; symmetric. Where the box ends inside a pixel, so much of it counts."""
    if width < 1:
        raise ValueError(f"a box of {width} pixels is narrower than one pixel")
    half = (width - 1) / 2
    radius = math.ceil(half)
    taps = torch.arange(-radius, radius + 1, dtype=torch.float64).abs()
    return _convolution(size, (half + 1 - taps).clamp(0, 1) / width, boundary)


def dct_basis(size: int) -> Separable:
    """V of X = V c V^T, c the orthonormal cosine transform: ``apply`` makes images, ``adjoint`` coefficients."""
    return Separable(torch.from_numpy(fft.dct(np.eye(size), axis=0, norm="ortho")).mT)


def dct_frequencies(size: int) -> Float[Tensor, "n n"]:
    """(pi i / n)^2 + (pi j / n)^2: minus the Laplacian's eigenvalues, one for each coefficient of ``dct_basis``."""
    squared = (math.pi * torch.arange(size, dtype=torch.float64) / size).square()
    return squared[:, None] + squared[None, :]


def heat(size: int, tau: float) -> Separable:
    """The heat equation run for time tau >= 0: coefficient k of the cosine transform times exp(-(pi k / n)^2 tau).

    It is the Gaussian blur of variance 2 tau with reflecting boundary, for continuous images; times add exactly.
    """
    basis = dct_basis(size).matrix
    decay = torch.exp(-(math.pi * torch.arange(size, dtype=torch.float64) / size).square() * tau)
    return Separable(basis @ (decay[:, None] * basis.mT))


def eigenbasis(operator: Separable) -> tuple[Float[Tensor, "n n"], Separable]:
    """Eigenvalues (n, n) and orthonormal eigenvectors of the two-dimensional operator of a symmetric matrix.

    Raises:
        ValueError: the matrix is not symmetric.
    """
    matrix = operator.matrix
    if operator.rows != operator.columns or not torch.allclose(matrix, matrix.mT, rtol=0, atol=1e-12):
        raise ValueError("only a symmetric operator has an orthonormal eigenbasis")
    values, vectors = torch.linalg.eigh(matrix)
    return values[:, None] * values[None, :], Separable(vectors)


def _convolution(size: int, kernel: Float[Tensor, " taps"], boundary: Boundary) -> Separable:
    """The matrix of a one-dimensional convolution with a symmetric kernel of odd length."""
    radius = len(kernel) // 2
    row = torch.arange(size).repeat_interleave(len(kernel))
    column = row + torch.arange(-radius, radius + 1).repeat(size)
    weight = kernel.repeat(size)
    if boundary == "zero":
        inside = (column >= 0) & (column < size)
        row, column, weight = row[inside], column[inside], weight[inside]
    else:
        column = column % (2 * size)  # the mirrored image has period 2 n
        column = torch.minimum(column, 2 * size - 1 - column)
    return Separable(torch.zeros(size, size, dtype=torch.float64).index_put((row, column), weight, accumulate=True))


def _check(size: int, factor: int) -> None:
    if size % factor:
        raise ValueError(f"side {size} is not divisible by {factor}")
