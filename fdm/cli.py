"""The command line: one verb per file of the pipeline; thin, the work is elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from fdm.allocator import keep_freed_memory
from fdm.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Multi-stage diffusion models: train, sample, score, prove, report. EXPERIMENT is SUITE:NAME, for example "
    "[bold]digits:ddpm[/], or a file that `fdm show --yaml` wrote.",
)

Reference = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="SUITE:NAME, or a resolved experiment file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-o", "--override", metavar="KEY=VALUE", help="Override a key, e.g. training.images=1000. Repeatable."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Target = Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Copy finished files here.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Shard = Annotated[
    str, typer.Option(metavar="I/N", help="Only part I of N (from 1); without it, the rest and the whole.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")]


@app.command()
def data(
    dataset: Annotated[str, typer.Argument(help="Name of a file in params/datasets, for example digits32.")],
    override: Overrides = None,
    force: Annotated[bool, typer.Option(help="Prepare again even if the store is complete.")] = False,
) -> None:
    """Fetch, check and pack a dataset into data/NAME/.

    Example: fdm data cifar10
    """
    from fdm.data import prepare
    from fdm.experiment import load_dataset
    from fdm.progress import Progress

    bars: dict[str, Progress] = {}

    def progress(split: str, done: int, total: int) -> None:
        bar = bars.setdefault(split, Progress(f"data {dataset} {split}", total, "img"))
        bar.advance(done - bar.done)

    store = prepare(load_dataset(dataset, override or ()), force=force, progress=progress)
    for name, split in store.manifest["splits"].items():
        _say(f"data/{dataset}/{name}: {split['count']:,} images of {'×'.join(map(str, split['shape'][1:]))}")


@app.command()
def pretrain(
    experiments: Annotated[list[str], typer.Argument(metavar="EXPERIMENT...", help="SUITE:NAME, any number.")],
    seed: Seed = 0,
    to: Target = None,
    override: Overrides = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train the autoencoders that experiments with latent signals need; run the same command again to resume.

    Experiments that need the same one share it; those that need none are passed over. --to takes one experiment.

    Example: fdm pretrain latent:fdm-vqvae --to results/latent/fdm-vqvae/seed0
    """
    if to and len(experiments) > 1:
        raise UserError(f"--to {to}: name one experiment, not {len(experiments)}; each has a folder of its own")
    for experiment in experiments:
        record = _run(experiment, seed, to, override, device, threads).pretrain()
        if record is None:
            _say(f"{experiment}: needs no autoencoder")
            continue
        metrics = record["metrics"]
        use = f", {metrics['codebook_use']:.0%} of the codes used" if "codebook_use" in metrics else ""
        _say(
            f"{experiment} seed {seed}: autoencoder of {record['images']:,} images in {record['seconds']:.0f} s, "
            f"PSNR {metrics['psnr']:.2f} dB on {metrics['count']:,} held-out images{use} (run {record['identity']})"
        )


@app.command()
def train(
    experiment: Reference,
    seed: Seed = 0,
    to: Target = None,
    override: Overrides = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train one experiment; run the same command again to resume.

    Example: fdm train digits:ddpm --seed 0 --to results/digits/ddpm/seed0
    """
    record = _run(experiment, seed, to, override, device, threads).train()
    _say(
        f"{experiment} seed {seed}: trained on {record['images']:,} images in {record['seconds']:.0f} s "
        f"(run {record['identity']})"
    )


@app.command()
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

    With --shard it draws that part alone; without, it draws what no shard has drawn and puts all together.

    Example: fdm sample digits:ddpm --shard 2/4
    """
    record = _run(experiment, seed, to, override, device, threads).sample(*_shard(shard))
    if record:
        _say(
            f"{experiment} seed {seed}: {record['count']:,} samples in {record['seconds']:.0f} s (run {record['identity']})"
        )
    else:
        _say(f"{experiment} seed {seed}: shard {shard} is drawn; `fdm sample` without --shard puts the shards together")


@app.command()
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

    With --shard it only extracts the features of that part of the images; without, it makes what is missing and the scores.

    Example: fdm evaluate digits:ddpm --to results/digits/ddpm/seed0
    """
    metrics = _run(experiment, seed, to, override, device, threads).evaluate(*_shard(shard))
    if metrics is None:
        _say(
            f"{experiment} seed {seed}: features of shard {shard} are there; `fdm evaluate` without --shard makes scores"
        )
        return
    for network, scores in metrics["features"].items():
        _say(f"{experiment} seed {seed}: {network}: " + ", ".join(f"{k} {v:.4g}" for k, v in scores.items()))


@app.command()
def restore(
    experiment: Reference,
    seed: Seed = 0,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="super-resolution or deblur; default: what the stages mean.")
    ] = None,
    stage: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Restore from the signal of this stage; repeatable. Default: all that there are."),
    ] = None,
    project: Annotated[
        bool | None, typer.Option("--project/--no-project", help="Make predictions agree with y. Default: both ways.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="SUITE:NAME", help="A trained standard diffusion model to run ILVR on.")
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
    _set_threads(threads)
    record = prepare(experiment, seed, changes, task, stage or [], images, device, to).restore()
    for done in record["tasks"]:
        for method, found in done["scores"].items():
            numbers = ", ".join(f"{name} {value['mean']:.4g}" for name, value in found.items())
            _say(f"{experiment} seed {seed}: {done['task']} from stage {done['stage']}: {method}: {numbers}")


@app.command()
def vary(
    experiment: Reference,
    stage: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Hold the state at the start of this stage; repeatable. Default: all that there are."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Samples to vary. Default: 4.")] = None,
    variants: Annotated[
        int | None, typer.Option(min=2, help="Images of each, the first is the sample itself. Default: 8.")
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
    record = Variations(_run(experiment, seed, to, changes, device, threads)).make()
    _say_drawn(experiment, seed, record)


@app.command()
def interpolate(
    experiment: Reference,
    count: Annotated[int | None, typer.Option(min=1, help="Pairs of samples. Default: 4.")] = None,
    points: Annotated[int | None, typer.Option(min=2, help="Images from one to the other. Default: 8.")] = None,
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
    record = Interpolations(_run(experiment, seed, to, changes, device, threads)).make()
    _say_drawn(experiment, seed, record)


@app.command()
def verify(
    experiments: Annotated[
        list[str] | None, typer.Argument(metavar="[EXPERIMENT]...", help="SUITE:NAME, any number.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="All experiments of a suite.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every method of params/methods.")] = False,
    steps: Annotated[
        list[int] | None, typer.Option(help="Numbers of evaluations; repeatable. Default 50, 200, 1000.")
    ] = None,
    solver: Annotated[
        list[str] | None, typer.Option(help="Solvers; repeatable. Default: all that the method has.")
    ] = None,
    side: Annotated[
        int | None, typer.Option(min=2, help="Side of the test images, pixels. Default 16, and 8 with --all.")
    ] = None,
    channels: Annotated[int, typer.Option(help="1 or 3.")] = 1,
    override: Overrides = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the numbers as JSON.")] = None,
) -> None:
    """Prove a method against the closed-form oracle: its exact error E(N) on Gaussian images, in float64.

    Example: fdm verify digits:fdm-ds-3 --solver multistep2

    Every method of params/methods in one table, about a minute: fdm verify --all
    """
    from fdm.evaluation.verify import choose, print_table, verify_methods

    chosen = choose(experiments or [], suite, every, override or [])
    skip = every or suite is not None
    side = side or (8 if every else 16)
    rows = verify_methods(chosen, steps or [50, 200, 1000], solver or [], side, channels, skip)
    if not rows:
        raise UserError("none of these methods has a closed form")
    print_table(rows)
    if to:
        from fdm.store import write_json

        write_json(to, [row.as_dict() for row in rows])


@app.command()
def show(
    experiment: Annotated[
        str | None, typer.Argument(metavar="[EXPERIMENT]", help="SUITE:NAME, or a file; with --cost also a SUITE.")
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
        float | None, typer.Option(min=0.001, max=1, help="With --cost: share of the peak reached. Default 0.3.")
    ] = None,
    measured: Annotated[bool, typer.Option(help="With --cost: time this machine instead of assuming a card.")] = False,
    threads: Threads = None,
) -> None:
    """Show what an experiment is and costs: configuration, parameters, FLOPs, evaluations, time on this machine.

    Example: fdm show digits:fdm-ds-3, fdm show --cost cifar10
    """
    from fdm.experiment import json_schema, load_experiment

    if schema:
        print(json.dumps(json_schema(), indent=2))
        return
    if not cost and (measured or peak_tflops is not None or utilisation is not None):
        raise UserError("--measured, --peak-tflops and --utilisation go with --cost")
    if cost:
        from fdm.evaluation.cost_table import UTILISATION, Rate, print_cost

        if measured and (peak_tflops is not None or utilisation is not None):
            raise UserError("--measured times this machine; it takes neither --peak-tflops nor --utilisation")
        _set_threads(threads)
        rate = None if measured else Rate(peak_tflops, UTILISATION if utilisation is None else utilisation)
        print_cost(experiment, override or (), rate, Console(width=None if sys.stdout.isatty() else 140))
        return
    if experiment is None:
        raise UserError("name an experiment, for example digits:ddpm, or give --schema or --cost")
    resolved = load_experiment(experiment, override or ())
    text = yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    if as_yaml:
        print(text, end="")
        return
    from fdm.evaluation.estimate import print_estimate

    _set_threads(threads)
    Console().print(text, highlight=False, markup=False)
    print_estimate(resolved)


@app.command()
def report(
    suite: Annotated[str | None, typer.Argument(help="Suite whose results are reported.")] = None,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: results/SUITE.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: reports/SUITE.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Build nothing: name every cell and file that is not what the results give.")
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="BEFORE AFTER", help="Build nothing: print what differs between two folders results/SUITE."
        ),
    ] = None,
) -> None:
    """Build the report of a suite from its result files alone.

    Example: fdm report digits · fdm report digits --check · fdm report --compare old/results/digits results/digits
    """
    if compare:
        _compare(*compare, to)
        return
    if suite is None:
        raise UserError("name a suite, for example digits, or give --compare BEFORE AFTER")
    from fdm.report import build
    from fdm.report import check as check_report

    name = Path(suite).stem if suite.endswith((".yaml", ".yml")) else suite
    results, to = results or Path("results") / name, to or Path("reports") / name
    if not check:
        _say(f"report: {build(suite, results, to)}")
        return
    found = check_report(suite, results, to)
    for line in found:
        print(line)
    if found:
        raise UserError(f"{to}: {len(found)} differences from {results}; `fdm report {suite}` makes it anew")
    _say(f"report: {to} says what {results} says")


def _compare(before: Path, after: Path, to: Path | None) -> None:
    """Print what changed as Markdown; with ``to`` also write the tables there in all formats."""
    from fdm.report.compare import compare
    from fdm.report.write import as_markdown, write_table

    for table in compare(before, after):
        print(f"## {table.title}\n\n{as_markdown(table)}")
        if to:
            to.mkdir(parents=True, exist_ok=True)
            write_table(table, to)


def _exploring(override: list[str] | None, **asked: list[int] | int | None) -> list[str]:
    """Overrides, with those that options stand for after them."""
    return [*(override or ()), *(f"exploration.{key}={value}" for key, value in asked.items() if value)]


def _say_drawn(experiment: str, seed: int, record: dict[str, Any]) -> None:
    rows, columns = record["shape"][:2]
    _say(f"{experiment} seed {seed}: {rows} x {columns} images (run {record['identity']})")


def _run(experiment, seed, to, override, device, threads):  # type: ignore[no-untyped-def]
    from fdm.experiment import load_experiment
    from fdm.runs import Run

    _set_threads(threads)
    return Run(load_experiment(experiment, override or ()), seed, device, to)


def _shard(text: str) -> tuple[int, int]:
    """I/N as the shard's number from 0, and how many there are."""
    part, separator, parts = text.partition("/")
    if not (separator and part.isdecimal() and parts.isdecimal()):
        raise UserError(f"--shard {text}: expected I/N, for example 1/4")
    return int(part) - 1, int(parts)


def _set_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Entry point: one clear line and status 1 for everything a user can mend."""
    keep_freed_memory()
    try:
        app()
    except UserError as error:
        _say(f"error: {error}")
        sys.exit(1)
