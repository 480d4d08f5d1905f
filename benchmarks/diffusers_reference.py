"""DDPM by diffusers at the size and budget of an experiment of the package, scored as the package scores.

UNet2DModel and DDPMScheduler are trained on the experiment's data with its optimiser settings (learning rate, warm-up, decay,
clipping, averaged weights), images seen, batch and flips, and sample ancestrally with its number of evaluations. The noise schedule, the
prediction and the clipping of predictions are diffusers' defaults (linear, ε, clipped), or with --same those of the experiment. Prints the scores and
writes them as JSON.

    pip install diffusers
    python -m benchmarks.diffusers_reference cifar10-cpu:ddpm --to out/diffusers [--seed 0] [--threads 1] [--same]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim.swa_utils import AveragedModel

from fdm.allocator import keep_freed_memory
from fdm.data import to_float
from fdm.errors import UserError
from fdm.evaluation.features import Kept
from fdm.evaluation.scores import score
from fdm.experiment import Experiment, load_experiment
from fdm.progress import Progress
from fdm.rng import training_order
from fdm.runs import Run, reference_of


def peer(experiment: Experiment) -> nn.Module:
    """UNet2DModel with the experiment's widths, blocks and attention."""
    config, side = experiment.network, experiment.dataset.resolution
    attention = [side >> level in config.attention for level in range(len(config.mult))]
    network: nn.Module = UNet2DModel(
        sample_size=side,
        in_channels=experiment.dataset.channels,
        out_channels=experiment.dataset.channels,
        layers_per_block=config.blocks,
        block_out_channels=[config.channels * mult for mult in config.mult],
        down_block_types=["AttnDownBlock2D" if here else "DownBlock2D" for here in attention],
        up_block_types=["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)],
        attention_head_dim=config.head_channels,
        norm_num_groups=min(32, config.channels // 4),
        add_attention=attention[-1],
        dropout=config.dropout,
    )
    return network


def scheduler_of(experiment: Experiment, same: bool) -> DDPMScheduler:
    """diffusers' defaults, or schedule, prediction and clipping of the experiment. Steps start from pure noise in either case.

    Raises:
        UserError: the experiment is no standard diffusion model, or has what is not done here.
    """
    method = experiment.method.model_dump(mode="json")
    plain = (
        method["process"] == "gaussian" and experiment.conditioning is None and experiment.training.precision == "32"
    )
    if not plain or (experiment.sampling.solver, experiment.sampling.spacing) != ("ancestral", "uniform"):
        raise UserError(
            f"{experiment.name}: needs process gaussian, no classes, float32, ancestral sampling in uniform steps"
        )
    if not same:
        return DDPMScheduler(timestep_spacing="trailing")
    return DDPMScheduler(
        beta_schedule={"cosine": "squaredcos_cap_v2", "linear-beta": "linear"}[method["schedule"]["kind"]],
        prediction_type={"v": "v_prediction", "eps": "epsilon", "x": "sample"}[method["target"]],
        clip_sample=experiment.sampling.clip,
        timestep_spacing="trailing",
    )


def train(experiment: Experiment, images: Tensor, scheduler: DDPMScheduler, seed: int) -> nn.Module:
    """Averaged network after the experiment's budget."""
    config = experiment.training
    torch.manual_seed(seed)
    network = peer(experiment)
    average = AveragedModel(
        network,
        avg_fn=lambda mean, new, count: mean.lerp(new, 1 - min(config.ema, (1 + int(count)) / (10 + int(count)))),
    )
    optimizer = torch.optim.AdamW(network.parameters(), config.lr, config.betas, weight_decay=config.weight_decay)
    with Progress(f"train diffusers seed {seed}", config.steps * config.batch, "img") as bar:
        for step in range(config.steps):
            rate = config.lr * min(1.0, (step + 1) / max(1, config.warmup))
            if config.lr_decay == "cosine":
                rate *= 0.5 * (1 + math.cos(math.pi * step / config.steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            x = to_float(images[torch.from_numpy(training_order(seed, step, config.batch, len(images)))])
            if experiment.dataset.flip:
                x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
            noise, t = torch.randn_like(x), torch.randint(0, scheduler.config.num_train_timesteps, (len(x),))
            targets = {"epsilon": noise, "sample": x, "v_prediction": scheduler.get_velocity(x, noise, t)}
            target = targets[scheduler.config.prediction_type]
            loss = mse_loss(network(scheduler.add_noise(x, noise, t), t).sample, target)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
            average.update_parameters(network)
            bar.advance(config.batch, f"loss {loss.item():.4f}" if step % 10 == 0 else None)
    module: nn.Module = average.module
    return module.eval()


@torch.inference_mode()
def sample(experiment: Experiment, network: nn.Module, scheduler: DDPMScheduler, seed: int) -> np.ndarray:
    """Samples (N, C, H, W) uint8 by diffusers' ancestral sampler."""
    config, data = experiment.sampling, experiment.dataset
    scheduler.set_timesteps(config.steps)
    generator = torch.Generator().manual_seed(seed)
    batches = []
    with Progress(f"sample diffusers seed {seed}", config.count, "img") as bar:
        for start in range(0, config.count, config.batch):
            size = min(config.batch, config.count - start)
            z = torch.randn(size, data.channels, data.resolution, data.resolution, generator=generator)
            for t in scheduler.timesteps:
                z = scheduler.step(network(z, t).sample, t, z, generator=generator).prev_sample
            batches.append((127.5 * (z + 1)).round().clamp(0, 255).to(torch.uint8).numpy())
            bar.advance(size)
    return np.concatenate(batches)


def main() -> None:
    """Train, sample, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="SUITE:NAME, a standard diffusion model")
    parser.add_argument("--to", type=Path, required=True, help="folder for samples, features and scores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--same", action="store_true", help="the experiment's schedule and prediction: cosine, v")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    experiment = load_experiment(options.experiment, options.override)
    data = Run(experiment, options.seed).data
    scheduler = scheduler_of(experiment, options.same)
    images = torch.from_numpy(np.array(data.split("train").images))
    began = time.monotonic()
    network = train(experiment, images, scheduler, options.seed)
    trained = time.monotonic() - began
    samples = sample(experiment, network, scheduler, options.seed)
    options.to.mkdir(parents=True, exist_ok=True)
    np.save(options.to / "samples.npy", samples)
    with Progress("score diffusers", 1, "img") as bar:
        reference = reference_of(data, experiment.evaluation)
        scores = score(Kept(samples, options.to / "features"), reference, experiment.evaluation)
        bar.advance(1)
    result = {
        "experiment": options.experiment,
        "overrides": options.override,
        "seed": options.seed,
        "schedule": scheduler.config.beta_schedule,
        "prediction": scheduler.config.prediction_type,
        "clip": scheduler.config.clip_sample,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training_seconds": trained,
        "samples": len(samples),
        "features": scores,
    }
    (options.to / "scores.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
