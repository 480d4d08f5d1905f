"""The training loop of every denoiser.

Each step is one stage (one resolution), drawn with probability proportional to its frequency (its length), and everything random in it is
a function of (seed, step). A run that was interrupted at any moment and started again therefore ends in the same weights, and one that
several devices share (``fdm.training.ranks``) in the same up to rounding.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from fdm.config import Precision, TrainingConfig
from fdm.data import Split, to_float
from fdm.errors import UserError
from fdm.experiment import Experiment
from fdm.networks.build import build_network
from fdm.networks.compilation import compile_network
from fdm.networks.unet import NO_CLASS
from fdm.precision import autocast, choose_precision, native_bf16
from fdm.processes import Example, Process, build_process
from fdm.rng import Purpose, derived_seed, step_generator, training_order
from fdm.tensors import below, fill, load_tensors, save_tensors
from fdm.training.checkpoint import optimizer_tensors, restore_optimizer, resume_point, resumed_precision
from fdm.training.images import in_memory, near, pick
from fdm.training.labels import training_labels
from fdm.training.latents import KnownLatents, worth_knowing
from fdm.training.log import Log, Row
from fdm.training.ranks import Ranks
from fdm.training.steps import learning_rate, limit_gradients, run_steps
from fdm.transforms import Codec

CALIBRATION_IMAGES = 4096


@dataclass(frozen=True)
class Part:
    """States, targets, times and classes of one micro-batch."""

    example: Example
    t: Tensor
    labels: Tensor | None


class Trainer:
    """Model, optimiser and average of one run, and the arithmetic of one step."""

    def __init__(
        self,
        experiment: Experiment,
        seed: int,
        process: Process,
        fabric: Fabric,
        precision: Precision = "32",
        latents: KnownLatents | None = None,
    ) -> None:
        self.config: TrainingConfig = experiment.training
        self.precision = precision
        self.flip = experiment.dataset.flip
        self.latents = latents
        self.process, self.seed, self.fabric = process, seed, fabric
        torch.manual_seed(derived_seed(seed, Purpose.INIT))
        self.network = build_network(experiment.network, experiment.dataset.resolution, process, experiment.classes).to(
            fabric.device
        )
        self.conditioning = experiment.conditioning
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        if self.config.compile:
            compile_network(self.network, graphs=False)
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            self.config.lr,
            self.config.betas,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.model, self.optimizer = fabric.setup(self.network, optimizer)
        self._weights: list[Tensor] = list(self.network.parameters())
        self._averages: list[Tensor] = list(self.average.parameters())
        self.micro_batches = self.config.micro_batches(fabric.world_size)
        self.shares = torch.tensor([stage.frequency for stage in process.stages], dtype=torch.float64)

    def step(self, step: int, images: Tensor, labels: Tensor | None = None) -> tuple[int, Tensor, Tensor]:
        """One optimiser step on a batch of ``images`` (N, C, H, W) uint8; returns stage, loss and gradient norm (0-d).

        With several processes the loss is that of this one's rows; their mean is that of the batch.

        Args:
            labels: classes (N,) int64 of the images, where the experiment is conditional.
        """
        stage, parts = self.prepare(step, images, labels)
        loss = self.differentiate(step, stage, parts)
        return stage, loss, self.update(step)

    def fetch(self, step: int, images: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of this process's rows of the batch (on the device), and those images as float."""
        order = torch.from_numpy(training_order(self.seed, step, self.config.batch, len(images)))[self._mine]
        rows, picked = pick(images, order, self.fabric.device)
        return rows, to_float(picked)

    @property
    def _mine(self) -> slice:
        """Rows of the batch that belong to this process."""
        share = self.config.batch // self.fabric.world_size
        return slice(self.fabric.global_rank * share, (self.fabric.global_rank + 1) * share)

    def prepare(self, step: int, images: Tensor, labels: Tensor | None = None) -> tuple[int, Iterable[Part]]:
        """Everything before the network: the stage of a step, and this process's states and targets, made part by part."""
        batch, device, mine = self.config.batch, self.fabric.device, self._mine
        # Drawn for the whole batch by every process, which then takes its own rows: `mine` of the batch, `rows` of those.
        # The stage is drawn on the CPU: Python has to know it, and would wait for a GPU to say it.
        chooser = step_generator(self.seed, step)
        index = int(torch.multinomial(self.shares, 1, generator=chooser))
        draws = chooser if device.type == "cpu" else step_generator(self.seed, step, device)
        stage = self.process.stages[index]
        order, x = self.fetch(step, images)
        mirrored: Tensor | None = None
        if self.flip:
            mirrored = torch.rand(batch, generator=draws, device=device)[mine] < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        # Stratified times: one uniform draw in each of `batch` equal parts of the stage, in image order, which is random.
        offsets = torch.rand(batch, generator=draws, device=device, dtype=torch.float64)
        t = self.process.training_times(
            stage.start + stage.length * (torch.arange(batch, device=device) + offsets) / batch
        )
        t = t[mine]
        eps = torch.randn(batch, *stage.shape, generator=draws, device=device)[mine]
        told: Tensor | None = None
        if self.conditioning is not None:
            assert labels is not None
            # Drawn last: stages, times and noise are those of the unconditional run.
            hidden = torch.rand(batch, generator=draws, device=device)[mine] < self.conditioning.dropout
            told = labels.to(device)[order].masked_fill(hidden, NO_CLASS)
        size = len(x) // self.micro_batches

        def parts() -> Iterator[Part]:
            for start in range(0, len(x), size):
                rows = slice(start, start + size)
                if self.latents:
                    self.latents.of(order[rows], None if mirrored is None else mirrored[rows])
                example = self.process.example(x[rows], t[rows], index, eps[rows])
                yield Part(example, t[rows], None if told is None else told[rows])

        return index, parts()

    def differentiate(self, step: int, stage: int, parts: Iterable[Part]) -> Tensor:
        """Forward and backward passes; returns the loss (0-d), leaves the gradients with the parameters."""
        total = torch.zeros((), device=self.fabric.device)
        for index, part in enumerate(parts):
            # Dropout draws from the global generator: its masks belong to the micro-batch, whichever process takes that.
            number = self.fabric.global_rank * self.micro_batches + index
            torch.manual_seed(derived_seed(self.seed, Purpose.STEP, step, *([number] if number else [])))
            with self.fabric.no_backward_sync(self.model, enabled=index + 1 < self.micro_batches):
                with autocast(self.precision, self.fabric.device):
                    output = self.model(part.example.z, part.t, stage, part.labels)
                loss = self.process.loss(output.float(), part.example.target, part.example.weight) / self.micro_batches
                self.fabric.backward(loss)
            total += loss.detach()
        return total

    def update(self, step: int) -> Tensor:
        """Limit the gradients, move weights and their average; returns the gradients' norm (0-d)."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        norm = limit_gradients(self._weights, self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # Early on the decay is small, so that the random start is forgotten: after the first step it is gone.
        decay = min(self.config.ema, (1 + step) / (10 + step)) if step else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        return norm

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write everything that the next step depends on."""
        save_tensors(
            path,
            {
                **{f"model.{name}": value for name, value in self.network.state_dict().items()},
                **{f"average.{name}": value for name, value in self.average.state_dict().items()},
                **optimizer_tensors(self.network, self.optimizer),
            },
            metadata,
        )

    def load(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """The inverse of ``save``, of what was read from ``path``."""
        fill(self.network, below("model.", tensors), path)
        fill(self.average, below("average.", tensors), path)
        restore_optimizer(self.network, self.optimizer, tensors, path)


def train(
    experiment: Experiment,
    seed: int,
    data: Split,
    folder: Path,
    identity: str,
    fabric: Fabric,
    checkpoint_seconds: float,
    codec: Codec | None = None,
) -> dict[str, Any] | None:
    """Train, or go on training, one run in ``folder``; leaves ``model.safetensors`` and ``training.csv`` there.

    Args:
        data: the training split.
        folder: the run's folder; ``state.safetensors`` there is resumed.
        identity: of the run, kept in every file.
        fabric: the devices; with several, every one of their processes calls this, and the first writes the files.
        checkpoint_seconds: time between saves; it does not change the result.
        codec: the pretrained autoencoder, where the process needs one.

    Returns:
        What the run's record says of it: parameters, steps, images, seconds, calibration; None but in the first process.

    Raises:
        UserError: the loss is not finite, the state on disk is damaged, or the data lack the experiment's classes.
        Interrupted: SIGTERM, SIGINT or SIGUSR1 arrived; the state is saved.
    """
    config, ranks = experiment.training, Ranks(fabric)
    with ranks.together():
        labels = training_labels(experiment, data)
    images = in_memory(data, ranks.count > 1)
    channels, resolution, flip = experiment.dataset.channels, experiment.dataset.resolution, experiment.dataset.flip
    plain = build_process(experiment.method, channels, resolution, codec=codec)
    calibration = fabric.broadcast(plain.calibrate(to_float(images[:CALIBRATION_IMAGES])) if ranks.zero else {})
    images = near(images, fabric.device)
    labels = None if labels is None else labels.to(fabric.device)
    title = f"train {experiment.name} seed {seed}"
    began = time.monotonic()
    needed = plain.pretraining()
    latents: KnownLatents | None = None
    if codec and needed and worth_knowing(needed, len(images) * (1 + flip), config.steps * config.batch):
        latents = KnownLatents(codec, needed, images, flip, fabric.device, f"{title}: latents", ranks.zero)
    process = build_process(experiment.method, channels, resolution, calibration, latents or codec)
    precision = choose_precision(config.precision, experiment.network, native_bf16(fabric.device))
    trainer = Trainer(experiment, seed, process, fabric, fabric.broadcast(precision), latents)

    state = folder / "state.safetensors"
    start, before, logged = 0, 0.0, ""
    with ranks.together():
        if state.exists():
            tensors, metadata = load_tensors(state, identity)
            trainer.precision = resumed_precision(metadata, state)
            trainer.load(tensors, state)
            start, before, logged = resume_point(metadata, state)
    last, first = ranks.highest(start, -start)
    with ranks.together():
        if last != -first:
            raise UserError(f"{folder}: not all processes see the same state there; they need storage that they share")
        log = Log(Row, folder / "training.csv", start, logged) if ranks.zero else None
    pending: list[tuple[int, int, Tensor, Tensor]] = []

    def elapsed() -> float:
        return before + time.monotonic() - began

    def flush() -> str:
        losses = ranks.mean(torch.stack([loss for _, _, loss, _ in pending])).tolist()
        norms = torch.stack([norm for _, _, _, norm in pending]).tolist()
        rows = [
            Row(step, (step + 1) * config.batch, stage, loss, learning_rate(config, step), norm, elapsed())
            for (step, stage, _, _), loss, norm in zip(pending, losses, norms, strict=True)
        ]
        with ranks.together():
            for row in rows:
                if not math.isfinite(row.loss) or not math.isfinite(row.grad_norm):
                    raise UserError(
                        f"{folder}: the loss is not finite at step {row.step} (stage {row.stage}); the state before it is kept. "
                        f"Lower training.lr or training.grad_clip"
                    )
        if log:
            log.add(rows)
        pending.clear()
        return f"loss {rows[-1].loss:.4f}"

    def save(step: int) -> None:
        with ranks.together():
            if log:
                log.write()
                trainer.save(
                    state,
                    {
                        "identity": identity,
                        "step": str(step),
                        "seconds": repr(elapsed()),
                        "log": log.digest(),
                        "precision": trainer.precision,
                    },
                )

    def step(number: int) -> None:
        pending.append((number, *trainer.step(number, images, labels)))

    try:
        run_steps(title, range(start, config.steps), config.batch, step, flush, save, checkpoint_seconds, ranks)
        if log:
            log.write()
    finally:
        if log:
            log.close()
    if not log:
        return None
    metadata = {"identity": identity, "calibration": json.dumps(dict(calibration))}
    save_tensors(folder / "model.safetensors", trainer.average.state_dict(), metadata)
    state.unlink(missing_ok=True)
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "steps": config.steps,
        "images": config.steps * config.batch,
        "encoded": latents.encoded if latents else None,
        "seconds": elapsed(),
        "devices": ranks.count,
        "precision": trainer.precision,
        "calibration": dict(calibration),
        "stage_steps": [sum(row.stage == stage.index for row in log.rows) for stage in process.stages],
    }
