"""FID and its relatives, KID, precision and recall: the formulas are torch-fidelity's and clean-fid's, not ours.

Here: which features go in, in float64, and when there are too few samples for the number to mean anything.
What each score is, and its limits: docs/metrics.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from fdm.config import EvaluationConfig
from fdm.errors import UserError
from fdm.evaluation.features import DIMENSIONS, Name, extract, extract_cached, load

Features = Float[np.ndarray, "n d"]


def score(
    samples: UInt8[np.ndarray, "n c h w"],
    reference: UInt8[np.ndarray, "m c h w"],
    config: EvaluationConfig,
    reference_digest: str,
    cache: Path,
    device: str = "cpu",
    progress: Callable[[int, int], object] | None = None,
    downloads: Path = Path("downloads"),
) -> dict[str, dict[str, float]]:
    """Every score of ``metrics.json`` for every network of ``config.features``.

    Args:
        samples: generated images, (N, C, H, W), C 1 or 3, values 0..255.
        reference: real images of the same C, H, W, already cut to ``config.reference_limit``; may be a memory map.
        reference_digest: names the reference in the cache.
        cache: folder of the reference features; see ``fdm.evaluation.features.extract_cached``.
        device: where the networks run, ``cpu`` or ``cuda``; the statistics are always float64 on the CPU.
        progress: called with (images done, images in all); an image counts once per pass through a network.
        downloads: folder for the Inception-v3 weights.

    Returns:
        ``{<network>: {<score>: value}}`` with ``fid`` and ``fid_clean`` for ``inception-v3``, ``frechet_distance`` for
        any other network, and ``kid_mean``, ``kid_std``, ``precision``, ``recall`` for both.

    Raises:
        UserError: images do not fit together, there are too few of them, or weights cannot be had. Counts are checked
            before any network runs.
    """
    check_images(samples, reference)
    for name in config.features:
        check_counts(name, len(samples), len(reference), config)
    passes: list[Name] = list(config.features)
    if "inception-v3" in passes:
        passes.append("inception-v3-clean")
    done, total = 0, len(passes) * (len(samples) + len(reference))

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if progress:
            progress(done, total)

    def both(name: Name) -> tuple[Features, Features]:
        embed = load(name, downloads, device)
        real = extract_cached(name, embed, reference, reference_digest, cache, advance)
        return extract(embed, samples, advance), real

    result: dict[str, dict[str, float]] = {}
    for name in config.features:
        fake, real = both(name)
        distance = "fid" if name == "inception-v3" else "frechet_distance"
        scores = {distance: frechet_distance(fake, real)}
        if name == "inception-v3":
            scores["fid_clean"] = frechet_distance_clean(*both("inception-v3-clean"))
        result[name] = scores | kernel_distance(fake, real, config) | precision_recall(fake, real, config)
    return result


def frechet_distance(a: Features, b: Features) -> float:
    """torch-fidelity's Fréchet distance between Gaussians fitted to two sets of features, (N, D) and (M, D)."""
    first, second = (fid_features_to_statistics(_float64(features)) for features in (a, b))
    return float(fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID])


def frechet_distance_clean(a: Features, b: Features) -> float:
    """clean-fid's Fréchet distance between Gaussians fitted to two sets of features, (N, D) and (M, D)."""
    from cleanfid.fid import frechet_distance as distance

    # The moments are those of clean-fid's own callers (np.mean, np.cov), which only take image folders.
    first, second = (fid_features_to_statistics(_float64(features)) for features in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sqrtm's deprecated argument, and its remark on features that are always zero
        return float(distance(first["mu"], first["sigma"], second["mu"], second["sigma"]))


def frechet_agreement(a: Features, b: Features) -> float:
    """Relative difference of torch-fidelity's and clean-fid's distances on one pair of feature sets; 0 is equal."""
    fidelity, clean = frechet_distance(a, b), frechet_distance_clean(a, b)
    return abs(fidelity - clean) / max(abs(fidelity), abs(clean), np.finfo(np.float64).tiny)


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


def check_counts(name: Name, samples: int, reference: int, config: EvaluationConfig) -> None:
    """Raise UserError if a score of ``name`` would mean nothing for so few images."""
    dimension = DIMENSIONS[name]
    hint = "; or take efficientnet-lite0 in evaluation.features" if name == "inception-v3" else ""
    for what, count, key in (
        ("samples", samples, "sampling.count"),
        ("reference images", reference, "evaluation.reference_limit"),
    ):
        # N samples give a covariance of rank N - 1 at most.
        if count <= dimension:
            raise UserError(
                f"{name}: {count} {what} cannot fill a {dimension} x {dimension} covariance; raise {key} to at least "
                f"{dimension + 1}{hint}"
            )
        if count < config.kid_subset_size:
            raise UserError(
                f"{name}: {count} {what} are fewer than one KID subset of {config.kid_subset_size}; raise {key} or "
                f"lower evaluation.kid_subset_size to at most {count}"
            )
        if count <= config.neighbours:
            raise UserError(
                f"{name}: {count} {what} have no {config.neighbours}-th neighbour; raise {key} or lower "
                f"evaluation.neighbours to at most {count - 1}"
            )


def _float64(features: Features) -> torch.Tensor:
    return torch.from_numpy(np.asarray(features, dtype=np.float64))
