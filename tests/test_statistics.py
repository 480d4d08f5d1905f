"""Statistics of features: however they are cut and merged, those of all at once, and torch-fidelity's distance."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import from_numpy
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from fdm.evaluation import statistics
from fdm.evaluation.scores import frechet_distance
from fdm.evaluation.statistics import Statistics, statistics_of


def reference(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased covariance in extended precision, two plain passes."""
    wide = features.astype(np.longdouble)
    mean = wide.mean(axis=0)
    return mean, np.einsum("ni,nj->ij", wide - mean, wide - mean) / (len(wide) - 1)


def assert_equal(found: Statistics, features: np.ndarray) -> None:
    """To 1e-10, relative to the largest entry."""
    mean, covariance = reference(features)
    assert found.count == len(features)
    assert found.mean.dtype == found.scatter.dtype == np.float64
    assert np.abs(found.mean - mean).max() <= 1e-10 * np.abs(mean).max()
    assert np.abs(found.covariance - covariance).max() <= 1e-10 * np.abs(covariance).max()


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=9),
    order=st.randoms(use_true_random=False),
    offset=st.sampled_from([0.0, 1.0, 1e3, 1e5]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_any_partition_merged_in_any_order_is_the_whole(seed, sizes, order, offset, scale) -> None:  # type: ignore[no-untyped-def]
    """Also where the mean is so far off that sums of squares would keep nothing of the covariance."""
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((5, 5)) * scale
    features = (generator.standard_normal((sum(sizes), 5)) + offset) @ mixing
    parts = [statistics_of(part) for part in np.split(features, np.cumsum(sizes)[:-1])]
    order.shuffle(parts)
    assert_equal(reduce(Statistics.__add__, parts), features)
    assert_equal(statistics_of(features), features)


@pytest.mark.parametrize("count", [7, 8, 20, 1])
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    features = np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32)
    whole = statistics_of(features)
    monkeypatch.setattr(statistics, "BLOCK", 4)
    cut = statistics_of(features)
    assert cut.count == whole.count == count
    np.testing.assert_allclose(cut.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(cut.scatter, whole.scatter, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dead", [0, 10])
def test_the_distance_is_that_of_torch_fidelity_from_features(dead: int) -> None:
    generator = np.random.default_rng(dead)
    mixing = generator.standard_normal((64, 64)) / 8
    first, second = (
        (np.maximum(generator.standard_normal((count, 64)) @ mixing + shift, 0)).astype(np.float32)
        for count, shift in ((1500, 0.2), (2100, 0.4))
    )
    first[:, :dead] = second[:, :dead] = 0
    ours = [from_numpy(features.astype(np.float64)) for features in (first, second)]
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, ours), verbose=False)[KEY_METRIC_FID]
    assert theirs > 0.1
    assert frechet_distance(first, second) == pytest.approx(theirs, rel=1e-10)
