"""Restorations of a suite as a table; nothing where no experiment was asked for them."""

from __future__ import annotations

from fdm.report.files import Restored, Task
from fdm.report.numbers import Estimate, Kind, Scale, estimate, scale
from fdm.report.origin import Origin, Source
from fdm.report.results import Method, Results
from fdm.report.table import SAMPLES_ONLY, Cell, Header, Row, Table, printed

COLUMNS: dict[str, tuple[str, str, Kind]] = {
    "psnr": ("PSNR", "dB", "score"),
    "ssim": ("SSIM", "", "score"),
    "lpips": ("LPIPS", "", "score"),
    "consistency": ("Consistency error", "", "score"),
}
ESTIMATORS = {
    "bicubic": "bicubic interpolation",
    "wiener": "Wiener filter",
    "ilvr": "ILVR",
    "ddnm": "DDNM",
    "unprojected": "unprojected",
    "projected": "projected",
}


def restoration_table(results: Results) -> Table | None:
    """One row per experiment, signal and way to restore from it; None where there are none."""
    lines = [(method, *line) for method in results.methods for line in _lines(method)]
    if not lines:
        return None
    present = [
        name for name in COLUMNS if any(name in task.scores[how] for _, _, how, tasks in lines for task in tasks)
    ]
    cells = [[_estimate(tasks, how, name) for _, _, how, tasks in lines] for name in present]
    scales = [
        scale([value.mean for value in column if value], COLUMNS[name][2])
        for name, column in zip(present, cells, strict=True)
    ]
    headers = [
        Header("task", "Task", numeric=False),
        Header("restored_by", "Restored by", numeric=False),
        *(Header(name, *COLUMNS[name][:2]) for name in present),
    ]
    rows = []
    for i, (method, what, how, tasks) in enumerate(lines):
        said = ESTIMATORS.get(how, how)
        numbers = [
            _cell(column[i], name, form, _origin(method, tasks, how, name))
            for name, column, form in zip(present, cells, scales, strict=True)
        ]
        rows.append(Row(method.name, method.title, len(tasks), (Cell(what, what), Cell(said, said), *numbers)))
    first = next(run.restored for run in results.runs if run.restored)
    return Table("conditional", "Restoration without training for it", _caption(first), tuple(headers), tuple(rows))


def _lines(method: Method) -> list[tuple[str, str, list[Task]]]:
    """(task, way to restore, that task of every seed) of one experiment, in the order of its first run."""
    restored = [run.restored for run in method.runs if run.restored]
    if not restored:
        return []
    found = []
    for task in restored[0].tasks:
        same = [other for one in restored for other in one.tasks if other.stage == task.stage]
        side = task.measurement[-1]
        detail = f"from {side}×{side}" if task.task == "super-resolution" else f"from stage {task.stage}"
        found += [(f"{task.task} {detail}", how, [t for t in same if how in t.scores]) for how in task.scores]
    return found


def _estimate(tasks: list[Task], how: str, name: str) -> Estimate | None:
    """Over seeds; with one seed its interval over images."""
    values = [task.scores[how][name] for task in tasks if name in task.scores[how]]
    if not values:
        return None
    if len(values) > 1:
        return estimate([value.mean for value in values])
    only = values[0]
    return Estimate(only.mean, (only.high - only.low) / 2, 1)


def _origin(method: Method, tasks: list[Task], how: str, name: str) -> Origin:
    first = next(run.restored for run in method.runs if run.restored)
    place = next(i for i, task in enumerate(first.tasks) if task.stage == tasks[0].stage)
    source = Source("restore.json", "tasks", str(place), "scores", how, name, "mean")
    return Origin((source,), "mean over seeds, each a mean over images")


def _cell(value: Estimate | None, name: str, how: Scale, origin: Origin) -> Cell:
    # Errors span many powers of ten: from what rounding leaves to what a model gets wrong.
    if value and name == "consistency":
        return Cell(f"{value.mean:.1e}".replace("-", "−"), value, origin=origin)
    return printed(value, how, origin)


def _caption(restored: Restored) -> str:
    lpips = (
        f" LPIPS ({restored.lpips}), lower is better; images of {restored.images.shape[-1]} pixels are far below the size "
        "that its network was made for, so it compares only within this table."
        if restored.lpips
        else ""
    )
    rounded = " Measurements are rounded to 8 bits." if restored.rounded else ""
    return (
        f"{restored.images.count} images ({restored.images.source}) are down-sampled or blurred as the method's own "
        "transforms do, and restored from that measurement y = f(x). Unprojected: the reverse process starts at the stage "
        "whose signal is y. Projected: every predicted signal is moved to f(x) = y as well. "
        f"PSNR and SSIM: higher is better.{lpips} Consistency error: root mean square of f(x) − y, images from −1 to 1."
        f"{rounded} Means with 95 % intervals: t over seeds; {SAMPLES_ONLY}: one seed, bootstrap over images; what another training would change is not in it."
    )
