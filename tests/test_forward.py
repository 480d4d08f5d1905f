"""forward.npz and neighbours.npz: closed forms, exact neighbours, and what the report makes of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from fdm.config import SamplingConfig
from fdm.errors import UserError
from fdm.evaluation.forward import QUANTISATION, _energy, _own, image_information, state_information, write_forward
from fdm.evaluation.neighbours import nearest, write_neighbours
from fdm.evaluation.oracle import image_covariance, relative_error, sample_covariance
from fdm.processes import build_process
from fdm.processes.cascaded import Config as Cascaded
from fdm.processes.gaussian import Config as Gaussian
from fdm.processes.scale_space import Config as ScaleSpace
from fdm.processes.staged import Config as Staged
from fdm.report.extras import Neighbours, _read
from fdm.report.forward import differ_in_snr
from fdm.report.memorisation import memorisation_table
from fdm.report.numbers import Estimate
from fdm.report.paired import word
from fdm.report.pareto import Point, front
from fdm.sampling.solvers import build_solver

SIDE = 8
IMAGES = torch.rand(16, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
DDPM = Gaussian(process="gaussian")
FDM = {"process": "staged", "transforms": [{"kind": "resize"}, {"kind": "resize"}]}
METHODS: dict[str, Any] = {
    "ddpm": DDPM,
    "fdm": Staged.model_validate(FDM),
    "plain": Staged.model_validate(FDM | {"rescaling": "none"}),
    "ssd": ScaleSpace(process="scale-space", levels=2),
}


@pytest.fixture(scope="module")
def forward(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("forward")
    found = {}
    for name, method in METHODS.items():
        write_forward(folder / f"{name}.npz", build_process(method, 1, SIDE), method, SamplingConfig(), IMAGES)
        with np.load(folder / f"{name}.npz") as file:
            found[name] = {key: file[key] for key in file.files}
    return found


def test_information_of_a_standard_state_is_the_sum_over_frequencies(forward: dict[str, dict[str, np.ndarray]]) -> None:
    process, ours = build_process(DDPM, 1, SIDE), forward["ddpm"]
    spectrum = torch.linalg.eigvalsh(image_covariance(SIDE, 1)[0]).numpy()
    snr = np.exp(process.log_snr(torch.from_numpy(ours["t"]), 0).numpy())
    wanted = np.log2(1 + snr[:, None] * spectrum).sum(1) / 2
    assert ours["information"][:, 0] == pytest.approx(wanted, rel=1e-8, abs=1e-9)
    # Averaging the state loses information (data processing), and so does time.
    assert (np.diff(ours["information"], axis=1) <= 1e-9).all() and (np.diff(ours["information"], axis=0) < 1e-9).all()


def test_an_exact_jump_keeps_all_information_and_energy(forward: dict[str, dict[str, np.ndarray]]) -> None:
    def at_jumps(name: str, key: str) -> list[tuple[float, float]]:
        found = forward[name]
        values = found[key][:, 0] if found[key].ndim == 2 else found[key]
        return [
            (
                values[(found["stage"] == k) & (found["t"] == tau)][0],
                values[(found["stage"] == k + 1) & (found["t"] == tau)][0],
            )
            for k, tau in enumerate((1 / 3, 2 / 3))
        ]

    for fine, coarse in at_jumps("fdm", "information"):
        assert coarse == pytest.approx(fine, rel=1e-9)
    for fine, coarse in at_jumps("plain", "information"):
        assert coarse < 0.9 * fine
    # Total signal energy over noise: the noise is a sample here, hence the tolerance. Without rescaling it falls four times.
    for fine, coarse in at_jumps("fdm", "energy"):
        assert coarse == pytest.approx(fine, rel=0.2)
    for fine, coarse in at_jumps("plain", "energy"):
        assert coarse == pytest.approx(fine / 4, rel=0.2)


def test_the_condition_of_a_super_resolution_stage_is_no_part_of_its_image() -> None:
    process = build_process(Cascaded(process="cascaded"), 1, 8)
    fine, coarse = process.stages
    assert _own(fine) == (1, 8, 8) and fine.shape == (2, 8, 8) and _own(coarse) == coarse.shape
    t = 0.3 * fine.end
    level = process.level(torch.tensor([t], dtype=torch.float64), 0)
    wanted = float(level.alpha**2 * IMAGES.square().sum((1, 2, 3)).mean() / level.sigma**2)
    assert _energy(process, IMAGES, t, fine) == pytest.approx(wanted, rel=0.2)  # the noise is a sample


def test_image_information_counts_quantised_bits() -> None:
    variance = torch.full((1, 1), 0.25, dtype=torch.float64)
    covariance = (variance * torch.eye(4, dtype=torch.float64))[None]
    # Four independent pixels, and their mean, which has a quarter of the variance.
    assert image_information(covariance, 2, 2) == pytest.approx(4 * np.log2(1 + 0.25 / QUANTISATION) / 2)
    assert image_information(covariance, 2, 1) == pytest.approx(np.log2(1 + 0.0625 / QUANTISATION) / 2)
    nothing = torch.zeros(1, 4, 4, dtype=torch.float64)
    assert state_information((nothing, torch.eye(4, dtype=torch.float64)[None]), covariance) == 0


def test_frames_are_the_same_images_and_noise_for_every_method(forward: dict[str, dict[str, np.ndarray]]) -> None:
    for name, found in forward.items():
        assert len(found["frame_t"]) == 3 * len(set(found["stage"])), name
        for j, stage in enumerate(found["frame_stage"]):
            side = int(found["dimension"][found["stage"] == stage][0] ** 0.5)
            assert found[f"z_{j}"].shape == (2, 1, side, side)
    # At the very start nothing has happened yet: the image itself, in every method.
    for name in ("ddpm", "fdm", "plain"):
        assert np.abs(forward[name]["z_0"] - IMAGES[:2].numpy()).max() < 0.02
    assert np.array_equal(forward["fdm"]["z_1"], forward["plain"]["z_1"])
    assert not np.array_equal(forward["fdm"]["z_3"], forward["plain"]["z_3"])


def test_oracle_errors_are_those_of_the_experiments_solver(forward: dict[str, dict[str, np.ndarray]]) -> None:
    covariance = image_covariance(SIDE, 1)
    for name in ("fdm", "plain"):
        process = build_process(METHODS[name], 1, SIDE)
        wanted = sample_covariance(process, build_solver(SamplingConfig(solver="ancestral")), 30, covariance)
        assert forward[name]["oracle_error"][1] == pytest.approx(relative_error(wanted, covariance), rel=1e-9)
        assert forward[name]["oracle_steps"].tolist() == [10, 30, 100, 300]
    # Rescaled, the error falls as 1/N; without, it has all but stopped.
    *_, before, last = forward["fdm"]["oracle_error"]
    assert last < 0.4 * before
    *_, before, last = forward["plain"]["oracle_error"]
    assert last > 0.7 * before and 0.6 * last < forward["plain"]["oracle_floor"] < last
    assert np.isnan(forward["fdm"]["oracle_floor"])


def test_oracle_errors_are_those_of_the_experiments_spacing(tmp_path: Path) -> None:
    sampling, process = SamplingConfig(solver="multistep2", spacing="cosine"), build_process(METHODS["fdm"], 1, SIDE)
    write_forward(tmp_path / "forward.npz", process, METHODS["fdm"], sampling, IMAGES)
    covariance = image_covariance(SIDE, 1)
    wanted = sample_covariance(process, build_solver(sampling), 30, covariance, spacing="cosine")
    with np.load(tmp_path / "forward.npz") as file:
        assert file["oracle_error"][1] == pytest.approx(relative_error(wanted, covariance), rel=1e-9)


def test_neighbours_are_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pool, images = (rng.integers(0, 256, (n, 1, 4, 4), dtype=np.uint8) for n in (5000, 20))
    images[3] = pool[4321]
    found = nearest(images, pool)
    squared = ((images[:, None].astype(float) - pool[None]) ** 2).mean((2, 3, 4))
    assert np.array_equal(found.image, pool[squared.argmin(1)]) and np.array_equal(found.image[3], pool[4321])
    assert found.distance == pytest.approx(np.sqrt(squared.min(1)) / 255, abs=1e-12) and found.distance[3] == 0
    write_neighbours(tmp_path / "neighbours.npz", images, pool, images[5:])
    with np.load(tmp_path / "neighbours.npz") as file:
        assert file["closest"][0] == 3 and np.array_equal(file["closest_images"][0, 0], pool[4321, 0])
        assert file["farthest"][0] == found.distance.argmax() and len(file["held_out"]) == 15
    with pytest.raises(UserError, match=r"damaged; run `fdm evaluate` for .* with --seed 0 again"):
        (tmp_path / "e/seed0").mkdir(parents=True)
        (tmp_path / "e/seed0/neighbours.npz").write_bytes((tmp_path / "neighbours.npz").read_bytes()[:300])
        _read(tmp_path / "e/seed0/neighbours.npz", ("distance",))


def test_a_mirrored_copy_is_found_where_training_mirrors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pool, images = (rng.integers(0, 256, (n, 1, 4, 4), dtype=np.uint8) for n in (50, 9))
    images[3], images[4] = pool[43, ..., ::-1], pool[44]
    found = nearest(images, pool, flip=True)
    both = nearest(images, np.concatenate([pool, pool[..., ::-1]]))
    assert np.array_equal(found.image, both.image) and np.array_equal(found.distance, both.distance)
    assert not found.distance[3:5].any() and np.array_equal(found.image[3:5], images[3:5])
    assert nearest(images, pool).distance[3] > 0.1
    write_neighbours(tmp_path / "neighbours.npz", images, pool, images, flip=True)
    with np.load(tmp_path / "neighbours.npz") as file:
        assert set(file["closest"][:2]) == {3, 4} and np.array_equal(file["held_out"], file["distance"])


def test_a_model_that_repeats_its_data_shows_in_the_table() -> None:
    held_out = np.linspace(0.1, 0.3, 101)
    method: Any = SimpleNamespace(name="m", title="M", runs=[SimpleNamespace(seed=0)])
    empty = np.zeros(0)

    def close(distance: np.ndarray) -> float:
        item = Neighbours(distance, held_out, empty, empty, empty, empty)
        cell = memorisation_table([(method, item)]).rows[0].cells[-1]
        assert isinstance(cell.raw, Estimate)
        return cell.raw.mean

    assert close(held_out) == pytest.approx(1 / 101)
    assert close(np.where(np.arange(101) < 40, 0.01, held_out)) == pytest.approx(40 / 101)


def test_a_front_holds_what_nothing_beats() -> None:
    def point(cost: float, quality: float) -> Point:
        return Point(SimpleNamespace(), Estimate(cost, None, 1), Estimate(quality, None, 1))  # type: ignore[arg-type]

    points = [point(1, 9), point(2, 5), point(2, 6), point(3, 5), point(4, 1), point(5, 2)]
    assert [(p.cost.mean, p.quality.mean) for p in front(points)] == [(1, 9), (2, 5), (4, 1)]


def test_only_a_notable_change_of_the_signal_to_noise_ratio_gets_a_figure(
    forward: dict[str, dict[str, np.ndarray]],
) -> None:
    def pair(name: str, factor: float = 1.0) -> Any:
        values = forward[name]
        return name, SimpleNamespace(t=values["t"], energy=values["energy"] * factor, dimension=values["dimension"])

    assert differ_in_snr([pair("fdm"), pair("plain")])
    assert not differ_in_snr([]), "of a partial report no member may have the file"
    assert not differ_in_snr([pair("fdm"), pair("fdm", 1.5)]) and not differ_in_snr([pair("fdm"), pair("ddpm")])


@pytest.mark.parametrize(
    ("change", "better", "wanted"),
    [
        (None, "low", "not known"),
        (Estimate(-5, None, 1), "low", "not known"),
        (Estimate(-5, 4, 3), "low", "better"),
        (Estimate(-5, 4, 3), "high", "worse"),
        (Estimate(5, 4, 3), "low", "worse"),
        (Estimate(5, 5, 3), "low", "none"),
        (Estimate(0, 0, 3), "low", "none"),
    ],
)
def test_one_word_for_a_difference(change: Estimate | None, better: Any, wanted: str) -> None:
    assert word(change, better) == wanted


def test_the_figures_can_be_drawn(forward: dict[str, dict[str, np.ndarray]], tmp_path: Path) -> None:
    from fdm.report import style
    from fdm.report.extras import ARRAYS, Forward
    from fdm.report.forward import information_figure, oracle_figure, snr_figure

    pairs: Any = []
    for name, found in forward.items():
        frames = [found[f"z_{j}"].astype(np.float32) for j in range(len(found["frame_t"]))]
        item = Forward(**{key: found[key] for key in ARRAYS}, frames=frames)
        pairs.append((SimpleNamespace(name=name, title=f"Method {name}"), item))
    looks = {name: style.Look("#332288", "#9c92f5", "o", "-", "--m") for name in forward}
    with style.drawing():
        figures = {
            "snr": snr_figure(pairs[1:3], looks),
            "information": information_figure(pairs, looks),
            "oracle": oracle_figure(pairs, looks),
        }
        for name, figure in figures.items():
            assert isinstance(figure, Figure)
            assert "Method" in style.save(figure, tmp_path, name)
