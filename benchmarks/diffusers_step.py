"""A training step and an evaluation of diffusers' UNet2DModel beside those of the package, at one size, in one process.

Both train a standard diffusion model on the same noise images: batch, noise, forward, backward, clipping, AdamW. The package's step
also averages the weights, in the precision that ``training.precision=auto`` takes and in plain float32; diffusers' is written as
its documentation trains, in eager float32 (and on a GPU in bfloat16 autocast too). With ``--compile`` the package has a row more,
``auto`` and compiled. All run in turn under the same allocator settings.

    pip install diffusers
    python -m benchmarks.diffusers_step [--side 64] [--batch 16] [--rounds 10] [--threads 2] [--device cpu] [--compile]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from diffusers import DDPMScheduler, UNet2DModel  # type: ignore[import-not-found]
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from fdm.allocator import keep_freed_memory
from fdm.benchmark.clock import Timing, alternate
from fdm.benchmark.subject import Subject, subject_of
from fdm.data import to_float
from fdm.device import device_name
from fdm.experiment import load_experiment
from fdm.launch import ALONE, connect
from fdm.precision import autocast, choose_precision, native_bf16
from fdm.training.loop import Trainer


def peer_network(side: int) -> nn.Module:
    """The size of ``params/networks/peer64.yaml``: attention where the side is 16 and 8."""
    sides = [side >> level for level in range(4)]
    network: nn.Module = UNet2DModel(
        sample_size=side,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(64, 128, 192, 256),
        down_block_types=["AttnDownBlock2D" if s in (16, 8) else "DownBlock2D" for s in sides],
        up_block_types=["AttnUpBlock2D" if s in (16, 8) else "UpBlock2D" for s in reversed(sides)],
        attention_head_dim=64,
    )
    return network


def peer_step(network: nn.Module, subject: Subject, precision: str) -> Callable[[], None]:
    """One training step as in diffusers' documentation."""
    device, scheduler = subject.device, DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

    def step() -> None:
        x = to_float(subject.images.to(device))
        noise = torch.randn_like(x)
        t = torch.randint(0, 1000, (len(x),), device=device)
        with autocast(precision, device):
            output = network(scheduler.add_noise(x, noise, t), t).sample
        mse_loss(output.float(), noise).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def own_step(subject: Subject, precision: str) -> Callable[[], None]:
    """One training step of the package."""
    chosen = choose_precision(precision, subject.experiment.network, native_bf16(subject.device))
    trainer = Trainer(subject.experiment, 0, subject.process, connect(ALONE, subject.device), chosen)
    numbers = iter(range(1 << 30))
    return lambda: trainer.step(next(numbers), subject.images) and None


def evaluation(call: Callable[[], object], precision: str, device: torch.device) -> Callable[[], None]:
    """One evaluation without gradients."""

    def evaluate() -> None:
        with torch.inference_mode(), autocast(precision, device):
            call()

    return evaluate


def report(title: str, timings: dict[str, Timing], reference: str) -> None:
    """Medians with quartiles, and ratios round by round."""
    print(title)
    for name, timing in timings.items():
        low, high = timing.quartiles
        ratio = timings[reference].over(timing)
        least, most = ratio.quartiles
        times = (
            "" if name == reference else f"   {ratio.median:.2f} [{least:.2f}, {most:.2f}] times as fast as {reference}"
        )
        print(f"  {name:<24} {1e3 * timing.median:9.1f} ms [{1e3 * low:.1f}, {1e3 * high:.1f}]{times}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    overrides = [f"dataset.resolution={options.side}", f"training.batch={options.batch}"]
    subject = subject_of(load_experiment("speed:ddpm", overrides), options.batch, device)
    peer = peer_network(options.side).to(device)

    x, t = to_float(subject.images.to(device)), torch.rand(options.batch, device=device)
    sizes = []
    for network, arguments in ((subject.network, (x, t, 0)), (peer, (x, 1000 * t))):
        parameters = sum(parameter.numel() for parameter in network.parameters())
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(*arguments)
        sizes.append(
            f"{parameters / 1e6:.1f} M parameters, {counter.get_total_flops() / len(x) / 1e9:.2f} GFLOP an image"
        )
    print(f"{device_name(device)}, {torch.get_num_threads()} threads, {options.side} pixels, batch {options.batch}")
    print(f"package: {sizes[0]}; diffusers: {sizes[1]}")

    halves = ("32", "bf16") if device.type == "cuda" else ("32",)
    steps = {f"diffusers {p}": peer_step(peer, subject, p) for p in halves}
    steps |= {f"package {p}": own_step(subject, p) for p in ("32", "auto")}
    if options.compile:
        experiment = load_experiment("speed:ddpm", [*overrides, "training.compile=true"])
        compiled = subject_of(experiment, options.batch, device)
        steps["package auto, compiled"] = own_step(compiled, "auto")
    report("training step", alternate(steps, options.rounds, device), "diffusers 32")

    own = subject.network.eval()
    calls = {f"diffusers {p}": evaluation(lambda: peer(x, 1000 * t), p, device) for p in halves}
    calls |= {f"package {p}": evaluation(lambda: own(x, t, 0), p, device) for p in ("32", "bf16")}
    report("evaluation", alternate(calls, options.rounds, device), "diffusers 32")


if __name__ == "__main__":
    main()
