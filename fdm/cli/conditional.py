"""Verbs that use a trained model for more than samples: restore, vary, interpolate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fdm.cli.base import Device, Overrides, Reference, Seed, Target, Threads, run_of, say, set_threads


def restore(
    experiment: Reference,
    seed: Seed = 0,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="super-resolution or deblur. Default: what each stage is.")
    ] = None,
    stage: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Restore from the signal of this stage. Repeatable. Default: those of the experiment, or all."
        ),
    ] = None,
    project: Annotated[
        bool | None,
        typer.Option("--project/--no-project", help="Make predictions agree with y, or not. Default: both."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="SUITE:NAME", help="A trained standard diffusion model to run ILVR and DDNM on."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Images to measure and restore. Default: the test split.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="How many images. Default: 64.")] = None,
    to: Target = None,
    override: Overrides = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Restore down-sampled or blurred images with a trained f-DM, and compare: restore.json, restore.png, restored.npz.

    Example: fdm restore digits:fdm-ds-3 --stage 1 --baseline digits:ddpm
    """
    from fdm.restoration import prepare

    changes = list(override or ())
    if project is not None:
        changes.append(f"restoration.methods=[{'projected' if project else 'unprojected'}]")
    if count:
        changes.append(f"restoration.count={count}")
    if baseline:
        changes.append(f"restoration.baseline={baseline}")
    set_threads(threads)
    record = prepare(experiment, seed, changes, task, stage or [], images, device, to).restore()
    for done in record["tasks"]:
        for method, found in done["scores"].items():
            numbers = ", ".join(f"{name} {value['mean']:.4g}" for name, value in found.items())
            say(f"{experiment} seed {seed}: {done['task']} from stage {done['stage']}: {method}: {numbers}")


def vary(
    experiment: Reference,
    stage: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Hold the state at the start of this stage. Repeatable. Default: those of the experiment, or all.",
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Samples to vary. Default: 4.")] = None,
    variants: Annotated[
        int | None, typer.Option(min=2, help="Images per sample; the first is the sample itself. Default: 8.")
    ] = None,
    seed: Seed = 0,
    to: Target = None,
    override: Overrides = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Draw images that share the coarse part of their history: vary.png, vary.npy.

    Example: fdm vary digits:fdm-ds-3 --stage 1
    """
    from fdm.variations import Variations

    changes = _exploring(override, vary=stage, count=count, columns=variants)
    record = Variations(run_of(experiment, seed, to, changes, device, threads)).make()
    _say_drawn(experiment, seed, record)


def interpolate(
    experiment: Reference,
    count: Annotated[int | None, typer.Option(min=1, help="Pairs of samples. Default: 4.")] = None,
    points: Annotated[
        int | None, typer.Option(min=2, help="Images per pair, from one to the other. Default: 8.")
    ] = None,
    seed: Seed = 0,
    to: Target = None,
    override: Overrides = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Draw images between pairs of samples, at the coarsest stage: interpolate.png, interpolate.npy.

    Example: fdm interpolate digits:fdm-ds-3
    """
    from fdm.variations import Interpolations

    changes = _exploring(override, count=count, columns=points)
    record = Interpolations(run_of(experiment, seed, to, changes, device, threads)).make()
    _say_drawn(experiment, seed, record)


def _exploring(override: list[str] | None, **asked: list[int] | int | None) -> list[str]:
    """Overrides, with those that options stand for after them."""
    return [*(override or ()), *(f"exploration.{key}={value}" for key, value in asked.items() if value)]


def _say_drawn(experiment: str, seed: int, record: dict[str, Any]) -> None:
    rows, columns = record["shape"][:2]
    say(f"{experiment} seed {seed}: {rows} x {columns} images (run {record['identity']})")
