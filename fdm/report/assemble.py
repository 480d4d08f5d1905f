"""Build a report beside its place, then put it there in one step."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fdm.errors import UserError
from fdm.report import style
from fdm.report.figures import quality_against_cost, training_curves
from fdm.report.load import Method, Results, load
from fdm.report.page import Drawing, Grid, render, slug
from fdm.report.plan import read_plan
from fdm.report.restoration import restoration_table, sheets
from fdm.report.reverse import reverse_process
from fdm.report.samples import encode, grid, shown, side_by_side
from fdm.report.settings import describe, settings_table
from fdm.report.style import Look
from fdm.report.tables import main_table, runs_table, stage_table, training_table
from fdm.report.write import write_table

OURS = {"index.html", "tables", "figures"}


def build(suite: str, results: Path, target: Path) -> Path:
    """Read the results of a suite and write its report.

    Args:
        suite: its name; ``params/suites/<suite>.yaml`` gives order, title and seeds (or a path to such a file).
        results: the suite's folder, ``results/<suite>``, with ``<experiment>/seed<k>/`` in it.
        target: folder of the report, ``reports/<suite>``; replaced as a whole when the new one is complete.

    Returns:
        Path of the page, ``<target>/index.html``.

    Raises:
        UserError: a file is missing, damaged or of another run, or the report cannot be written. The old report stays.
    """
    _refuse_foreign(target)
    found = load(Path(suite).stem if suite.endswith((".yaml", ".yml")) else suite, results, read_plan(suite))
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(part, ignore_errors=True)
        (part / "tables").mkdir(parents=True)
        (part / "figures").mkdir()
        (part / "index.html").write_text(_write(found, part), encoding="utf-8", newline="\n")
        _swap(part, target)
    except OSError as error:
        raise UserError(f"{target}: cannot write the report: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target / "index.html"


def _write(results: Results, part: Path) -> str:
    tables = [
        main_table(results),
        training_table(results),
        stage_table(results),
        settings_table(results),
        runs_table(results),
    ]
    conditional = restoration_table(results)
    if conditional:
        tables.append(conditional)
    for table in tables:
        write_table(table, part / "tables")
    looks, figures = style.looks(results), part / "figures"
    with style.drawing():
        quality = Drawing(
            "quality",
            "Quality against the cost of a sample",
            "One mark per method: mean over seeds, bars are 95 % t-intervals where there are at least two seeds. "
            "Towards the lower left: better for less. FLOPs are counted, time was measured on the device named "
            "above.",
            "Scatter plots of distance to the reference images against FLOPs and against time per sample, one "
            "mark per method",
            style.save(quality_against_cost(results, looks), figures, "quality"),
        )
        curves = Drawing(
            "training",
            "Loss against images seen",
            "Mean of the logged losses over windows of 1/40 of the budget and over seeds (band: lowest to highest "
            "seed). Losses of different methods are not comparable: they differ in target, in weighting and in "
            "the signal that is to be predicted, and a method with stages averages over stages of different "
            "difficulty. Read each line for its own trend; the panels show the same losses for the steps of one "
            "stage.",
            "Training loss against images seen, one line per method, for all steps and for the steps of each stage",
            style.save(training_curves(results, looks), figures, "training"),
        )
        reverse = [_reverse(method, results, looks[method.name], figures) for method in results.methods]
        selections = {method.name: shown(method.runs[0]) for method in results.methods}
        pictures = {method.name: grid(method.runs[0], selections[method.name]) for method in results.methods}
        style.save(side_by_side(results, pictures), figures, "samples")
    grids = []
    for method in results.methods:
        media, content = encode(pictures[method.name])
        height, width = pictures[method.name].shape[:2]
        alt = f"Grid of samples of {method.title}, seed {method.runs[0].seed}"
        caption = " · ".join(filter(None, (describe(method, results), selections[method.name].caption)))
        grids.append(Grid(method.name, method.title, caption, alt, media, content, width, height))
    for sheet in (restored := sheets(results)):
        shutil.copyfile(sheet.path, figures / f"restore-{slug(sheet.name)}.png")
    restorations = [
        Grid(s.name, s.title, s.caption, f"Restorations with {s.title}", s.media, s.content, s.width, s.height)
        for s in restored
    ]
    named = {table.name: table for table in tables}
    return render(results, looks, named, quality, curves, reverse, grids, restorations)


def _reverse(method: Method, results: Results, look: Look, figures: Path) -> Drawing:
    name = f"reverse-{slug(method.name)}"
    svg = style.save(reverse_process(method.runs[0].trajectory()), figures, name)
    alt = f"Frames of the reverse process of {method.title}: noisy state and denoised signal from noise to data"
    return Drawing(name, method.title, f"Seed {method.runs[0].seed}. {describe(method, results)}.", alt, svg, look)


def _refuse_foreign(target: Path) -> None:
    """The old report is removed as a whole, so a folder with anything else in it is not taken for one."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target}: is a file; the report needs a folder of this name, move the file away")
    foreign = sorted(path.name for path in target.iterdir() if path.name not in OURS and not path.name.startswith("."))
    if foreign:
        raise UserError(f"{target}: holds {foreign[0]!r}, which no report wrote; move it away or name another folder")


def _swap(part: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(part, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
