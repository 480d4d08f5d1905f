"""Files of a report that `dvc metrics` and `dvc plots` read (dvc.yaml names them)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from fdm.report.figures import WINDOWS, windows
from fdm.report.numbers import estimate
from fdm.report.paired import DISTANCES
from fdm.report.results import Method, Results
from fdm.report.tables import SCORES, network_title, score_columns, summary

FILES = {"metrics.json", "plots"}


def write_tracked(results: Results, folder: Path) -> None:
    """Write ``metrics.json`` (means over seeds) and ``plots/*.csv``; nothing that was measured on a clock."""
    metrics = {method.name: _metrics(method, results) for method in results.methods}
    text = json.dumps(metrics, indent=2, ensure_ascii=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    (folder / "plots").mkdir()
    distances = [
        (method.name, f"{SCORES[score][0]} ({network_title(network)})", value)
        for method in results.methods
        for network, scores in metrics[method.name].items()
        if isinstance(scores, dict)
        for score, value in scores.items()
        if score in DISTANCES
    ]
    _write(folder / "plots/quality.csv", ("experiment", "score", "distance"), distances)
    losses = [(method.name, *point) for method in results.having("training.csv").methods for point in _losses(method)]
    _write(folder / "plots/training.csv", ("experiment", "images", "loss"), losses)


def _metrics(method: Method, results: Results) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column in score_columns(results):
        if known := summary(method, column.value):
            network, score = column.key.split("/", 1)
            found.setdefault(network, {})[score] = known.mean
    found["flops_per_sample"] = estimate([run.cost.flops_per_sample for run in method.runs]).mean
    found["parameters"] = method.runs[0].cost.parameters
    return found


def _losses(method: Method) -> list[tuple[int, float]]:
    """Mean loss over seeds and over windows of the method's own budget, at the windows' last images."""
    most = max(int(run.curve["images"].max()) for run in method.runs)
    means = windows((run.curve for run in method.runs), "loss", most).mean(axis=1)
    return [(int(number) * most // WINDOWS, float(mean)) for number, mean in means.items()]


def _write(path: Path, names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
