"""Options that several verbs have, and what every verb needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # torch's import time
    from fdm.runs import Run

Reference = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="SUITE:NAME, or a resolved experiment file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="KEY=VALUE",
        help="Override a key, e.g. training.images=1000, or name a dataset, network or method: network=lean32. Repeatable.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=(1 << 63) - 1, help="Seed of everything random.")]
Target = Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Copy the finished files here.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Shard = Annotated[
    str, typer.Option(metavar="I/N", help="Make only part I of N, from 1. Without it: what is missing, and the whole.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all cores.")]


def run_of(
    experiment: str, seed: int, to: Path | None, override: list[str] | None, device: str, threads: int | None
) -> Run:
    """One experiment under one seed, and this process on so many threads."""
    from fdm.experiment import load_experiment
    from fdm.runs import Run

    set_threads(threads)
    return Run(load_experiment(experiment, override or ()), seed, device, to)


def set_threads(threads: int | None) -> None:
    """Threads of torch in this process and in those that it starts; None leaves all cores."""
    if threads:
        import torch

        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # else Lightning chooses a number for each of several processes


def say(text: str) -> None:
    """One line for people, on stderr: stdout is for what was asked for."""
    print(text, file=sys.stderr, flush=True)
