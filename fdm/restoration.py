"""`fdm restore`: measure images, restore them with a trained model and with simpler means, and compare.

It works in the run store as ``fdm.runs`` does, on top of a finished training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fdm.config import RestorationConfig, nearest
from fdm.data import to_float, to_uint8
from fdm.data.brought import load_images
from fdm.device import stopwatch
from fdm.errors import UserError
from fdm.evaluation.lpips import NAME, SMALLEST, lpips_network
from fdm.evaluation.restoration import Comparer, task_of
from fdm.experiment import Experiment, identity, load_experiment
from fdm.picture import labelled_rows
from fdm.processes import build_process
from fdm.progress import Progress
from fdm.runs import Run
from fdm.sampling.conditional import Reverse, require_plain
from fdm.sampling.sampler import denoiser_of, network_denoiser
from fdm.sampling.solvers import build_solver
from fdm.sources import source_version
from fdm.store import write_arrays

RESTORE_FILES = ("restored.npz", "restore.png", "restore.json")
MOMENTS = 5000
"""Training images from which the Wiener filter learns its spectrum."""
COLUMNS = 8
TASKS = ("super-resolution", "deblur")


def stages_of(experiment: Experiment) -> tuple[int, ...]:
    """All signals of the experiment that are measurements of the data.

    Raises:
        UserError: there is none.
    """
    process = build_process(experiment.method, experiment.dataset.channels, experiment.dataset.resolution)
    found: list[int] = []
    while True:
        try:
            process.measurement(len(found) + 1)
        except ValueError as error:
            if not found:
                raise UserError(f"{experiment.name}: cannot restore: {error}") from None
            return tuple(found)
        found.append(len(found) + 1)


def _task(experiment: Experiment, stage: int) -> str:
    """What restoring from the signal of ``stage`` is.

    Raises:
        UserError: the experiment has no such signal.
    """
    process = build_process(experiment.method, experiment.dataset.channels, experiment.dataset.resolution)
    try:
        return task_of(process.measurement(stage).operators[0])
    except ValueError as error:
        raise UserError(f"{experiment.name}: cannot restore: {error}") from None


def prepare(
    reference: str,
    seed: int,
    overrides: Sequence[str],
    task: str | None,
    stages: Sequence[int],
    images: Path | None,
    device: str = "auto",
    target: Path | None = None,
) -> Restoration:
    """What to restore, with which trained runs.

    Args:
        reference: SUITE:EXPERIMENT.
        task: ``super-resolution`` or ``deblur`` where the stages must be of that kind.
        stages: signals to restore from; none: those of the experiment, or all that there are.

    Raises:
        UserError: unknown experiment or task, or a stage that is of another kind.
    """
    if task not in (None, *TASKS):
        raise UserError(f"--task {task}: must be one of {', '.join(TASKS)}{nearest(task, TASKS)}")
    experiment = load_experiment(reference, overrides)
    if not stages:
        stages = experiment.restoration.stages or stages_of(experiment)
        if task and not (stages := [stage for stage in stages if _task(experiment, stage) == task]):
            raise UserError(f"{experiment.name}: no stage of it is a task of {task}; leave --task out")
    for stage in stages:
        if (found := _task(experiment, stage)) != (task or found):
            raise UserError(f"{experiment.name}: restoring from stage {stage} is {found}, not {task}")
    wanted = [*overrides, f"restoration.stages={list(stages)}"]
    run = Run(load_experiment(reference, wanted), seed, device, target)
    return restoration_of(run, overrides, images)


def restoration_of(run: Run, overrides: Sequence[str] = (), images: Path | None = None) -> Restoration:
    """What the run's experiment asks for, with its baseline under the same seed and overrides.

    Raises:
        UserError: there is no such baseline, or it is of another dataset.
    """
    name = run.experiment.restoration.baseline
    if name is None:
        return Restoration(run, None, images)
    other = load_experiment(name, [change for change in overrides if not change.startswith("restoration.")])
    if other.dataset != run.experiment.dataset:
        raise UserError(f"--baseline {name}: is of dataset {other.dataset.name}, not {run.experiment.dataset.name}")
    suite, _, experiment = name.rpartition(":")
    exported = Path("results", Path(suite).stem, experiment, f"seed{run.seed}")
    return Restoration(run, Run(other, run.seed, run.device, exported), images)


@dataclass(frozen=True)
class Restoration:
    """The restorations that ``run.experiment.restoration`` asks for.

    Attributes:
        baseline: trained standard diffusion on the same data, for ILVR and DDNM, or None.
        images: folder or zip of images to measure, in place of a split of the dataset.
    """

    run: Run
    baseline: Run | None = None
    images: Path | None = None

    @property
    def config(self) -> RestorationConfig:
        """What is asked for."""
        return self.run.experiment.restoration

    @cached_property
    def truth(self) -> np.ndarray:
        """The images, uint8 (N, C, H, W).

        Raises:
            UserError: no such split, or an image that does not fit.
        """
        config, data = self.config, self.run.data
        if self.images is not None:
            return load_images(self.images, self.run.experiment.dataset, config.count)
        if config.split not in data.manifest["splits"]:
            raise UserError(
                f"{data.folder}: has no {config.split} split of images that training has not seen; give --images FOLDER, or "
                f"-o restoration.split=train"
            )
        return np.array(data.split(config.split).images[: config.count])

    @cached_property
    def identity(self) -> str:
        """Covers both trainings, how steps are taken, the images, what is asked for, and the code."""
        asked = self.config.model_dump(mode="json", exclude={"baseline"})
        digest = hashlib.sha256(self.truth.tobytes()).hexdigest()
        other = self.baseline and [self.baseline.train_identity, _steps(self.baseline)]
        code = source_version("restoration")
        return identity(self.run.train_identity, _steps(self.run), asked, digest, other, code)

    def restore(self) -> dict[str, Any]:
        """Restore, or find what was restored; returns the record.

        Raises:
            UserError: a model is not trained, or cannot do what is asked.
        """
        needs = [self.baseline.train_identity] if self.baseline else []
        return self.run.ensure("restore", self.identity, RESTORE_FILES, self._compute, *needs)

    def _compute(self, folder: Path) -> dict[str, Any]:
        run, config, device = self.run, self.config, self.run.torch_device
        run.data.verify()
        truth = to_float(torch.from_numpy(self.truth)).to(device)
        comparer = self._comparer()
        arrays: dict[str, np.ndarray] = {"truth": self.truth}
        rows: list[tuple[str, np.ndarray]] = []
        tasks, began = [], stopwatch(device)
        title = f"restore {run.experiment.name} seed {run.seed}"
        with Progress(title, len(truth) * comparer.events(), "img-steps") as bar:
            for stage in config.stages:
                try:
                    found = comparer.compare(stage, truth, bar.advance)
                except ValueError as error:
                    raise UserError(f"{run.experiment.name}: {error}") from None
                tasks.append(found.summary)
                for name, x in {"measurement": found.y, **found.images}.items():
                    arrays[f"stage{stage}_{name}"] = x.cpu().numpy()
                    rows.append((f"stage {stage}\n{name}", to_uint8(x[:COLUMNS]).cpu().numpy()))
                rows.append(("truth", self.truth[:COLUMNS]))
        write_arrays(folder / "restored.npz", arrays)
        labelled_rows(folder / "restore.png", rows)
        source = f"{run.experiment.dataset.name}, {config.split} split" if self.images is None else self.images.name
        return {
            "train": run.train_identity,
            "baseline": self.baseline and {"experiment": config.baseline, "train": self.baseline.train_identity},
            "images": {"source": source, "count": len(truth), "shape": list(truth.shape[1:])},
            "rounded": config.rounded,
            "cutoff": config.cutoff,
            "lpips": NAME if comparer.lpips else None,
            "tasks": tasks,
            "seconds": stopwatch(device) - began,
        }

    def _comparer(self) -> Comparer:
        own, baseline = reverse_of(self.run), reverse_of(self.baseline) if self.baseline else None
        if baseline:
            try:
                require_plain(baseline.process, own.process.stages[0].shape)
            except ValueError as error:
                raise UserError(f"baseline {self.config.baseline}: {error}") from None
        train = to_float(torch.from_numpy(np.array(self.run.data.split("train").images[:MOMENTS])))
        large = self.run.experiment.dataset.resolution >= SMALLEST
        lpips = lpips_network(device=self.run.torch_device) if self.config.lpips and large else None
        return Comparer(own, baseline, self.config, train, lpips, self.run.experiment.sampling.batch)


def reverse_of(run: Run) -> Reverse:
    """The trained reverse process of a run, with the steps of its sampling.

    Raises:
        UserError: it is not trained.
    """
    network, process = run.model()
    sampling, device = run.experiment.sampling, run.torch_device
    plan = process.plan(sampling.steps, sampling.spacing)
    told = denoiser_of(run.experiment, network, device)
    pixels = sampling.micro_batch and sampling.micro_batch * run.experiment.dataset.resolution**2
    denoise = network_denoiser(network, device, precision=sampling.precision, pixels=pixels)
    return Reverse(process, denoise, build_solver(sampling), plan, run.seed, sampling.clip, device, told=told)


def _steps(run: Run) -> dict[str, Any]:
    """The sampling settings that shape an image."""
    return run.experiment.sampling.model_dump(mode="json", exclude={"batch", "micro_batch", "count"})
