"""`fdm show --cost`: what experiments and whole suites would take on hardware that is not here, with every assumption named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console

from fdm.console import new_table
from fdm.evaluation.budget import Budget, budget_of
from fdm.evaluation.estimate import measure
from fdm.experiment import PARAMS, Experiment, Suite, load_experiment, load_suite

PEAK = {"bf16": 312.0, "32": 156.0}
"""TFLOP/s of dense matrix products on an NVIDIA A100 by its data sheet: bf16, and TF32, which convolutions in float32 use."""
UTILISATION = 0.3
"""Share of the peak that is reached: about what ADM states for its own trainings (2105.05233, appendix A)."""
HOUR = 3600.0


@dataclass(frozen=True)
class Rate:
    """How fast the card is assumed to be.

    Attributes:
        peak: TFLOP/s in any precision, or None for those of ``PEAK``.
        utilisation: share of it that is reached.
    """

    peak: float | None = None
    utilisation: float = UTILISATION

    def hours(self, flops: float, precision: str) -> float:
        """Card-hours of ``flops`` in a precision, a key of ``PEAK``."""
        peak = PEAK[precision] if self.peak is None else self.peak
        return flops / (peak * 1e12 * self.utilisation) / HOUR

    def __str__(self) -> str:
        peak = (
            f"{PEAK['bf16']:g} TFLOP/s (A100, bf16) or {PEAK['32']:g} (TF32, precision 32)"
            if self.peak is None
            else f"{self.peak:g} TFLOP/s"
        )
        return f"{self.utilisation:.0%} of {peak}"


@dataclass(frozen=True)
class Line:
    """One experiment under one seed, in hours; the pretraining is of its autoencoder, shared or not."""

    budget: Budget
    pretraining: float
    training: float
    sampling: float


def lines_of(experiments: Sequence[Experiment], rate: Rate | None) -> list[Line]:
    """Hours by an assumed rate; None: by trials on this machine, where pretraining is not timed and counts as NaN."""
    lines = []
    for experiment in experiments:
        if rate is None:
            speed = measure(experiment)
            budget = speed.budget
            pretraining = float("nan") if budget.autoencoder else 0.0
            lines.append(Line(budget, pretraining, speed.training_seconds / HOUR, speed.sampling_seconds / HOUR))
        else:
            budget = budget_of(experiment)
            # Autoencoders are trained in float32, whatever is trained on their latents.
            pretraining = rate.hours(budget.autoencoder.flops, "32") if budget.autoencoder else 0.0
            training = rate.hours(budget.training_flops, budget.precision)
            sampling = rate.hours(budget.sampling_flops, experiment.sampling.precision)
            lines.append(Line(budget, pretraining, training, sampling))
    return lines


def total_hours(lines: Sequence[Line], seeds: Mapping[str, Sequence[int]] | None = None) -> float:
    """All runs, by default of one seed; an autoencoder that several share is trained once for each seed.

    Pretrainings that were not timed are left out.
    """
    runs = [(line, seed) for line in lines for seed in (seeds[line.budget.experiment.name] if seeds else (0,))]
    shared = {(line.budget.autoencoder.key, seed): line.pretraining for line, seed in runs if line.budget.autoencoder}
    pretraining = sum(hours for hours in shared.values() if hours == hours)
    return pretraining + sum(line.training + line.sampling for line, _ in runs)


def print_cost(reference: str | None, overrides: Sequence[str], rate: Rate | None, console: Console) -> None:
    """Print the table of a suite, of one experiment (``SUITE:NAME`` or a file of ``fdm show --yaml``), or of all suites (None).

    Args:
        rate: assumed; None measures on this machine.
    """
    if reference is None:
        names = sorted(path.stem for path in (PARAMS / "suites").glob("*.yaml"))
        _print_suites([load_suite(name, overrides) for name in names], rate, console)
        return
    if ":" in reference or reference.endswith((".yaml", ".yml")):
        experiment = load_experiment(reference, overrides)
        _print_stages(budget_of(experiment), console)
        _print_experiments(f"{reference}, one seed", [experiment], {experiment.name: (0,)}, rate, console)
        return
    suite = load_suite(reference, overrides)
    experiments = list(suite.experiments.values())
    _print_experiments(f"Suite {suite.name}: {suite.title}", experiments, suite.seeds, rate, console)


def _print_stages(budget: Budget, console: Console) -> None:
    """One row per stage, from data to noise."""
    columns = ("stage", "state", "training share", "evaluations", "FLOP / evaluation", "kept / image")
    passes = ("encodings / image", "decodings / image") if budget.autoencoder else ()
    table = new_table(f"{budget.experiment.title}: stages, from data to noise", *columns, *passes)
    size = 2 if budget.precision == "bf16" else 4
    for part in budget.stages:
        counts = (part.passes.encodings, part.passes.decodings) if budget.autoencoder else ()
        table.add_row(
            str(part.stage.index),
            "×".join(map(str, part.stage.shape)),
            f"{part.share:.1%}",
            str(part.evaluations),
            _si(part.flops),
            _si(part.saved * size) + "B",
            *map(str, counts),
        )
    console.print(table)


def _print_experiments(
    title: str,
    experiments: Sequence[Experiment],
    seeds: Mapping[str, Sequence[int]],
    rate: Rate | None,
    console: Console,
) -> None:
    lines = lines_of(experiments, rate)
    table = new_table(
        title,
        "experiment",
        "parameters",
        "evaluations",
        "FLOP / sample",
        "FLOP training",
        "memory",
        "pretraining",
        "training",
        "sampling",
        "total",
    )
    for line in lines:
        budget = line.budget
        table.add_row(
            budget.experiment.name,
            _si(budget.parameters),
            str(budget.experiment.sampling.passes * budget.experiment.sampling.steps),
            _si(budget.flops_per_sample),
            _si(budget.training_flops),
            _si(budget.memory_bytes) + "B",
            _time(line.pretraining),
            _time(line.training),
            _time(line.sampling),
            _time(total_hours([line])),
        )
    console.print(table)
    total = f"{_time(total_hours(lines))} a seed"
    if (runs := sum(map(len, seeds.values()))) > len(lines):
        total += f", {_time(total_hours(lines, seeds))} for all {runs} runs"
    console.print(f"Total: {total}; an autoencoder that several experiments share is counted once.", highlight=False)
    _assumptions(rate, console)


def _print_suites(suites: Sequence[Suite], rate: Rate | None, console: Console) -> None:
    table = new_table(
        "All suites", "suite", "pixels", "runs", "images a run", "FLOP training", "FLOP sampling", "memory", "total"
    )
    for suite in suites:
        lines = lines_of(list(suite.experiments.values()), rate)
        budgets = [line.budget for line in lines]
        counts = [len(suite.seeds[budget.experiment.name]) for budget in budgets]
        images = {budget.training_images for budget in budgets}
        table.add_row(
            suite.name,
            " / ".join(map(str, sorted({budget.experiment.dataset.resolution for budget in budgets}))),
            str(len(suite.runs)),
            " – ".join(map(_si, sorted({min(images), max(images)}))),
            _si(sum(count * budget.training_flops for count, budget in zip(counts, budgets, strict=True))),
            _si(sum(count * budget.sampling_flops for count, budget in zip(counts, budgets, strict=True))),
            _si(max(budget.memory_bytes for budget in budgets)) + "B",
            _time(total_hours(lines, suite.seeds)),
        )
    console.print(table)
    _assumptions(rate, console)


def _si(value: float) -> str:
    """Three significant digits and a prefix: 1.23 G."""
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 0.9995 * 10**power:
            return f"{_digits(value / 10**power)} {prefix}"
    return f"{_digits(value)} "


def _time(hours: float) -> str:
    """Hours, minutes or seconds; – for none, ? for what was not timed."""
    if hours != hours:
        return "?"
    if hours == 0:
        return "–"
    unit = next(((size, name) for size, name in ((1, "h"), (60, "min")) if hours * size >= 0.9995), (3600, "s"))
    return f"{_digits(hours * unit[0])} {unit[1]}"


def _digits(value: float) -> str:
    """Three significant digits, never an exponent."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.9995 else f"{value:.2g}"


def _assumptions(rate: Rate | None, console: Console) -> None:
    if rate is None:
        hours = (
            f"timed on this machine's CPU with {torch.get_num_threads()} threads, in trials of a few passes; optimiser, data "
            "and autoencoders (?) come on top"
        )
    else:
        hours = f"GPU-hours of one card at {rate}; --peak-tflops and --utilisation change it"
    console.print(
        "FLOP: counted by torch on the meta device, a multiply-add as two. Training: forward plus backward (twice forward), stages weighted by how often they are drawn, and the frozen "
        "autoencoder's passes. A sample: all evaluations, and the decoding of a latent. Pretraining: encoder and decoder, "
        "without perceptual and adversarial losses.\n"
        "Memory: training on one card: weight, gradient, two moments and average (20 bytes a weight; under bf16 2 more for its "
        "copy), and what autograd keeps of one micro-batch (batch / accumulate) at the largest stage, 2 bytes a number under "
        "bf16, else 4, attention in its plain form. Not in it: workspaces, fragmentation, data.\n"
        f"Times: {hours}. Scores are not in it.",
        highlight=False,
    )
