"""Sampling: independent of batch size and shards, resumable, finite and in range for every solver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fdm.errors import UserError
from fdm.experiment import load_experiment
from fdm.networks.unet import UNet
from fdm.processes import Process, build_process
from fdm.rng import sample_noise
from fdm.runs import Run
from fdm.sampling import sampler, shards
from fdm.sampling.solvers import build_solver

CHANGES = ["training.images=640", "sampling.count=64"]


def setup(name: str) -> tuple[UNet, Process]:
    experiment = load_experiment(f"smoke:{name}")
    process = build_process(experiment.method, 1, 8)
    torch.manual_seed(0)
    network = UNet(experiment.network, 8, process.stages).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network, process


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "multistep2"])
@pytest.mark.parametrize("name", ["ddpm", "fdm-ds-3"])
def test_batches_and_shards_do_not_change_the_images(project: Path, name: str, solver: str) -> None:
    network, process = setup(name)
    config = load_experiment(f"smoke:{name}", [f"sampling.solver={solver}"]).sampling
    plan, denoise = process.plan(9), sampler.network_denoiser(network, "cpu")

    def images(groups: list[range]) -> torch.Tensor:
        return torch.cat([sampler.draw(process, denoise, build_solver(config), plan, 5, group) for group in groups])

    whole = images([range(64)])
    assert whole.shape == (64, 1, 8, 8) and torch.isfinite(whole).all() and whole.std() > 0.01
    assert float(whole.abs().max()) < 2
    for batch in (1, 7):
        torch.testing.assert_close(images(list(shards.missing_batches(range(64), [], batch))), whole, rtol=0, atol=1e-4)
    split = [shards.shard_range(64, shard, 4) for shard in range(4)]
    assert [index for part in split for index in part] == list(range(64))
    torch.testing.assert_close(images(split), whole, rtol=0, atol=1e-4)


def test_noise_is_identical_not_only_close() -> None:
    whole = sample_noise(0, range(64), 3, (1, 8, 8))
    for batch in (1, 7):
        parts = [sample_noise(0, group, 3, (1, 8, 8)) for group in shards.missing_batches(range(64), [], batch)]
        assert torch.equal(torch.cat(parts), whole)


def test_shards_together_are_one_run(smoke: Path) -> None:
    run = Run(load_experiment("smoke:fdm-ds-3", CHANGES), 0, "cpu", smoke / "out")
    run.train()
    assert [run.sample(shard, 4) is not None for shard in (2, 0, 3)] == [False, False, False]
    assert run.sample(1, 4)
    sharded = np.load("out/samples.npy")
    other = Run(load_experiment("smoke:fdm-ds-3", [*CHANGES, "sampling.batch=7"]), 0, "cpu", smoke / "other")
    assert other.sample_identity == run.sample_identity, "the batch size is no part of the identity"
    for path in Path("work").glob("sample-*/*.*"):
        path.unlink()
    other.sample()
    whole = np.load("other/samples.npy")
    assert whole.shape == (64, 1, 8, 8) and whole.dtype == np.uint8
    assert int(np.abs(whole.astype(int) - sharded).max()) <= 1


def test_finished_batches_are_kept(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(load_experiment("smoke:ddpm", [*CHANGES, "sampling.batch=16"]), 0, "cpu", smoke / "out")
    run.train()
    real, calls = shards.draw, []

    def draw(process, denoise, solver, plan, seed, samples, **keys):  # type: ignore[no-untyped-def]
        calls.append(samples)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(process, denoise, solver, plan, seed, samples, **keys)

    monkeypatch.setattr(shards, "draw", draw)
    with pytest.raises(KeyboardInterrupt):
        run.sample()
    assert run.sample()
    assert calls[3:] == [range(32, 48), range(48, 64), range(8)], (
        "two batches were kept; the last call is the trajectory"
    )


def test_outputs_are_as_documented(smoke: Path) -> None:
    run = Run(load_experiment("smoke:fdm-ds-3", CHANGES), 0, "cpu", smoke / "out")
    run.train()
    run.sample()
    with np.load("out/trajectory.npz", allow_pickle=False) as file:
        frames = len(file["t"])
        assert frames == 6 and list(file["stage"]) == [2, 2, 1, 1, 0, 0] and file["t"][0] == 1.0
        for frame, stage in enumerate(file["stage"]):
            side = 8 >> stage
            assert file[f"z_{frame}"].shape == file[f"x_{frame}"].shape == (8, 1, side, side)
    assert (smoke / "out/grid.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_gives_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite"):
        shards.save_part(tmp_path, range(2), torch.full((2, 1, 4, 4), torch.nan), 1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("shard", "count"), [(4, 4), (-1, 2), (0, 0)])
def test_no_such_shard(shard: int, count: int) -> None:
    with pytest.raises(UserError, match="numbered 1/N to N/N"):
        shards.shard_range(10, shard, count)


def test_overlapping_parts_count_once(tmp_path: Path) -> None:
    for start, stop in ((0, 4), (2, 6), (4, 8)):
        shards.save_part(tmp_path, range(start, stop), torch.zeros(stop - start, 1, 2, 2), 1.0)
    parts = shards.finished_parts(tmp_path)
    assert [(part.start, part.stop) for part in parts] == [(0, 4), (4, 8)]
    assert list(shards.missing_batches(range(10), parts, 3)) == [range(8, 10)]
