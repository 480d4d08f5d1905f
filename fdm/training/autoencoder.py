"""The training loop of every autoencoder: reconstruction, the bottleneck's penalty, and for VQGAN a discriminator.

Everything random in a step is a function of (seed, step), as in ``fdm.training.loop``, so an interrupted run ends in the same
weights. The weights that are kept are the last ones: a moving average would not match the codebook, which moves by itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdm.config import AutoencoderConfig
from fdm.data import to_float
from fdm.errors import UserError
from fdm.networks.autoencoder import Autoencoder
from fdm.networks.discriminator import Discriminator, adaptive_weight, hinge
from fdm.networks.perceptual import NAME as PERCEPTUAL_NETWORK
from fdm.networks.perceptual import PerceptualLoss
from fdm.processes import Pretraining
from fdm.rng import Purpose, derived_seed, step_generator, training_order
from fdm.tensors import below, fill, load_tensors, save_tensors
from fdm.training.checkpoint import optimizer_tensors, restore_optimizer, resume_point
from fdm.training.images import near, pick
from fdm.training.log import Log
from fdm.training.steps import learning_rate, limit_gradients, run_steps

STATISTICS_IMAGES = 16_384
"""Latents are standardised by at most so many training images."""
MODEL, LOG, STATE = "autoencoder.safetensors", "autoencoder.csv", "state.safetensors"


@dataclass(frozen=True)
class Row:
    """One optimiser step; losses are unweighted, 0 where a kind has no such term; perplexity is 0 without a codebook."""

    step: int
    images: int
    loss: float
    reconstruction: float
    penalty: float
    perceptual: float
    adversarial: float
    discriminator: float
    perplexity: float
    lr: float
    grad_norm: float
    seconds: float

    def scalars(self) -> dict[str, float]:
        names = ("loss", "reconstruction", "penalty", "perceptual", "adversarial", "discriminator", "perplexity")
        return {f"autoencoder/{name}": getattr(self, name) for name in names}


class AutoencoderTrainer:
    """Model, discriminator and optimisers of one run, and the arithmetic of one step.

    Args:
        needed: configuration and shape.
        seed: of the run; the autoencoder draws from streams of its own.
        flip: mirror half of the images.
    """

    TERMS = (
        "loss",
        "reconstruction",
        "penalty",
        "perceptual",
        "adversarial",
        "discriminator",
        "perplexity",
        "grad_norm",
    )

    def __init__(self, needed: Pretraining, seed: int, flip: bool, device: torch.device) -> None:
        self.config: AutoencoderConfig = needed.config
        self.needed, self.flip, self.device = needed, flip, device
        self.seed = derived_seed(seed, Purpose.AUTOENCODER)
        torch.manual_seed(derived_seed(self.seed, Purpose.INIT))
        self.model = Autoencoder(self.config, needed.shape).to(device)
        self.optimizer = self._optimizer(self.model)
        self.perceptual = PerceptualLoss().to(device) if self.config.perceptual else None
        self.discriminator: Discriminator | None = None
        if self.config.adversarial:
            self.discriminator = Discriminator(needed.shape, self.config.width).to(device)
            self.discriminator_optimizer = self._optimizer(self.discriminator)

    def _optimizer(self, module: nn.Module) -> torch.optim.AdamW:
        return torch.optim.AdamW(module.parameters(), self.config.lr, self.config.betas, weight_decay=0.0, fused=True)

    def step(self, step: int, images: Tensor) -> Tensor:
        """One optimiser step on all of ``images`` (N, C, H, W) uint8; returns the terms of ``TERMS`` as one vector."""
        config = self.config
        draws = step_generator(self.seed, step, self.device)
        order = torch.from_numpy(training_order(self.seed, step, config.batch, len(images)))
        x = to_float(pick(images, order, self.device)[1])
        if self.flip:
            mirrored = torch.rand(config.batch, generator=draws, device=self.device) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        x = self.needed.signal(x)
        # A VAE's latents and the places of revived codes come from the global generator.
        torch.manual_seed(derived_seed(self.seed, Purpose.STEP, step))

        self.model.train()
        decoded, code = self.model(x)
        zero = torch.zeros((), device=self.device)
        reconstruction = (decoded - x).square().mean()
        perceptual = self.perceptual(decoded, x) if self.perceptual else zero
        image_loss = reconstruction + config.perceptual * perceptual
        loss = image_loss + (config.commitment if config.quantised else config.kl) * code.penalty
        adversarial = judged = zero
        fooling = self.discriminator is not None and step >= config.adversarial_start * config.steps
        if fooling:
            assert self.discriminator
            self.discriminator.requires_grad_(False)
            adversarial = -self.discriminator(decoded).mean()
            weight = adaptive_weight(image_loss, adversarial, self.model.last_layer)
            loss = loss + config.adversarial * weight * adversarial
        norm = self._descend(loss, self.model, self.optimizer, step)
        if fooling:
            assert self.discriminator
            self.discriminator.requires_grad_(True)
            judged = hinge(self.discriminator(x), self.discriminator(decoded.detach()))
            self._descend(judged, self.discriminator, self.discriminator_optimizer, step)
        perplexity = code.perplexity.nan_to_num(0.0)
        terms = (loss, reconstruction, code.penalty, perceptual, adversarial, judged, perplexity, norm)
        return torch.stack([term.detach() for term in terms])

    def _descend(self, loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        optimizer.zero_grad()
        loss.backward()
        norm = limit_gradients(list(module.parameters()), self.config.grad_clip)
        optimizer.step()
        return norm

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write everything that the next step depends on."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= optimizer_tensors(self.model, self.optimizer)
        if self.discriminator:
            tensors |= {f"discriminator.{name}": value for name, value in self.discriminator.state_dict().items()}
            moments = optimizer_tensors(self.discriminator, self.discriminator_optimizer)
            tensors |= {f"discriminator_{name}": value for name, value in moments.items()}
        save_tensors(path, tensors, metadata)

    def load(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """The inverse of ``save``, of what was read from ``path``."""
        fill(self.model, below("model.", tensors), path)
        restore_optimizer(self.model, self.optimizer, tensors, path)
        if self.discriminator:
            fill(self.discriminator, below("discriminator.", tensors), path)
            moments = below("discriminator_", tensors)
            restore_optimizer(self.discriminator, self.discriminator_optimizer, moments, path)


def pretrain(
    needed: Pretraining,
    name: str,
    seed: int,
    images: Tensor,
    flip: bool,
    folder: Path,
    identity: str,
    device: torch.device,
    checkpoint_seconds: float,
) -> dict[str, Any]:
    """Train, or go on training, one autoencoder in ``folder``; leaves ``autoencoder.safetensors`` and ``autoencoder.csv``.

    Args:
        name: what the progress line calls it.
        images: training data (N, C, H, W) uint8; ``needed.signal`` makes what is encoded of them.
        identity: of the run, kept in every file.
        checkpoint_seconds: time between saves; it does not change the result.

    Returns:
        What the run's record says of it: parameters, steps, images, seconds, the network behind the perceptual loss.

    Raises:
        UserError: the loss is not finite, the encoder has collapsed, or the state on disk is damaged.
        Interrupted: SIGTERM, SIGINT or SIGUSR1 arrived; the state is saved.
    """
    config, state = needed.config, folder / STATE
    trainer = AutoencoderTrainer(needed, seed, flip, device)
    start, before, logged = 0, 0.0, ""
    if state.exists():
        tensors, metadata = load_tensors(state, identity, "pretrain")
        trainer.load(tensors, state)
        start, before, logged = resume_point(metadata, state)
    log = Log(Row, folder / LOG, start, logged)
    pending: list[tuple[int, Tensor]] = []
    began = time.monotonic()

    def elapsed() -> float:
        return before + time.monotonic() - began

    def flush() -> str:
        values = torch.stack([terms for _, terms in pending]).tolist()
        rows = [_row(trainer, step, terms, elapsed()) for (step, _), terms in zip(pending, values, strict=True)]
        for row in rows:
            if not math.isfinite(row.loss) or not math.isfinite(row.grad_norm):
                raise UserError(
                    f"{folder}: the autoencoder's loss is not finite at step {row.step}; the state before it is kept. "
                    f"Lower autoencoder.lr or autoencoder.grad_clip"
                )
        log.add(rows)
        pending.clear()
        return f"mse {rows[-1].reconstruction:.4f}"

    def save(step: int) -> None:
        log.write()
        seconds = repr(elapsed())
        trainer.save(state, {"identity": identity, "step": str(step), "seconds": seconds, "log": log.digest()})

    title, close = f"pretrain {name} seed {seed}", near(images, device)

    def step(number: int) -> None:
        pending.append((number, trainer.step(number, close)))

    try:
        run_steps(title, range(start, config.steps), config.batch, step, flush, save, checkpoint_seconds)
        log.write()
    finally:
        log.close()
    model = trainer.model.eval()
    try:
        model.measure(needed.signal(to_float(images[:STATISTICS_IMAGES])))
    except ValueError as error:
        raise UserError(
            f"{folder}: {error}; lower autoencoder.kl or autoencoder.lr, or raise autoencoder.images"
        ) from None
    save_tensors(folder / MODEL, model.state_dict(), {"identity": identity})
    state.unlink(missing_ok=True)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "latent_shape": list(model.latent_shape),
        "steps": config.steps,
        "images": config.steps * config.batch,
        "seconds": elapsed(),
        "perceptual_network": PERCEPTUAL_NETWORK if config.perceptual else None,
    }


def _row(trainer: AutoencoderTrainer, step: int, terms: list[float], seconds: float) -> Row:
    value = dict(zip(trainer.TERMS, terms, strict=True))
    norm = value.pop("grad_norm")
    images = (step + 1) * trainer.config.batch
    return Row(
        step=step, images=images, **value, lr=learning_rate(trainer.config, step), grad_norm=norm, seconds=seconds
    )
