"""FID and its relatives, KID, precision and recall: the formulas are torch-fidelity's and clean-fid's, not ours.

Here: which features go in, in float64, and when there are too few samples for the number to mean anything.
What each score is, and its limits: docs/metrics.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from fdm.config import EvaluationConfig
from fdm.errors import UserError
from fdm.evaluation.features import Embed, Kept, Name, load

Features = Float[np.ndarray, "n d"]
Advance = Callable[[int], object]
"""Called with how many more images have passed through a network."""


def workload(samples: Kept, reference: Kept, config: EvaluationConfig, shard: int = 0, shards: int = 1) -> int:
    """What ``score``, or ``extract_shard`` of one of several shards, advances by in all: images, once for every pass."""
    return len(_passes(config)) * sum(len(kept.share(shard, shards)) for kept in (samples, reference))


def extract_shard(
    samples: Kept,
    reference: Kept,
    config: EvaluationConfig,
    shard: int,
    shards: int,
    device: str = "cpu",
    advance: Advance | None = None,
) -> None:
    """Put the features of shard ``shard`` of ``shards`` (from 0) where ``score`` finds them; see there.

    Every image is in one shard, and ``score`` makes what is missing, so scores do not depend on the number of shards.
    """
    _check(samples, reference, config)
    for name in _passes(config):
        embed = _network(name, device)
        for kept in (samples, reference):
            kept.extract(name, embed, kept.share(shard, shards), advance)


def score(
    samples: Kept,
    reference: Kept,
    config: EvaluationConfig,
    device: str = "cpu",
    advance: Advance | None = None,
) -> dict[str, dict[str, float]]:
    """Every score of ``metrics.json`` for every network of ``config.features``.

    Args:
        samples: generated images, (N, C, H, W), C 1 or 3, values 0..255.
        reference: real images of the same C, H, W, already cut to ``config.reference_limit``; may be a memory map.
        device: where the networks run, ``cpu`` or ``cuda``; the statistics are always float64 on the CPU.
        advance: an image counts once for every pass through a network; ``workload`` is the sum.

    Returns:
        ``{<network>: {<score>: value}}`` with ``fid``, ``fid_se`` and (``config.clean``) ``fid_clean`` for ``inception-v3``,
        ``frechet_distance`` and ``frechet_distance_se`` for any other network, and ``kid_mean``, ``kid_std``, ``precision``,
        ``recall`` for both.

    Raises:
        UserError: images do not fit together, there are too few of them, or weights cannot be had. Counts are checked
            before any network runs.
    """
    _check(samples, reference, config)

    def both(name: Name) -> tuple[Features, Features]:
        embed = _network(name, device)
        real, fake = (
            np.concatenate(kept.extract(name, embed, kept.share(0, 1), advance)) for kept in (reference, samples)
        )
        return fake, real

    result: dict[str, dict[str, float]] = {}
    for name in config.features:
        fake, real = both(name)
        distance = "fid" if name == "inception-v3" else "frechet_distance"
        scores = {distance: frechet_distance(fake, real), f"{distance}_se": frechet_standard_error(fake, real)}
        if name == "inception-v3" and config.clean:
            scores["fid_clean"] = frechet_distance_clean(*both("inception-v3-clean"))
        result[name] = scores | kernel_distance(fake, real, config) | precision_recall(fake, real, config)
    return result


def _check(samples: Kept, reference: Kept, config: EvaluationConfig) -> None:
    check_images(samples.images, reference.images)
    least, why = config.least
    for what, kept, key in (
        ("samples", samples, "sampling.count"),
        ("reference images", reference, "evaluation.reference_limit"),
    ):
        if len(kept.images) < least:
            raise UserError(
                f"{len(kept.images)} {what} are too few to be scored; {why} needs {least}: raise {key} or change that setting"
            )


def _passes(config: EvaluationConfig) -> list[Name]:
    clean: list[Name] = ["inception-v3-clean"] if config.clean and "inception-v3" in config.features else []
    return [*config.features, *clean]


def _network(name: Name, device: str) -> Embed:
    """Loaded at its first batch: where all features are there already, no weights are needed."""
    loaded = cache(lambda: load(name, device))
    return lambda images: loaded()(images)


def frechet_distance(a: Features, b: Features) -> float:
    """torch-fidelity's Fréchet distance between Gaussians fitted to two sets of features, (N, D) and (M, D)."""
    first, second = ({"mu": mean, "sigma": covariance} for mean, covariance in map(_moments, (a, b)))
    return float(fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID])


def frechet_distance_clean(a: Features, b: Features) -> float:
    """clean-fid's Fréchet distance between Gaussians fitted to two sets of features, (N, D) and (M, D)."""
    from cleanfid.fid import frechet_distance as distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sqrtm's deprecated argument, and its remark on features that are always zero
        return float(distance(*_moments(a), *_moments(b)))


def frechet_standard_error(fake: Features, real: Features) -> float:
    """Standard error of the Fréchet distance over draws of the samples, the reference (and the model) held fixed.

    By the delta method, the limit of a bootstrap over samples (Efron 1981, infinitesimal jackknife). With moments (μ, Σ) of the samples
    and (m, R) of the reference, sample x moves the distance by ψ(x)/N, where for d = x − μ

        ψ = 2 (μ − m)·d + dᵀ(I − A) d − E[…],   A = R^½ (R^½ Σ R^½)^−½ R^½,

    the map that transports the first Gaussian to the second.

    Args:
        fake: features of N samples, (N, D).
        real: features of the reference, (M, D).
    """
    (mean, covariance), (other, target) = _moments(fake), _moments(real)
    values, vectors = np.linalg.eigh(target)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    values, vectors = np.linalg.eigh(root @ covariance @ root)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps  # features that are always zero have none
    d = fake.astype(np.float64) - mean
    transported = d @ (root @ (vectors[:, kept] * values[kept] ** -0.25))
    moves = 2 * d @ (mean - other) + (d**2).sum(axis=1) - (transported**2).sum(axis=1)
    return float(moves.std(ddof=1) / np.sqrt(len(moves)))


def kernel_distance(fake: Features, real: Features, config: EvaluationConfig) -> dict[str, float]:
    """KID: unbiased squared MMD, kernel (x·y / D + 1)³; mean and deviation over random subsets (fixed seed)."""
    values = kid_features_to_metric(
        _float64(fake),
        _float64(real),
        kid_subsets=config.kid_subsets,
        kid_subset_size=config.kid_subset_size,
        verbose=False,
    )
    return {"kid_mean": float(values[KEY_METRIC_KID_MEAN]), "kid_std": float(values[KEY_METRIC_KID_STD])}


def precision_recall(fake: Features, real: Features, config: EvaluationConfig) -> dict[str, float]:
    """Share of fake features inside the real manifold, and the reverse, with balls to the k-th neighbour; 0..1."""
    values = prc_features_to_metric(
        _float64(fake),
        _float64(real),
        prc_neighborhood=config.neighbours,
        save_cpu_ram=True,  # blocks of rows instead of the whole distance matrix
        prc_batch_size=1000,
        verbose=False,
    )
    return {"precision": float(values[KEY_METRIC_PRECISION]), "recall": float(values[KEY_METRIC_RECALL])}


def check_images(samples: np.ndarray, reference: np.ndarray) -> None:
    """Raise UserError unless both are uint8 (N, C, H, W) of one C (1 or 3), H and W."""
    for what, images in (("samples", samples), ("reference images", reference)):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(f"{what}: need uint8 (N, 1 or 3, H, W), not {images.dtype} {images.shape}")
    if samples.shape[1:] != reference.shape[1:]:
        raise UserError(
            f"samples are {samples.shape[1:]} and reference images {reference.shape[1:]} (C, H, W); they must be equal"
        )


def _moments(features: Features) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, "d d"]]:
    """Mean and unbiased covariance of two or more features."""
    wide = features.astype(np.float64)
    return wide.mean(axis=0), np.cov(wide, rowvar=False)


def _float64(features: Features) -> torch.Tensor:
    return torch.from_numpy(features.astype(np.float64))
