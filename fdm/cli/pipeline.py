"""Verbs of the pipeline: data, pretrain, train, sample, evaluate."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from fdm.cli.base import Device, Overrides, Reference, Seed, Shard, Target, Threads, run_of, say
from fdm.errors import UserError
from fdm.launch import ALONE, launch, layout

if TYPE_CHECKING:  # torch's import time
    from fdm.runs import Run


def data(
    dataset: Annotated[str, typer.Argument(help="Name of a file in params/datasets, for example digits32.")],
    override: Annotated[
        list[str] | None,
        typer.Option(
            "-o",
            "--override",
            metavar="KEY=VALUE",
            help="Override a key of the dataset, e.g. dataset.path=/data/images for your own. Repeatable.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Rebuild whatever is there, also data built from another description.")
    ] = False,
) -> None:
    """Fetch, check and pack a dataset into data/NAME/.

    Example: fdm data cifar10

    Images that you bring: fdm data ffhq256 -o dataset.path=/data/images1024x1024
    """
    from fdm.data import prepare
    from fdm.experiment import load_dataset
    from fdm.progress import Progress

    with ExitStack() as shown:

        def progress(split: str, total: int) -> Callable[[int], None]:
            shown.close()  # one live bar at a time
            return shown.enter_context(Progress(f"data {dataset} {split}", total, "img")).advance

        store = prepare(load_dataset(dataset, override or ()), force=force, progress=progress)
    for name, split in store.manifest["splits"].items():
        say(f"{store.folder}/{name}: {split['count']:,} images of {'×'.join(map(str, split['shape'][1:]))}")


def pretrain(
    experiments: Annotated[list[str], typer.Argument(metavar="EXPERIMENT...", help="SUITE:NAME, any number.")],
    seed: Seed = 0,
    to: Target = None,
    override: Overrides = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train the autoencoders that experiments with latent signals need; run the same command again to resume.

    Experiments that need the same one share it; those that need none are skipped.

    --to takes one experiment. An autoencoder trains on one device.

    Example: fdm pretrain latent:fdm-vqvae --to results/latent/fdm-vqvae/seed0
    """
    if to and len(experiments) > 1:
        raise UserError(f"--to {to}: name one experiment, not {len(experiments)}; each has a folder of its own")
    if (several := layout()).world > 1:
        with several.one_voice():
            raise UserError(
                f"an autoencoder trains on one device, not {several.world}: start one process of `fdm pretrain`"
            )
    for experiment in experiments:
        record = run_of(experiment, seed, to, override, device, threads).pretrain()
        if record is None:
            say(f"{experiment}: needs no autoencoder")
            continue
        metrics = record["metrics"]
        use = f", {metrics['codebook_use']:.0%} of the codes used" if "codebook_use" in metrics else ""
        say(
            f"{experiment} seed {seed}: autoencoder of {record['images']:,} images in {record['seconds']:.0f} s, "
            f"PSNR {metrics['psnr']:.2f} dB on {metrics['count']:,} held-out images{use} (run {record['identity']})"
        )


def train(
    experiment: Reference,
    seed: Seed = 0,
    to: Target = None,
    override: Overrides = None,
    device: Device = "auto",
    threads: Threads = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="GPUs (without a GPU: processes) of this machine that share each batch.")
    ] = None,
    num_nodes: Annotated[int | None, typer.Option(min=1, help="Machines; see docs/devices.md.")] = None,
) -> None:
    """Train one experiment; run the same command again to resume, also on another number of devices.

    Example: fdm train digits:ddpm --seed 0 --to results/digits/ddpm/seed0

    On two GPUs: fdm train cifar10:ddpm --devices 2, or torchrun --nproc-per-node 2 -m fdm train cifar10:ddpm
    """
    several = layout(devices, num_nodes)
    if several.world > 1:
        # Before torch is loaded: its C++ code warns of what ``connect`` asks of it on purpose.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with several.one_voice():
        run = run_of(experiment, seed, to, override, device, threads)
        run.check_layout(several)
    if not several.started:
        if not run.trained:
            sys.exit(launch(several))
        several = ALONE
    if several.rank == 0:
        _note_count(run)
    record = run.train(several)
    if record:
        say(
            f"{experiment} seed {seed}: trained on {record['images']:,} images in {record['seconds']:.0f} s "
            f"(run {record['identity']})"
        )


def sample(
    experiment: Reference,
    seed: Seed = 0,
    to: Target = None,
    override: Overrides = None,
    device: Device = "auto",
    threads: Threads = None,
    shard: Shard = "1/1",
) -> None:
    """Draw samples from a trained experiment; finished batches are kept when it is interrupted.

    With --shard, only that part is drawn. Without it, what is still missing is drawn and all parts are joined.

    Example: fdm sample digits:ddpm --shard 2/4
    """
    run = run_of(experiment, seed, to, override, device, threads)
    _note_count(run)
    record = run.sample(*_shard(shard))
    if record:
        say(
            f"{experiment} seed {seed}: {record['count']:,} samples in {record['seconds']:.0f} s (run {record['identity']})"
        )
    else:
        say(f"{experiment} seed {seed}: shard {shard} is drawn; `fdm sample` without --shard puts the shards together")


def evaluate(
    experiment: Reference,
    seed: Seed = 0,
    to: Target = None,
    override: Overrides = None,
    device: Device = "auto",
    threads: Threads = None,
    shard: Shard = "1/1",
) -> None:
    """Score samples and count their cost: metrics.json, cost.json, manifest.json.

    With --shard, only features of that part are extracted. Without it, missing features are extracted and scores computed.

    Example: fdm evaluate digits:ddpm --to results/digits/ddpm/seed0
    """
    metrics = run_of(experiment, seed, to, override, device, threads).evaluate(*_shard(shard))
    if metrics is None:
        say(
            f"{experiment} seed {seed}: features of shard {shard} are there; `fdm evaluate` without --shard makes scores"
        )
        return
    for network, scores in metrics["features"].items():
        say(f"{experiment} seed {seed}: {network}: " + ", ".join(f"{k} {v:.4g}" for k, v in scores.items()))


def _note_count(run: Run) -> None:
    """Say that samples will be too few to be scored, if so: they may be meant for the eye alone."""
    try:
        run.experiment.check_count()
    except UserError as error:
        say(f"note: {error}; `fdm evaluate` will refuse")


def _shard(text: str) -> tuple[int, int]:
    """I/N as the shard's number from 0, and how many there are."""
    part, separator, parts = text.partition("/")
    if not (separator and part.isdecimal() and parts.isdecimal()):
        raise UserError(f"--shard {text}: expected I/N, for example 1/4")
    return int(part) - 1, int(parts)
