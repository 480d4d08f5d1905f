"""Verbs that train nothing: verify, show, benchmark."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml
from rich.console import Console

from fdm.cli.base import Device, Overrides, Threads, set_threads
from fdm.errors import UserError


def verify(
    experiments: Annotated[
        list[str] | None, typer.Argument(metavar="[EXPERIMENT]...", help="SUITE:NAME, any number.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="All experiments of a suite.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every method of params/methods.")] = False,
    steps: Annotated[
        list[int] | None, typer.Option(help="Number of evaluations. Repeatable. Default: 50, 200, 1000.")
    ] = None,
    solver: Annotated[
        list[str] | None, typer.Option(help="Solver. Repeatable. Default: all that the method has.")
    ] = None,
    side: Annotated[
        int | None, typer.Option(min=2, help="Side of the test images in pixels. Default: 16, with --all 8.")
    ] = None,
    channels: Annotated[int, typer.Option(help="1 or 3.")] = 1,
    spacing: Annotated[
        Literal["uniform", "cosine", "quadratic", "cubic"], typer.Option(help="Spacing of the steps in time.")
    ] = "uniform",
    eta: Annotated[float, typer.Option(min=0, max=2, help="Noise of ddim and multistep2.")] = 0.0,
    measure: Annotated[
        Literal["covariance", "frechet"],
        typer.Option(help="Of errors: of the covariance (coarse frequencies decide), or Fréchet distance in pixels."),
    ] = "covariance",
    exponent: Annotated[
        float, typer.Option(min=0, max=6, help="Of the images' power spectrum: natural images have 2 to 3.")
    ] = 3.0,
    override: Overrides = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the numbers as JSON.")] = None,
) -> None:
    """Check a method with the closed-form oracle: its exact error on Gaussian images, in float64, with the optimal network.

    Example: fdm verify digits:fdm-ds-3 --solver multistep2

    Every method of params/methods in one table, one to two minutes: fdm verify --all
    """
    from fdm.evaluation.verify import choose, print_table, verify_methods

    chosen = choose(experiments or [], suite, every, override or [])
    skip = every or suite is not None
    side = side or (8 if every else 16)
    rows = verify_methods(
        chosen, steps or [50, 200, 1000], solver or [], side, channels, skip, spacing, eta, measure, exponent
    )
    if not rows:
        raise UserError("none of these methods has a closed form")
    print_table(rows)
    if to:
        from fdm.store import write_json

        write_json(to, [row.as_dict() for row in rows])


def show(
    experiment: Annotated[
        str | None,
        typer.Argument(
            metavar="[EXPERIMENT]",
            help="SUITE:NAME or a file; a SUITE lists its experiments. Default: list all suites.",
        ),
    ] = None,
    override: Overrides = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the resolved experiment as a file to keep.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a resolved experiment.")] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="FLOPs, memory and GPU-hours of an experiment, of a SUITE, or of all suites.")
    ] = False,
    peak_tflops: Annotated[
        float | None,
        typer.Option(min=0.001, help="With --cost: peak of the card. Default: A100, 312 (bf16) or 156 (32)."),
    ] = None,
    utilisation: Annotated[
        float | None, typer.Option(min=0.001, max=1, help="With --cost: share of the peak reached. Default: 0.3.")
    ] = None,
    measured: Annotated[bool, typer.Option(help="With --cost: time this machine instead of assuming a card.")] = False,
    threads: Threads = None,
) -> None:
    """List suites, or the experiments of one; show an experiment: configuration, parameters, FLOPs, time on this machine.

    Example: fdm show · fdm show digits · fdm show digits:fdm-ds-3 · fdm show --cost cifar10
    """
    from fdm.experiment import json_schema, load_experiment, load_suite

    if schema:
        print(json.dumps(json_schema(), indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    if not cost and (measured or peak_tflops is not None or utilisation is not None):
        raise UserError("--measured, --peak-tflops and --utilisation go with --cost")
    if cost:
        from fdm.evaluation.cost_table import UTILISATION, Rate, print_cost

        if measured and (peak_tflops is not None or utilisation is not None):
            raise UserError("--measured times this machine; it takes neither --peak-tflops nor --utilisation")
        set_threads(threads)
        rate = None if measured else Rate(peak_tflops, UTILISATION if utilisation is None else utilisation)
        print_cost(experiment, override or (), rate, console)
        return
    if experiment is None or not (":" in experiment or experiment.endswith((".yaml", ".yml"))):
        from fdm.cli.listing import print_suite, print_suites

        if as_yaml or (override and experiment is None):
            raise UserError("--yaml and -o need an experiment, for example digits:ddpm")
        if experiment is None:
            print_suites(console)
        else:
            print_suite(load_suite(experiment, override or ()), console)
        return
    resolved = load_experiment(experiment, override or ())
    text = yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    if as_yaml:
        print(text, end="")
        return
    from fdm.evaluation.estimate import print_estimate

    set_threads(threads)
    Console().print(text, highlight=False, markup=False)
    print_estimate(resolved)


def benchmark(
    experiments: Annotated[
        list[str], typer.Argument(metavar="EXPERIMENT...", help="SUITE:NAME, or a SUITE; any number.")
    ],
    override: Overrides = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE,VALUE", help="Measure at each value, e.g. network.channels=16,32.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images in a batch. Default: that of the training.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Evaluations of the sampler. Default: those of the sampling.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measured repetitions.")] = 10,
    evaluation: Annotated[
        bool, typer.Option("--evaluation", help="Also time the feature networks; missing weights are fetched.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write benchmark.json, benchmark.svg and benchmark.png here.")
    ] = None,
) -> None:
    """Measure training and sampling on this machine: time by part and stage, memory, share of what the machine can do.

    Networks have random weights and images are noise, so nothing has to be prepared or trained first.

    Example: fdm benchmark digits:ddpm digits:fdm-ds-3 --sweep dataset.resolution=32,64
    """
    from fdm.benchmark import benchmark as measure
    from fdm.benchmark import chosen
    from fdm.device import choose

    set_threads(threads)
    measured = chosen(experiments, override or (), sweep, steps)
    console = Console(width=None if sys.stdout.isatty() else 180)
    measure(measured, batch, rounds, choose(device), to, console, evaluation)
