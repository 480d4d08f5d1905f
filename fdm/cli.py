"""The command line: one verb per file of the pipeline; thin, the work is elsewhere."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from rich.console import Console

from fdm.allocator import keep_freed_memory
from fdm.errors import Elsewhere, Interrupted, UserError
from fdm.launch import ALONE, end_with_launcher, launch, layout
from fdm.slurm import requeue

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
Seed = Annotated[int, typer.Option(min=0, max=(1 << 63) - 1, help="Seed of everything random.")]
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

    Experiments that need the same one share it; those that need none are passed over. --to takes one experiment. An autoencoder
    trains on one device.

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
    devices: Annotated[
        int | None, typer.Option(min=1, help="GPUs (on a CPU: processes) of this machine that share each batch.")
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
        run = _run(experiment, seed, to, override, device, threads)
        run.check_layout(several)
    if not several.started:
        if not run.trained:
            sys.exit(launch(several))
        several = ALONE
    record = run.train(several)
    if record:
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
    spacing: Annotated[
        Literal["uniform", "cosine", "quadratic"], typer.Option(help="Of the steps in time.")
    ] = "uniform",
    eta: Annotated[float, typer.Option(min=0, max=1, help="Noise of ddim and multistep2.")] = 0.0,
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
    rows = verify_methods(chosen, steps or [50, 200, 1000], solver or [], side, channels, skip, spacing, eta)
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
    """Measure training and sampling on this machine: time by parts and stages, memory, share of what the machine can do.

    Networks have random weights, images are noise: nothing has to be prepared or trained before.

    Example: fdm benchmark digits:ddpm digits:fdm-ds-3 --sweep dataset.resolution=32,64
    """
    from fdm.benchmark import benchmark as measure
    from fdm.benchmark import chosen
    from fdm.device import choose

    _set_threads(threads)
    measured = chosen(experiments, override or (), sweep, steps)
    console = Console(width=None if sys.stdout.isatty() else 180)
    measure(measured, batch, rounds, choose(device), to, console, evaluation)


@app.command()
def report(
    suite: Annotated[str | None, typer.Argument(help="Suite whose results are reported.")] = None,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: results/SUITE.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: reports/SUITE.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Report what is finished so far; the page says what is missing.")
    ] = False,
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
        _say(f"report: {build(suite, results, to, partial)}")
        return
    found = check_report(suite, results, to)
    for line in found:
        print(line)
    if found:
        raise UserError(f"{to}: {len(found)} differences from {results}; `fdm report {suite}` makes it anew")
    _say(f"report: {to} says what {results} says")


@app.command()
def trace(
    suite: Annotated[str, typer.Argument(help="Suite, for example digits.")],
    table: Annotated[str | None, typer.Argument(help="Table of its report: name or title. Without it: a list.")] = None,
    row: Annotated[str | None, typer.Argument(help="Row: experiment or title. Without it: a list.")] = None,
    column: Annotated[str | None, typer.Argument(help="Column: key or heading. Without it: all of the row.")] = None,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: results/SUITE.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the whole configuration.")] = False,
) -> None:
    """From a number of a table to what made it: files, runs, settings, data, code, seeds, machine, logs, commands.

    Names may be cut short as long as they mean one thing.

    Example: fdm trace digits main fdm-ds-3 frechet
    """
    from fdm.provenance.trace import find_column, find_rows, find_table, tables_of
    from fdm.provenance.trace import trace as trace_cells
    from fdm.provenance.tree import print_rows, print_tables, print_trace

    found, tables = tables_of(suite, results)
    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    if table is None:
        print_tables(found.suite, tables, console)
        return
    chosen = find_table(tables, table)
    if row is None:
        print_rows(found.suite, chosen, console)
        return
    place = None if column is None else find_column(chosen, column)
    traced = trace_cells(found, chosen, find_rows(chosen, row), place)
    if as_json:
        print(json.dumps(traced.as_dict(), indent=2, ensure_ascii=False))
    else:
        print_trace(traced, console)


@app.command()
def publish(
    suite: Annotated[str, typer.Argument(help="Suite with finished runs in results/.")],
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: results/SUITE.")] = None,
    report: Annotated[bool, typer.Option(help="Make the report of all published runs, too.")] = True,
) -> None:
    """Copy what git should hold of finished runs to published/: records, scores, curves, pictures; and make the report of all.

    Example: fdm publish cifar10-cpu && git add published
    """
    from fdm.provenance.publish import publish as copy

    runs = copy(suite, results or Path("results") / suite, report=report)
    print(f"published/results/{suite}: {runs} {'run' if runs == 1 else 'runs'} copied")
    if report:
        print(f"published/reports/{suite}: made of all runs there")


@app.command()
def check(
    suites: Annotated[list[str] | None, typer.Argument(metavar="[SUITE]...", help="Default: all.")] = None,
    metrics: Annotated[int, typer.Option(min=0, help="Runs of each suite whose scores are computed again.")] = 1,
    results: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the suites' results. Default: results and published/results."),
    ] = None,
    reports: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the suites' reports. Default: beside the results.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Is everything as it was made? Files, records, identities, data and tables are compared, some scores computed anew.

    Example: fdm check · fdm check digits --metrics 3
    """
    from fdm.provenance.check import check_everything
    from fdm.provenance.verdict import print_findings

    _set_threads(threads)
    findings = check_everything(suites or [], results, reports, metrics, device)
    print_findings(findings, Console(width=None if sys.stdout.isatty() else 140, highlight=False))
    bad = sum(finding.status == "bad" for finding in findings)
    if bad:
        raise UserError(f"check: {bad} {'thing is' if bad == 1 else 'things are'} not as made; see above")


@app.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Remove them. Default: only list them.")] = False,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Also results of experiments and seeds that their suite no longer names.")
    ] = False,
    unfinished: Annotated[
        float, typer.Option(metavar="DAYS", min=0, help="Unfinished runs that changed within so many days stay.")
    ] = 7,
    results: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Results that count, repeatable: all that use this store. Default: results."),
    ] = None,
) -> None:
    """List, or remove, runs of the store (work/, or $FDM_WORK) that no result refers to; docs/dvc.md.

    Example: fdm gc, then fdm gc --delete
    """
    from fdm.gc import collect

    for line in collect(results or [Path("results")], unfinished, dropped, delete):
        print(line)


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
        os.environ["OMP_NUM_THREADS"] = str(threads)  # else Lightning chooses a number for each of several processes


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


LONGEST = 2000


def _one_line(text: str) -> str:
    """``text`` as one line that cannot steer a terminal, whatever names and values it repeats."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def main() -> None:
    """Entry point: one clear line and status 1 for everything a user can mend."""
    keep_freed_memory()
    end_with_launcher()
    try:
        app()
    except UserError as error:
        if not isinstance(error, Elsewhere):
            _say(f"error: {_one_line(str(error))}")
        if isinstance(error, Interrupted) and error.signal == signal.SIGUSR1:
            requeue()
        sys.exit(error.status)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        _say(f"error: {_one_line(str(error.filename))[:100]}…: the name is too long for a file")
        sys.exit(1)
