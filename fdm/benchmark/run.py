"""`fdm benchmark`: measure experiments, as they are or over the values of one setting, in one process."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fdm.benchmark.ceiling import measure_ceiling
from fdm.benchmark.clock import Timing
from fdm.benchmark.evaluation import measure_evaluation
from fdm.benchmark.figure import benchmark_figure
from fdm.benchmark.sampling import measure_sampling
from fdm.benchmark.subject import subject_of
from fdm.benchmark.table import Line, as_dict, print_ceilings, print_evaluation, print_sampling, print_training
from fdm.benchmark.training import measure_training
from fdm.device import device_name, reset_peak_memory
from fdm.errors import UserError
from fdm.experiment import Experiment, load_experiment, load_suite
from fdm.precision import choose_precision, native_bf16
from fdm.processes import build_process
from fdm.report.style import drawing, save
from fdm.store import write_json


def chosen(
    references: Sequence[str], overrides: Sequence[str], sweep: str | None, steps: int | None = None
) -> list[tuple[str, Experiment]]:
    """Labels and experiments: every SUITE:NAME and all of every SUITE (a name or a file), at each value of ``sweep``.

    Args:
        sweep: "KEY=VALUE,VALUE,…".
        steps: evaluations of the sampler, where they are not those of each sampling.

    Raises:
        UserError: there is no such experiment, or a setting does not exist or does not fit.
    """
    names: list[str] = []
    for reference in references:
        names += [reference] if ":" in reference else [f"{reference}:{n}" for n in load_suite(reference).experiments]
    return [
        (f"{_short(name)}{f' · {change}' if change else ''}", _at_steps(load_experiment(name, changes), steps))
        for name in names
        for change in _changes(sweep)
        for changes in [[*overrides, *([change] if change else [])]]
    ]


def _at_steps(experiment: Experiment, steps: int | None) -> Experiment:
    """With another number of evaluations. No override: a network that belongs to one number of steps can be timed at others, too."""
    if steps is None:
        return experiment
    process = build_process(experiment.method, experiment.dataset.channels, experiment.dataset.resolution)
    try:
        process.at_steps(steps).plan(steps, experiment.sampling.spacing)
    except ValueError as error:
        raise UserError(f"--steps {steps}: {experiment.name}: {error}") from None
    return experiment.model_copy(update={"sampling": experiment.sampling.model_copy(update={"steps": steps})})


def _short(reference: str) -> str:
    return reference.rpartition(":")[2] if ":" in reference else Path(reference).stem


def _changes(sweep: str | None) -> Iterator[str]:
    if sweep is None:
        yield ""
        return
    key, equals, values = sweep.partition("=")
    if not (key and equals and values):
        raise UserError(f"--sweep {sweep}: expected KEY=VALUE,VALUE, for example network.channels=16,32,64")
    for value in values.split(","):
        yield f"{key}={value}"


def benchmark(
    experiments: Sequence[tuple[str, Experiment]],
    batch: int | None,
    rounds: int,
    device: torch.device,
    to: Path | None,
    console: Console,
    evaluation: bool = False,
) -> None:
    """Measure, print tables, and write ``benchmark.json`` and ``benchmark.svg`` and ``.png`` into ``to``.

    All experiments sample in turn, round by round, so that their ratios do not depend on what else the machine did meanwhile.

    Args:
        experiments: by label.
        batch: images in a batch; None takes that of each training.
        rounds: measured repetitions of everything.
        evaluation: time the feature networks of the experiments, too, at the first one's resolution; their weights may be fetched.

    Raises:
        UserError: weights are missing and cannot be fetched.
    """
    name, threads = device_name(device), torch.get_num_threads()
    where = name if device.type == "cuda" else f"{name}, {threads} thread{'s' if threads > 1 else ''}"
    _say(f"ceilings of {where}")
    ceilings = measure_ceiling(device, rounds)
    print_ceilings(ceilings, where, console)
    subjects = [subject_of(experiment, batch or experiment.training.batch, device) for _, experiment in experiments]
    _say(f"sampling of {', '.join(label for label, _ in experiments)}, in turn")
    samplings = measure_sampling(subjects, rounds)
    lines: list[Line] = []
    for (label, experiment), subject, sampling in zip(experiments, subjects, samplings, strict=True):
        _say(f"training {len(lines) + 1}/{len(experiments)}: {label}")
        for other in subjects:  # the card's memory is measured: that of this training, which has a network of its own
            other.network.cpu()
            if other.codec:
                other.codec.to(device if other is subject else "cpu")
        reset_peak_memory(device)
        precision = choose_precision(experiment.training.precision, experiment.network, native_bf16(device))
        parameters = sum(parameter.numel() for parameter in subject.network.parameters())
        training = measure_training(subject, rounds)
        precisions = (precision, experiment.sampling.precision)
        lines.append(Line(label, experiment.dataset.resolution, *precisions, parameters, training, sampling))
    features: dict[str, Timing] = {}
    if evaluation:
        _say("feature networks")
        wanted = dict.fromkeys(name for _, experiment in experiments for name in experiment.evaluation.features)
        features = measure_evaluation(tuple(wanted), experiments[0][1].dataset.resolution, rounds, device)
    print_training(lines, ceilings, console)
    print_sampling(lines, ceilings, console)
    print_evaluation(features, console)
    console.print(
        "Medians, with quartiles in brackets. Prepare: batch, noise, transforms, targets. Update: clipping, optimiser, average. "
        "Of ceiling: FLOP/s of the network over those of the best convolution above, in the same precision. Data headroom: "
        "batches fetched in the time of one step. × first: FLOPs and time of an image over those of the first row, round by round. Peak: memory of the card during training; on a CPU, of the whole process so far.",
        highlight=False,
    )
    if to:
        machine: dict[str, Any] = {"device": name, "threads": threads, "torch": torch.__version__}
        to.mkdir(parents=True, exist_ok=True)
        write_json(to / "benchmark.json", as_dict(lines, ceilings, features, machine))
        with drawing():
            save(benchmark_figure(lines, where), to, "benchmark")


def _say(text: str) -> None:
    print(f"benchmark: {text}", file=sys.stderr, flush=True)
