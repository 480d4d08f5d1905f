"""Class conditioning and guidance: nothing changes without it, its two ends are exact, and the class matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from lightning_fabric import Fabric
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fdm.config import SamplingConfig
from fdm.data import Split, open_store, to_float
from fdm.errors import UserError
from fdm.evaluation.cost import cost_of_run, flops_per_evaluation
from fdm.experiment import Experiment, load_experiment
from fdm.networks.unet import NO_CLASS, UNet
from fdm.picture import save_grid
from fdm.processes import Process, build_process
from fdm.report.files import Cost, Manifest, Metrics, Record
from fdm.report.results import Run as ReportedRun
from fdm.report.samples import grid, shown
from fdm.rng import step_generator, training_order
from fdm.runs import Run
from fdm.sampling.classes import class_cycle, class_rows, classes_of
from fdm.sampling.sampler import class_denoiser, draw, network_denoiser
from fdm.sampling.solvers import build_solver
from fdm.tensors import load_tensors
from fdm.training.labels import training_labels
from fdm.training.loop import Trainer

TEN = "conditioning.classes=10"
PROCESSES = ["smoke:ddpm", "smoke:fdm-ds-3", "scale-space:ssd", "blur:blur-diffusion"]
TARGETS = [
    *((reference, f"method.target={target}") for reference in PROCESSES for target in ("v", "eps", "x")),
    ("smoke:fdm-ds-3", "method.predict=operator"),
    *(
        (reference, "title=As it is")
        for reference in ("blur:fdm-blur-u", "blur:blurring", "blur:ihdm", "scale-space:ssd-interp")
    ),
]


def trainer(experiment: Experiment, seed: int = 0) -> Trainer:
    process = build_process(experiment.method, experiment.dataset.channels, experiment.dataset.resolution)
    return Trainer(experiment, seed, process, Fabric(accelerator="cpu", devices=1))


def digits(root: Path) -> tuple[Tensor, Tensor]:
    split = open_store(root / "data" / "digits8").split("train")
    assert split.labels is not None
    return torch.from_numpy(split.images.copy()), torch.from_numpy(split.labels)


def randomised(reference: str, *overrides: str) -> tuple[Experiment, UNet, Process]:
    """A conditional network in which every path carries signal."""
    experiment = load_experiment(reference, [TEN, *overrides])
    process = build_process(experiment.method, 1, 8)
    network = UNet(experiment.network, 8, process.stages, 10).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2, generator=generator)
        assert network.label is not None
        network.label.weight.mul_(5)[0] = 0  # classes that differ much; the null class is zero
    return experiment, network, process


def without_classes(experiment: Experiment, network: UNet, process: Process) -> UNet:
    """The unconditional network of the same weights."""
    plain = UNet(experiment.network, 8, process.stages).eval()
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if name != "label.weight"})
    return plain


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["smoke:ddpm", "smoke:fdm-ds-3"])
@pytest.mark.parametrize("changes", [[], [TEN, "conditioning.dropout=0.3"]])
def test_a_step_is_this_plain_recomputation(smoke: Path, reference: str, changes: list[str]) -> None:
    """Loss of the first steps, bit for bit; labels and their dropout come after every draw of the unconditional run."""
    experiment = load_experiment(reference, changes)
    images, labels = digits(smoke)
    one, twin = trainer(experiment), trainer(experiment)
    names = {name for name, _ in one.network.named_parameters()}
    assert ("label.weight" in names) is bool(changes)
    hidden = 0
    for step in range(4):
        draws = step_generator(0, step)
        shares = torch.tensor([stage.frequency for stage in one.process.stages], dtype=torch.float64)
        stage = one.process.stages[int(torch.multinomial(shares, 1, generator=draws))]
        order = torch.from_numpy(training_order(0, step, 64, len(images)))
        offsets = torch.rand(64, generator=draws, dtype=torch.float64)
        t = stage.start + stage.length * (torch.arange(64) + offsets) / 64
        eps = torch.randn(64, *stage.shape, generator=draws)
        given: list[Tensor] = []
        if changes:
            told = torch.where(torch.rand(64, generator=draws) < 0.3, NO_CLASS, labels[order])
            hidden += int((told == NO_CLASS).sum())
            given = [told]
        example = one.process.example(to_float(images[order]), t, stage.index, eps)
        output = twin.network(example.z, t, stage.index, *given)
        expected = one.process.loss(output, example.target, example.weight)
        index, loss, _ = one.step(step, images, labels if changes else None)
        assert index == stage.index and torch.equal(loss, expected.detach())
        twin.network.load_state_dict(one.network.state_dict())
    assert 50 < hidden < 110 if changes else hidden == 0  # of 256, 77 expected


def test_hiding_every_class_trains_the_unconditional_network(smoke: Path) -> None:
    """Bit for bit in all weights that both have; the classes stay where they were."""
    images, labels = digits(smoke)
    plain = trainer(load_experiment("smoke:fdm-ds-3"))
    blind = trainer(load_experiment("smoke:fdm-ds-3", [TEN, "conditioning.dropout=1", "sampling.guidance=0"]))
    assert blind.network.label is not None
    before = blind.network.label.weight.detach().clone()
    for step in range(6):
        left, right = plain.step(step, images), blind.step(step, images, labels)
        assert left[0] == right[0] and torch.equal(left[1], right[1])
    expected, found = plain.average.state_dict(), blind.average.state_dict()
    assert found.keys() - expected.keys() == {"label.weight"}
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert torch.equal(blind.network.label.weight, before) and not before[0].any() and before[1:].any()


def test_the_gradient_reaches_the_classes_of_the_batch_alone(smoke: Path) -> None:
    _, network, process = randomised("smoke:fdm-ds-3")
    assert network.label is not None
    for stage in process.stages:
        network.zero_grad()
        labels = torch.tensor([3, 7, NO_CLASS, 3])
        network(torch.randn(4, *stage.shape), torch.rand(4), stage.index, labels).square().mean().backward()
        gradient = network.label.weight.grad
        assert gradient is not None
        assert [row for row in range(11) if gradient[row].any()] == [4, 8]
    with pytest.raises(ValueError, match="network without classes"):
        UNet(load_experiment("smoke:ddpm").network, 8, process.stages)(
            torch.zeros(1, 1, 8, 8), torch.ones(1), 0, labels
        )


def test_a_resumed_run_ends_in_the_same_weights(smoke: Path) -> None:
    experiment = load_experiment("smoke:fdm-ds-3", [TEN, "network.dropout=0.1"])
    images, labels = digits(smoke)
    calm, rough = trainer(experiment), trainer(experiment)
    for step in range(6):
        calm.step(step, images, labels)
        rough.step(step, images, labels)
        rough.save(smoke / "state.safetensors", {"identity": "x"})
        rough = trainer(experiment)
        rough.load(load_tensors(smoke / "state.safetensors", "x")[0], smoke / "state.safetensors")
    for left, right in ((calm.network, rough.network), (calm.average, rough.average)):
        pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def learnt(digits8: Path) -> Trainer:
    """A conditional DDPM after some seconds on real 8x8 digits."""
    changes = [TEN, "training.lr=0.003", "training.ema=0.98"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        one = trainer(load_experiment("smoke:ddpm", changes))
    images, labels = digits(digits8.parent)
    for step in range(150):
        one.step(step, images, labels)
    one.average.eval()
    return one


def test_the_right_class_predicts_better_than_a_wrong_one(learnt: Trainer, digits8: Path) -> None:
    """On held-out digits at high noise; without a class lies between the two."""
    split = open_store(digits8 / "digits8").split("test")
    assert split.labels is not None
    x, labels = to_float(torch.from_numpy(split.images.copy())), torch.from_numpy(split.labels)
    t = 0.5 + 0.4 * (torch.arange(len(x), dtype=torch.float64) + 0.5) / len(x)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    example = learnt.process.example(x, t, 0, eps)

    @torch.no_grad()
    def loss(told: Tensor | None) -> float:
        return float(learnt.process.loss(learnt.average(example.z, t, 0, told), example.target))

    right, wrong, without = loss(labels), loss((labels + 3) % 10), loss(None)
    assert right < 0.97 * without and without < 0.97 * wrong, (right, without, wrong)


def test_samples_are_of_their_class_and_guidance_makes_them_more_so(learnt: Trainer, digits8: Path) -> None:
    """Share of samples whose nearest class mean is that of their own class; 10 % for a model that knows none."""
    images, labels = digits(digits8.parent)
    means = torch.stack([to_float(images[labels == name]).mean(0) for name in range(10)]).flatten(1)
    plan, solver = learnt.process.plan(25), build_solver(SamplingConfig())
    shares = {}
    for guidance in (0.0, 1.0, 3.0):
        denoiser = class_denoiser(learnt.average, "cpu", range(10), guidance)
        samples = draw(learnt.process, denoiser(range(200)), solver, plan, 0, range(200), clip=False)
        found = torch.cdist(samples.flatten(1), means).argmin(1)
        shares[guidance] = float((found == torch.arange(200) % 10).float().mean())
    assert shares[0.0] < 0.2 < 0.5 < shares[1.0] <= shares[3.0], shares


# -- sampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", PROCESSES)
def test_the_ends_of_guidance_are_the_two_networks_alone(project: Path, reference: str) -> None:
    """w = 0 is the unconditional network's sample, w = 1 the conditional one's, bit for bit; others are the formula."""
    experiment, network, process = randomised(reference)
    plain = without_classes(experiment, network, process)
    solver, plan, samples = build_solver(experiment.sampling), process.plan(9), range(3, 15)
    labels = torch.tensor([index % 10 for index in samples])

    def sample(denoise: Any) -> Tensor:
        return draw(process, denoise, solver, plan, 5, samples, clip=False)

    def times(t: float) -> Tensor:
        return torch.full((len(labels),), t)

    def guided(w: float) -> Tensor:
        return sample(class_denoiser(network, "cpu", range(10), w)(samples))

    without = sample(lambda z, t, stage: plain(z, times(t), stage))
    told = sample(lambda z, t, stage: network(z, times(t), stage, labels))
    assert torch.isfinite(told).all() and not torch.allclose(told, without, atol=1e-2)
    assert torch.equal(guided(0.0), without) and torch.equal(guided(1.0), told)

    def formula(z: Tensor, t: float, stage: int) -> Tensor:
        a, b = plain(z, times(t), stage), network(z, times(t), stage, labels)
        return -1.5 * a + 2.5 * b

    expected = sample(formula)
    torch.testing.assert_close(guided(2.5), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(expected, told, atol=1e-2)


def test_a_class_is_a_shift_of_the_time_embedding(project: Path) -> None:
    """The conditional network of one class is the unconditional one with another bias."""
    experiment, network, process = randomised("smoke:fdm-ds-3")
    plain = without_classes(experiment, network, process)
    assert network.label is not None
    with torch.no_grad():
        plain.time[2].bias += network.label.weight[1 + 6]
        for stage in process.stages:
            z, t = torch.randn(2, *stage.shape), torch.rand(2)
            found = network(z, t, stage.index, torch.tensor([6, 6]))
            torch.testing.assert_close(found, plain(z, t, stage.index), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("reference", "change"), TARGETS)
def test_predictions_are_affine_in_the_output(project: Path, reference: str, change: str) -> None:
    """predict(a + w (b - a)) = predict(a) + w (predict(b) - predict(a)): guiding the output guides the signal."""
    process = build_process(load_experiment(reference, [change]).method, 1, 8)
    generator = torch.Generator().manual_seed(0)
    for stage in process.stages:
        shape, t = (2, stage.outputs, stage.output_resolution, stage.output_resolution), stage.end
        a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        z = torch.randn(2, *stage.shape, generator=generator, dtype=torch.float64)
        left, right, both = (process.predict(y, z, t, stage.index, False) for y in (a, b, a + 3 * (b - a)))
        for key in ("clean", "delta"):
            low, high, found = (getattr(one, key) for one in (left, right, both))
            if found is not None:
                expected = low + 3 * (high - low)
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_batches_and_shards_do_not_change_class_or_image(smoke: Path) -> None:
    changes = [TEN, "sampling.guidance=2", "training.images=640", "sampling.count=64"]
    run = Run(load_experiment("smoke:fdm-ds-3", [*changes, "sampling.batch=10"]), 0, "cpu", smoke / "out")
    run.train()
    assert [run.sample(shard, 3) for shard in (2, 0, 1)] == [None] * 3
    record = run.sample()
    assert record and record["classes"] == list(range(10))
    other = Run(load_experiment("smoke:fdm-ds-3", [*changes, "sampling.batch=7"]), 0, "cpu", smoke / "other")
    assert other.sample_identity == run.sample_identity
    for path in Path("work").glob("sample-*/*.*"):
        path.unlink()
    other.sample()
    sharded, whole = (np.load(f"{name}/samples.npy").astype(int) for name in ("out", "other"))
    assert sharded.shape == (64, 1, 8, 8) and np.abs(whole - sharded).max() <= 1

    weights = load_file("out/model.safetensors")
    assert weights["label.weight"].shape[0] == 11 and not weights["label.weight"][0].any()
    for change in ("sampling.guidance=1", "sampling.classes=[3]"):
        same = Run(load_experiment("smoke:fdm-ds-3", [*changes, change]), 0, "cpu")
        assert same.train_identity == run.train_identity and same.sample_identity != run.sample_identity
    for change in ("conditioning.dropout=0.2", "conditioning.classes=11"):
        retrained = Run(load_experiment("smoke:fdm-ds-3", [*changes, change]), 0, "cpu")
        assert retrained.train_identity != run.train_identity
    plain = Run(load_experiment("smoke:fdm-ds-3", [*changes[2:]]), 0, "cpu", smoke / "plain")
    plain.train()
    assert "classes" not in (plain.sample() or {}) and "label.weight" not in load_file("plain/model.safetensors")


def test_guidance_costs_what_the_counter_counts(project: Path) -> None:
    """FLOPs of the evaluations of a whole plan, counted while they run, against cost.json."""
    for guidance, passes in ((0.0, 1), (1.0, 1), (2.0, 2), (0.5, 2)):
        experiment, network, process = randomised("smoke:fdm-ds-3", f"sampling.guidance={guidance}")
        assert experiment.sampling.passes == passes
        train = {"parameters": 1, "stage_steps": [1, 1, 1], "images": 1, "steps": 1, "seconds": 1.0}
        sample = {"seconds": 1.0, "count": 1, "peak_memory_bytes": 0, "device": "cpu"}
        cost = cost_of_run(network, process, 9, 64, train, sample, passes=experiment.sampling.passes)
        denoise, counted = class_denoiser(network, "cpu", range(10), guidance)(range(2)), 0

        def counting(z: Tensor, t: float, stage: int, denoise: Any = denoise) -> Tensor:
            nonlocal counted
            with FlopCounterMode(display=False) as counter:
                output: Tensor = denoise(z, t, stage)
            counted += counter.get_total_flops()
            return output

        draw(process, counting, build_solver(experiment.sampling), process.plan(9), 0, range(2))
        assert cost["flops_per_sample"] == counted / 2 > 0 and cost["evaluations_per_sample"] == 9 * passes
        assert cost["flops_per_evaluation"]["0"] == flops_per_evaluation(network, process.stages)[0]


def test_no_class_is_no_label(project: Path) -> None:
    _, network, _ = randomised("smoke:ddpm")
    z, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    expected = network(z, t, 0)
    assert torch.equal(network(z, t, 0, torch.full((3,), NO_CLASS)), expected)
    assert torch.equal(network_denoiser(network, "cpu")(z, 0.5, 0), network(z, torch.full((3,), 0.5), 0))
    assert not torch.allclose(network(z, t, 0, torch.tensor([0, 1, 9])), expected, atol=1e-2)


# -- classes, grids and report -------------------------------------------------------------------------------------------


def test_classes_and_rows() -> None:
    config = SamplingConfig(count=30)
    assert class_cycle(config, 0) == () and class_cycle(config, 4) == (0, 1, 2, 3)
    assert class_cycle(SamplingConfig(guidance=0), 4) == (), "samples that were told no class have none"
    assert classes_of(range(10), range(8, 13)) == [8, 9, 0, 1, 2]
    fixed = class_cycle(SamplingConfig(classes=(3, 3, 7)), 10)
    assert fixed == (3, 3, 7)
    assert class_rows(fixed, 8, columns=4) == {3: [0, 1, 3, 4], 7: [2, 5]}
    assert class_rows(range(3), 2) == {0: [0], 1: [1]}, "no row for a class without a sample"
    rows = class_rows(range(100), 1000)
    assert len(rows) == 16 and rows[15] == [15 + 100 * k for k in range(8)]


def cells(sheet: np.ndarray, side: int, gap: int) -> list[list[float]]:
    """Value at the middle of each cell of a grid."""
    step = side + gap
    starts = [
        [(y, x) for x in range(0, sheet.shape[1] - side + 1, step)] for y in range(0, sheet.shape[0] - side + 1, step)
    ]
    return [[float(sheet[y + side // 2, x + side // 2]) for y, x in row] for row in starts]


def sheet_of(path: Path, scale: int) -> np.ndarray:
    return np.array(Image.open(path))[::scale, ::scale][2:, 2:]


def test_a_grid_shows_one_class_per_row(tmp_path: Path) -> None:
    """Image i is a flat grey of level i, so that each cell names its sample."""
    images = np.arange(25, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3)
    save_grid(tmp_path / "plain.png", images)
    scale = 512 // 82
    plain = cells(sheet_of(tmp_path / "plain.png", scale), 8, 2)
    assert plain == [[*range(8)], [*range(8, 16)], [*range(16, 24)], [24, *[128] * 7]]
    save_grid(tmp_path / "classes.png", images, rows=list(class_rows(range(10), 25).values()))
    found = cells(sheet_of(tmp_path / "classes.png", scale), 8, 2)
    expected: list[list[int]] = [[c, c + 10, *([c + 20] if c < 5 else [])] for c in range(10)]
    assert found == [row + [128] * (8 - len(row)) for row in expected]


def reported(folder: Path, classes: Sequence[int] | None) -> ReportedRun:
    np.save(folder / "samples.npy", np.arange(25, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3))
    record = Record(identity="x", classes=classes)
    manifest = Manifest(
        experiment={}, seed=0, identities={}, data={"classes": [*"abcdefghij"]}, records={"sample": record}
    )
    reference = {"dataset": "d", "split": "train", "count": 1, "digest": "x"}
    metrics = Metrics(samples=25, reference=reference, features={})
    return ReportedRun(folder, 0, manifest, metrics, Cost.model_construct(), None)  # type: ignore[arg-type]


def test_the_report_names_the_rows(tmp_path: Path) -> None:
    run = reported(tmp_path, range(10))
    selection = shown(run)
    assert selection.caption == "rows: a, b, c, d, e, f, g, h, i, j"
    picture = grid(run, selection)
    values = cells(picture[:, :, 0], 96, 4)
    assert len(values) == 10 and values[2][:3] == [2, 12, 22] and values[7][:2] == [7, 17]
    assert picture[750, 50, 3] == 255 and picture[750, 250, 3] == 0, "no third sample of class 7"
    plain = reported(tmp_path, None)
    assert shown(plain).caption == "" and [list(row) for row in shown(plain).rows][1:3] == [
        [*range(8, 16)],
        [*range(16, 24)],
    ]
    assert cells(grid(plain, shown(plain))[:, :, 0], 96, 4)[3][0] == 24


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["sampling.guidance=2"], "sampling.guidance=2 needs a class-conditional experiment; set conditioning.classes"),
        (["sampling.guidance=0"], "sampling.guidance=0 needs a class-conditional experiment"),
        (["sampling.classes=[1]"], "sampling.classes needs a class-conditional experiment"),
        ([TEN, "sampling.guidance=-1"], "guidance: input should be greater than or equal to 0"),
        ([TEN, "sampling.guidance=.inf"], "guidance: input should be a finite number"),
        ([TEN, "sampling.classes=[3, 10]"], "there is no class 10; conditioning.classes=10 are 0 to 9"),
        ([TEN, "sampling.classes=[]"], "at least 1 item"),
        (
            [TEN, "sampling.classes=[3]", "sampling.guidance=0"],
            "sampling.classes has no meaning with sampling.guidance=0",
        ),
        ([TEN, "conditioning.dropout=0", "sampling.guidance=2"], "which conditioning.dropout=0 never trains"),
        ([TEN, "conditioning.dropout=0", "sampling.guidance=0"], "which conditioning.dropout=0 never trains"),
        ([TEN, "conditioning.dropout=1"], "conditioning.dropout=1 hides them all"),
        (["conditioning.classes=1"], "greater than or equal to 2"),
        (["conditioning.dropout=0.1"], "conditioning: classes: this key is required"),
        ([TEN, "conditioning.dropuot=0"], "did you mean 'dropout'"),
    ],
)
def test_contradictions_are_one_line(project: Path, changes: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment("smoke:ddpm", changes)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_block_of_the_suite_can_be_taken_back(project: Path) -> None:
    plain = "plain: {method: ddpm, overrides: {conditioning: null}}"
    text = Path("params/suites/smoke.yaml").read_text()
    text = text.replace("experiments:", f"conditioning: {{classes: 10}}\nexperiments:\n  {plain}")
    Path("params/suites/both.yaml").write_text(text)
    assert load_experiment("both:ddpm").classes == 10 and load_experiment("both:plain").conditioning is None
    assert load_experiment("both:ddpm", ["conditioning=null"]).classes == 0


def test_data_whose_labels_do_not_fit(smoke: Path) -> None:
    data = open_store(smoke / "data/digits8").split("train")
    assert data.labels is not None
    ten = load_experiment("smoke:ddpm", [TEN])
    found = training_labels(ten, data)
    assert found is not None and found.dtype == torch.int64 and np.array_equal(found.numpy(), data.labels)
    assert training_labels(load_experiment("smoke:ddpm"), data) is None
    four = dataclasses.replace(data, labels=np.where(data.labels == 4, 5, data.labels))
    negative = dataclasses.replace(data, labels=data.labels - 1)
    for experiment, split, words in (
        (ten, Split(data.images, None), "data/digits8: its training images have no labels"),
        (load_experiment("smoke:ddpm", ["conditioning.classes=8"]), data, "labels run from 0 to 9, .*set it to 10"),
        (
            load_experiment("smoke:ddpm", ["conditioning.classes=12"]),
            data,
            r"no training image of class 10 \(and 1 more\)",
        ),
        (ten, four, "no training image of class 4, "),
        (ten, negative, "labels run from -1 to 8"),
    ):
        with pytest.raises(UserError, match=words):
            training_labels(experiment, split)
    with pytest.raises(UserError, match="no training image of class 10"):
        Run(load_experiment("smoke:ddpm", ["conditioning.classes=12"]), 0, "cpu").train()
