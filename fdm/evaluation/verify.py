"""`fdm verify`: the oracle over methods, experiments and solvers, as one table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fdm.config import Frozen, SamplingConfig, Spacing, nearest
from fdm.errors import UserError
from fdm.evaluation.oracle import (
    Covariance,
    calibration_images,
    frechet_error,
    image_covariance,
    relative_error,
    require_linear,
    verify,
)
from fdm.experiment import load_experiment, load_methods, load_suite
from fdm.processes import Process, build_process
from fdm.progress import Progress
from fdm.sampling.solvers import build_solver

SOLVERS = ("ancestral", "ddim", "multistep2", "reverse-diffusion")
MEASURES = {
    "covariance": (relative_error, "E", "relative error E(N) of the sample covariance"),
    "frechet": (frechet_error, "F", "relative Fréchet distance F(N) of the samples' law from the data's"),
}
"""Measures of error, each with its symbol and its title in the table."""


@dataclass(frozen=True)
class Row:
    """The oracle's verdict on one method and solver; see ``fdm.evaluation.oracle.Verdict``.

    Attributes:
        measure: of the errors, a key of ``MEASURES``.
        exact: whether the process claims to fall to zero (``Process.exact``).
    """

    experiment: str
    solver: str
    measure: str
    errors: dict[int, float]
    order: float
    claimed_order: int
    exact: bool
    floor: float | None
    start: float | None

    @property
    def verdict(self) -> str:
        """In a few words."""
        *_, before, last = self.errors.values()
        if last > before:
            return "grows"
        if self.floor is not None:
            return f"floor {self.floor:.2g}"
        return "converges" if self.start is None else f"start {self.start:.0e}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "verdict": self.verdict}


def verification_process(name: str, method: Frozen, side: int, covariance: Covariance) -> Process:
    """The process of ``method`` for images of ``side`` pixels, calibrated on their ``covariance``.

    Raises:
        UserError: its stages do not fit images of that size, or it has no closed form.
    """
    try:
        process = build_process(method, len(covariance), side)
        require_linear(process)  # before calibration, which would ask for the autoencoder
        return build_process(method, len(covariance), side, process.calibrate(calibration_images(covariance)))
    except ValueError as error:
        raise UserError(f"{name}: cannot be verified at --side {side}: {error}") from None


def choose(references: Sequence[str], suite: str | None, every: bool, overrides: Sequence[str]) -> dict[str, Frozen]:
    """The methods to verify, by the names of their experiments or, for ``every``, of their files."""
    chosen = {}
    for reference in references:
        experiment = load_experiment(reference, overrides)
        chosen[experiment.name if experiment.name not in chosen else reference] = experiment.method
    if suite:
        for experiment in load_suite(suite, overrides).experiments.values():
            chosen[experiment.name] = experiment.method
    if every:
        if overrides:
            raise UserError("--all takes the methods as their files have them; -o changes experiments that are named")
        chosen |= load_methods()
    if not chosen:
        raise UserError("name at least one experiment (for example digits:fdm-ds-3), or give --suite SUITE or --all")
    return chosen


def verify_methods(
    methods: Mapping[str, Frozen],
    steps: Sequence[int],
    solvers: Sequence[str],
    side: int,
    channels: int,
    skip: bool = False,
    spacing: Spacing = "uniform",
    eta: float = 0.0,
    measure: str = "covariance",
    exponent: float = 3.0,
) -> list[Row]:
    """Run the oracle for every method and solver (none named: all that its process has); progress on stderr.

    Args:
        spacing: of the steps in time.
        eta: noise of ``ddim`` and ``multistep2``.
        measure: of errors, a key of ``MEASURES``.
        exponent: of the images' power spectrum, (1 + |k|)^-exponent.
        skip: pass over methods that have no closed form or do not fit, and say so on stderr; and solvers that a method lacks.

    Raises:
        UserError: unknown solver, too few steps, a process that does not fit, or one without a closed form.
    """
    for name in solvers:
        if name not in SOLVERS:
            raise UserError(f"--solver {name}: must be one of {', '.join(SOLVERS)}{nearest(name, SOLVERS)}")
    if channels not in (1, 3):
        raise UserError(f"--channels {channels}: must be 1 or 3")
    steps = sorted(set(steps))
    if len(steps) < 2:
        raise UserError(
            "--steps: an order needs at least two numbers of evaluations, for example --steps 50 --steps 200"
        )
    covariance = image_covariance(side, channels, exponent)
    processes: dict[str, Process] = {}
    for name, method in methods.items():
        try:
            processes[name] = verification_process(name, method, side, covariance)
        except UserError as error:
            if not skip:
                raise
            print(f"{name}: passed over: {error}", file=sys.stderr)
    chosen: dict[str, list[str]] = {}
    events = 0
    for name, process in processes.items():
        chosen[name] = [solver for solver in solvers or process.solvers if not skip or solver in process.solvers]
        try:
            for solver in chosen[name]:
                process.check_solver(solver)
            plans = [process.at_steps(count).plan(count, spacing) for count in steps]
        except ValueError as error:
            if not skip:
                raise UserError(f"{name}: {error}") from None
            print(f"{name}: passed over: {error}", file=sys.stderr)
            del chosen[name]
            continue
        events += len(chosen[name]) * sum(map(len, plans))
    rows = []
    with Progress("verify", events, "steps") as bar:
        for name in chosen:
            process = processes[name]
            built = [
                build_solver(SamplingConfig.model_validate({"solver": solver, "eta": eta})) for solver in chosen[name]
            ]
            found = verify(
                process, built, covariance, steps, partial(bar.advance, 1, name), spacing, MEASURES[measure][0]
            )
            for used, verdict in zip(built, found, strict=True):
                rows.append(
                    Row(
                        experiment=name,
                        solver=used.name,
                        measure=measure,
                        errors=verdict.errors,
                        order=verdict.order,
                        claimed_order=used.order,
                        exact=process.exact,
                        floor=verdict.floor,
                        start=verdict.start,
                    )
                )
    return rows


def print_table(rows: Sequence[Row]) -> None:
    """One line per method and solver: E(N), the fitted order against the claimed one, and the floor where there is one."""
    _, symbol, title = MEASURES[rows[0].measure]
    table = Table(
        title=f"Closed-form oracle: {title}, float64",
        caption=f"order: slope of log {symbol} against log N, fitted/claimed · floor: limit of {symbol} for many steps, a structural loss · "
        "start: a limit that is gone (to 1e-4) where sampling starts from the law of z at t = 1 and not from white noise",
        box=SIMPLE_HEAD,
        padding=0,  # 80 columns are enough
        show_edge=False,
    )
    table.add_column("method", overflow="fold", min_width=15)
    table.add_column("solver", no_wrap=True)
    for count in rows[0].errors:
        table.add_column(f"{symbol}({count})", justify="right", no_wrap=True)
    table.add_column("order", justify="right", no_wrap=True)
    table.add_column("verdict", min_width=11)
    for name, group in groupby(rows, lambda row: row.experiment):
        for index, row in enumerate(group):
            # A floor that the process does not own up to is a fault.
            colour = "green" if row.floor is None else "red" if row.exact else "yellow"
            table.add_row(
                "" if index else name,
                row.solver,
                *(f"{error:.2e}" for error in row.errors.values()),
                f"{row.order:.2f}/{row.claimed_order}",
                f"[{colour}]{row.verdict}[/]",
            )
        table.add_section()
    Console().print(table)
