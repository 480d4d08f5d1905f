"""Operators against dense linear algebra and torch's own pooling and interpolation, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d, interpolate

from fdm import operators
from fdm.operators import Separable
from fdm.processes.levels import down_sampling

# At most 12 pixels a side: the dense matrices below have side**2 rows.
resizings = st.one_of(
    st.builds(
        lambda make, size, factor: make(size * factor, factor),
        st.sampled_from([operators.box, operators.bilinear_down]),
        st.integers(1, 3),
        st.integers(2, 4),
    ),
    st.builds(
        lambda make, size, factor: make(size, factor),
        st.sampled_from([operators.nearest, operators.bilinear_up]),
        st.integers(1, 3),
        st.integers(2, 4),
    ),
    st.builds(
        lambda operator, sizes: down_sampling(operator, sum(sizes), sizes[0]),
        st.sampled_from(["box", "bilinear"]),
        st.tuples(st.integers(1, 5), st.integers(1, 5)),
    ),
)
blurs = st.one_of(
    st.builds(
        lambda make, size, width, boundary: make(size, width, boundary),
        st.sampled_from([operators.gaussian, operators.uniform]),
        st.integers(2, 8),
        st.floats(1, 3),
        st.sampled_from(["zero", "reflect"]),
    ),
    st.builds(operators.heat, st.integers(2, 8), st.floats(0, 0.5)),
)
any_operator = st.one_of(resizings, blurs)


def dense(operator: Separable) -> torch.Tensor:
    """M as one (rows**2, columns**2) matrix on row-major pixels."""
    return torch.kron(operator.matrix, operator.matrix)


def image(side: int, seed: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flat(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(-2).mT


@given(any_operator, st.integers(0, 1000))
def test_apply_and_adjoint_are_the_dense_matrix_and_its_transpose(operator: Separable, seed: int) -> None:
    x, y = image(operator.columns, seed), image(operator.rows, seed + 1)
    torch.testing.assert_close(flat(operator.apply(x)), dense(operator) @ flat(x), rtol=0, atol=1e-10)
    assert torch.allclose((operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum(), rtol=0, atol=1e-10)


@given(any_operator, st.integers(0, 1000))
def test_functions_of_the_gram_matrices(operator: Separable, seed: int) -> None:
    m = dense(operator)
    x, y = image(operator.columns, seed), image(operator.rows, seed)
    for found, matrix, v in (
        (operator.gram(lambda s: (2 + s).sqrt(), x), m.mT @ m, x),
        (operator.cogram(lambda s: (2 + s).sqrt(), y), m @ m.mT, y),
    ):
        values, vectors = torch.linalg.eigh(matrix)
        root = vectors @ ((2 + values.clamp_min(0)).sqrt()[:, None] * vectors.mT)
        torch.testing.assert_close(flat(found), root @ flat(v), rtol=0, atol=1e-10)


@given(resizings)  # blurs have no inverse to speak of
def test_norm_and_pseudo_inverse(operator: Separable) -> None:
    m = dense(operator)
    assert operator.norm_squared == pytest.approx(float(torch.linalg.matrix_norm(m, 2)) ** 2, rel=1e-12)
    y = image(operator.rows, 0)
    torch.testing.assert_close(flat(operator.pseudo_inverse(y)), torch.linalg.pinv(m) @ flat(y), rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", [operators.nearest, operators.bilinear_up])
def test_polar_factor_is_the_isometry_of_the_polar_decomposition(make: Callable[[int, int], Separable]) -> None:
    operator = make(4, 2)
    m = dense(operator)
    x = image(4, 3)
    values, vectors = torch.linalg.eigh(m.mT @ m)
    isometry = m @ vectors @ (values.rsqrt()[:, None] * vectors.mT)
    torch.testing.assert_close(flat(operator.polar(x)), isometry @ flat(x), rtol=0, atol=1e-10)
    assert torch.allclose(operator.polar(x).square().sum(), x.square().sum())


@given(st.integers(1, 6), st.integers(2, 4))
def test_they_are_what_their_names_say(size: int, factor: int) -> None:
    x, y = image(size * factor, 1), image(size, 2)
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(operators.box(size * factor, factor).apply(x), avg_pool2d(x, factor), **close)
    torch.testing.assert_close(operators.nearest(size, factor).apply(y), interpolate(y, scale_factor=factor), **close)
    down = interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(operators.bilinear_down(size * factor, factor).apply(x), down, **close)
    up = interpolate(y, scale_factor=factor, mode="bilinear")
    torch.testing.assert_close(operators.bilinear_up(size, factor).apply(y), up, **close)


def test_box_spreads_energy_evenly() -> None:
    """M M^T = I / 4: the reason why d = 4 is the critical rescaling of 2x down-sampling."""
    m = dense(operators.box(8, 2))
    torch.testing.assert_close(m @ m.mT, torch.eye(16, dtype=torch.float64) / 4, rtol=0, atol=1e-14)
    assert operators.nearest(4, 2).norm_squared == pytest.approx(4, rel=1e-12)
    assert operators.bilinear_up(4, 2).norm_squared == pytest.approx(4, rel=1e-12)


@given(any_operator, st.integers(0, 1000))
def test_white_noise_is_spread_to_the_covariance(operator: Separable, seed: int) -> None:
    """R R^T = h^2(M^T M) for h = sqrt(1 - M^T M / ||M||^2), from the response to every coordinate of the noise."""
    m, n = dense(operator), operator.columns
    basis = torch.eye(n * n, dtype=torch.float64).reshape(n * n, 1, n, n)
    root = operator.spread(lambda s: (1 - s / operator.norm_squared).clamp_min(0).sqrt(), basis).flatten(1).mT
    wanted = torch.eye(n * n, dtype=torch.float64) - m.mT @ m / operator.norm_squared
    torch.testing.assert_close(root @ root.mT, wanted, rtol=0, atol=1e-10)
    gram, cogram = m.mT @ m, m @ m.mT
    smaller = gram if len(gram) <= len(cogram) else cogram
    even = torch.dist(smaller, torch.eye(len(smaller), dtype=torch.float64) * operator.norm_squared) < 1e-10
    assert (operator.even is not None) == bool(even)


def test_composition() -> None:
    first, second = operators.box(12, 2), operators.box(6, 3)
    x = image(12, 0)
    torch.testing.assert_close((second @ first).apply(x), second.apply(first.apply(x)))


def test_a_side_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="7 is not divisible by 2"):
        operators.box(7, 2)
