"""Sampling: independent of batch size and shards, resumable, finite and in range for every solver."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fdm.errors import UserError
from fdm.experiment import load_experiment
from fdm.networks.unet import UNet
from fdm.processes import Process, build_process
from fdm.rng import sample_noise
from fdm.runs import Run
from fdm.sampling import sampler, shards
from fdm.sampling.solvers import build_solver
from fdm.shards import shard_range

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
    split = [shard_range(64, 1, shard, 4) for shard in range(4)]
    assert [index for part in split for index in part] == list(range(64))
    torch.testing.assert_close(images(split), whole, rtol=0, atol=1e-4)


def test_noise_is_identical_not_only_close() -> None:
    whole = sample_noise(0, range(64), 3, (1, 8, 8))
    for batch in (1, 7):
        parts = [sample_noise(0, group, 3, (1, 8, 8)) for group in shards.missing_batches(range(64), [], batch)]
        assert torch.equal(torch.cat(parts), whole)


@given(count=st.integers(1, 200), batch=st.integers(1, 70), shards_=st.integers(1, 9))
def test_shards_draw_the_batches_of_one_run(count: int, batch: int, shards_: int) -> None:
    whole = list(shards.missing_batches(range(count), [], batch))
    ranges = [shard_range(count, batch, shard, shards_) for shard in range(shards_)]
    assert [cut for wanted in ranges for cut in shards.missing_batches(wanted, [], batch)] == whole
    shares = [-(-len(wanted) // batch) for wanted in ranges]
    assert max(shares) - min(shares) <= 1, "even shares"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """Every call of the sampler loop from now on, by its samples."""
    real, calls = shards.draw, []

    def draw(process, denoise, solver, plan, seed, samples, **keys):  # type: ignore[no-untyped-def]
        calls.append(samples)
        return real(process, denoise, solver, plan, seed, samples, **keys)

    monkeypatch.setattr(shards, "draw", draw)
    return calls


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_micro_batches_are_level_over_stages_and_change_no_output(project: Path, guidance: float) -> None:
    changes = [f"sampling.guidance={guidance}", "conditioning={classes: 10}"]
    whole, parts = (load_experiment("smoke:fdm-ds-3", [*changes, *more]) for more in ([], ["sampling.micro_batch=2"]))
    process = build_process(whole.method, 1, 8)
    torch.manual_seed(0)
    network = UNet(whole.network, 8, process.stages, classes=10).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    calls: list[int] = []
    network.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    for stage, sizes in ((0, [2] * 5 + [1]), (1, [8, 3]), (2, [11])):
        z = torch.randn(11, *process.stages[stage].shape)
        with torch.inference_mode():
            expected = sampler.denoiser_of(whole, network, torch.device("cpu"))(range(11))(z, 0.5, stage)
            calls.clear()
            found = sampler.denoiser_of(parts, network, torch.device("cpu"))(range(11))(z, 0.5, stage)
        assert calls == [whole.sampling.passes * size for size in sizes]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def forget_samples() -> None:
    for folder in Path("work").glob("sample-*"):
        shutil.rmtree(folder)


def test_shards_together_are_one_run_to_the_last_bit(smoke: Path, drawn: list[range]) -> None:
    """With a batch size that does not divide; and putting them together draws nothing."""

    def run(name: str, *changes: str) -> Run:
        return Run(load_experiment("smoke:fdm-ds-3", [*CHANGES, *changes]), 0, "cpu", smoke / name)

    whole = run("whole", "sampling.batch=11")
    whole.train()
    assert whole.sample()
    expected = {name: Path("whole", name).read_bytes() for name in ("samples.npy", "trajectory.npz", "grid.png")}
    assert np.load("whole/samples.npy").shape == (64, 1, 8, 8)
    batches = drawn.copy()
    for count in (3, 4, 9):
        forget_samples()
        drawn.clear()
        sharded = run(f"of{count}", "sampling.batch=11")
        assert [sharded.sample(shard, count) for shard in reversed(range(count))] == [None] * count
        assert sorted(drawn, key=str) == sorted(batches, key=str)
        assert not (smoke / f"of{count}").exists(), "a shard exports nothing"
        record = sharded.sample()
        assert record and record["count"] == 64 and record["peak_memory_bytes"] > 0 and record["device"]
        assert len(drawn) == len(batches), "nothing was drawn again"
        assert {name: Path(f"of{count}", name).read_bytes() for name in expected} == expected
        assert not list(Path("work").glob("sample-*/part-*"))

    other = run("other", "sampling.batch=64")
    assert other.sample_identity == whole.sample_identity, "the batch size is no part of the identity"
    forget_samples()
    other.sample()
    one, two = (np.load(f"{name}/samples.npy").astype(int) for name in ("whole", "other"))
    assert np.abs(one - two).max() <= 1, "rounding of another batch size"


def test_a_lost_shard_is_redone_alone(smoke: Path, drawn: list[range]) -> None:
    run = Run(load_experiment("smoke:ddpm", [*CHANGES, "sampling.batch=10"]), 0, "cpu", smoke / "out")
    run.train()
    run.sample()
    expected = Path("out/samples.npy").read_bytes()
    shutil.rmtree("out")
    forget_samples()
    for shard in range(4):
        run.sample(shard, 4)
    wanted = shard_range(64, 10, 2, 4)
    assert wanted == range(30, 50)
    lost = [part for part in shards.finished_parts(next(Path("work").glob("sample-*"))) if part.start in wanted]
    assert len(lost) == 2
    for part in lost:
        part.path.unlink()
    drawn.clear()
    for shard in range(4):
        run.sample(shard, 4)
    assert drawn == [range(30, 40), range(40, 50)]
    assert run.sample() and len(drawn) == 2
    assert Path("out/samples.npy").read_bytes() == expected


def test_a_part_that_cannot_be_read_is_kept(smoke: Path, drawn: list[range], monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(load_experiment("smoke:ddpm", [*CHANGES, "sampling.batch=32"]), 0, "cpu", smoke / "out")
    run.train()
    run.sample(0, 2)
    (part,) = next(Path("work").glob("sample-*")).glob("part-*.npz")

    def stale(*_: object) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "ZipFile", stale)
        with pytest.raises(UserError, match="cannot be read.*Stale file handle"):
            run.sample()
    assert part.exists()
    assert run.sample()


def test_a_damaged_part_is_named(smoke: Path, drawn: list[range]) -> None:
    run = Run(load_experiment("smoke:ddpm", [*CHANGES, "sampling.batch=32"]), 0, "cpu", smoke / "out")
    run.train()
    for shard in range(2):
        run.sample(shard, 2)
    part = next(Path("work").glob("sample-*/part-0000032-*"))
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"part-0000032-0000064.npz: damaged .*run the same command again"):
        run.sample()
    assert not part.exists()
    drawn.clear()
    assert run.sample() and drawn == [range(32, 64)]


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
        shard_range(10, 1, shard, count)


def test_overlapping_parts_count_once(tmp_path: Path) -> None:
    for start, stop in ((0, 4), (2, 6), (4, 8)):
        shards.save_part(tmp_path, range(start, stop), torch.zeros(stop - start, 1, 2, 2), 1.0)
    parts = shards.finished_parts(tmp_path)
    assert [(part.start, part.stop) for part in parts] == [(0, 4), (4, 8)]
    assert list(shards.missing_batches(range(10), parts, 3)) == [range(8, 10)]
