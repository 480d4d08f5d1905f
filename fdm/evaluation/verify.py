"""`fdm verify`: the oracle over experiments and solvers, as one table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from fdm.config import SamplingConfig, nearest
from fdm.errors import UserError
from fdm.evaluation.oracle import calibration_images, image_covariance, require_linear, verify
from fdm.experiment import Experiment, load_experiment, load_suite
from fdm.processes import Process, build_process
from fdm.progress import Progress
from fdm.sampling.solvers import build_solver

SOLVERS = ("ancestral", "ddim", "multistep2", "reverse-diffusion")


@dataclass(frozen=True)
class Row:
    """The oracle's verdict on one experiment and solver; see ``fdm.evaluation.oracle.Verdict``."""

    experiment: str
    solver: str
    errors: dict[int, float]
    order: float
    claimed_order: int
    floor: float | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def verification_process(experiment: Experiment, side: int, channels: int) -> Process:
    """The experiment's process for ``channels`` x side x side images, calibrated on the oracle's own covariance.

    Raises:
        UserError: its stages do not fit images of that size.
    """
    try:
        process = build_process(experiment.method, channels, side)
        require_linear(process)  # before calibration, which would ask for the autoencoder
        calibration = process.calibrate(calibration_images(image_covariance(side, channels)))
        return build_process(experiment.method, channels, side, calibration)
    except ValueError as error:
        raise UserError(f"{experiment.name}: cannot be verified at --side {side}: {error}") from None


def _linear(experiment: Experiment) -> bool:
    return build_process(experiment.method, experiment.dataset.channels, experiment.dataset.resolution).linear


def verify_experiments(
    references: Sequence[str],
    suite: str | None,
    overrides: Sequence[str],
    steps: Sequence[int],
    solvers: Sequence[str],
    side: int,
    channels: int,
) -> list[Row]:
    """Run the oracle for every experiment and solver (none named: all that its process has); progress on stderr.

    Raises:
        UserError: nothing named, unknown solver, too few steps, or a process without a closed form.
    """
    experiments = [load_experiment(reference, overrides) for reference in references]
    if suite:
        for experiment in load_suite(suite, overrides).experiments.values():
            if _linear(experiment):
                experiments.append(experiment)
            else:
                print(f"{experiment.name}: passed over; it has no closed form", file=sys.stderr)
    if not experiments:
        raise UserError("name at least one experiment (for example digits:fdm-ds-3) or give --suite SUITE")
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
    covariance = image_covariance(side, channels)
    rows = []
    processes = [verification_process(experiment, side, channels) for experiment in experiments]
    chosen = [list(solvers or process.solvers) for process in processes]
    try:
        events = sum(
            len(names) * len(process.plan(count))
            for process, names in zip(processes, chosen, strict=True)
            for count in steps
        )
    except ValueError as error:
        raise UserError(f"--steps: {error}") from None
    with Progress("verify", events, "steps") as bar:
        for experiment, process, names in zip(experiments, processes, chosen, strict=True):
            for name in names:
                solver = build_solver(SamplingConfig.model_validate({"solver": name}))
                try:
                    process.check_solver(name)
                    verdict = verify(process, solver, covariance, steps, lambda: bar.advance(1))
                except ValueError as error:
                    raise UserError(f"{experiment.name} with {name}: {error}") from None
                rows.append(Row(experiment.name, name, verdict.errors, verdict.order, solver.order, verdict.floor))
    return rows


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """One line per experiment and solver: E(N), the fitted order against the claimed one, and the floor where there is one."""
    table = Table(
        title="Closed-form oracle: relative error E(N) of the sample covariance, float64",
        caption="order: slope of log E against log N, fitted and (claimed) · floor: limit of E for many steps",
    )
    table.add_column("experiment", overflow="fold")
    table.add_column("solver", no_wrap=True)
    for count in rows[0].errors:
        table.add_column(f"E({count})", justify="right")
    table.add_column("order", justify="right")
    table.add_column("verdict")
    for row in rows:
        verdict = "[green]converges[/]" if row.floor is None else f"[yellow]floor ≈ {row.floor:.2g}[/]"
        errors = (f"{error:.2e}" for error in row.errors.values())
        table.add_row(row.experiment, row.solver, *errors, f"{row.order:.2f} ({row.claimed_order})", verdict)
    (console or Console()).print(table)
