"""One table and one figure per ablation: every member against the baseline, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from fdm.grids import Ablation
from fdm.report.numbers import Estimate, Scale, scale
from fdm.report.origin import Origin, Source
from fdm.report.paired import COMPARED, difference, quality, quality_name, ratio, word
from fdm.report.results import Method, Results, settings_of
from fdm.report.style import INK, MUTED, Look
from fdm.report.table import Cell, Header, Row, Table, printed
from fdm.report.tables import MEAN, SCORES, network_title, score_source, summary


def members_of(ablation: Ablation, results: Results) -> list[Method]:
    """The ablation's experiments, the baseline first."""
    found = {method.name: method for method in results.methods}
    return [found[name] for name in ablation.experiments]


def ablation_table(name: str, ablation: Ablation, results: Results) -> Table:
    """Mean of every score, its paired difference to the baseline, and one word; then what a sample and training cost."""
    members = members_of(ablation, results)
    base = members[0].name
    headers: list[Header] = []
    columns: list[list[Cell]] = []

    def add(header: Header, cells: list[Cell]) -> None:
        headers.append(header)
        columns.append(cells)

    for network, kind in _scores(members):
        value = score_source(network, kind)
        label, unit, better = SCORES[kind]
        group = f"{label} ({network_title(network)})"
        means = [summary(method, value) for method in members]
        changes = [None, *(difference(method, members[0], value) for method in members[1:])]
        how = scale([mean.mean for mean in means if mean], unit)
        key = f"{network}/{kind}"
        own = Origin((value,), MEAN)
        paired = Origin((value,), f"mean of the differences to {base} under the same seed", base)
        add(Header(key, "Mean", how.unit, group), [printed(mean, how, own) for mean in means])
        words = ["baseline", *(word(change, better) for change in changes[1:])]
        cells = [printed(change, how, paired) for change in changes]
        # In print the word stands beside its difference.
        told = [
            replace(cell, spread=f"{cell.spread} {said}".strip()) if cell.raw else cell
            for cell, said in zip(cells, words, strict=True)
        ]
        add(Header(f"{key}/difference", "Difference", how.unit, group), told)
        add(
            Header(f"{key}/verdict", "Verdict", "", group, False, "csv"),
            [Cell(said, said, origin=paired) for said in words],
        )
    for key, label, cost in (
        ("flops_per_sample", "FLOPs of a sample", Source("cost.json", "flops_per_sample")),
        ("training_flops", "FLOPs of training", Source("cost.json", "training", "flops")),
    ):
        ratios = [ratio(method, members[0], cost) for method in members]
        if not any(ratios[1:]):
            continue
        paired = Origin((cost,), f"mean of the ratios to {base} under the same seed", base)
        cells = [printed(known, Scale(1.0, "×", 2), paired) for known in ratios]
        add(Header(f"{key}_relative", label, "×", "relative to the baseline"), cells)
    rows = [
        Row(method.name, method.title, len(method.runs), tuple(column[i] for column in columns))
        for i, method in enumerate(members)
    ]
    return Table(f"ablation-{name}", ablation.title, _caption(ablation, members), tuple(headers), tuple(rows))


def ablation_figure(ablation: Ablation, results: Results, looks: Mapping[str, Look]) -> Figure:
    """Quality of every member and its difference to the baseline; against evaluations where these are varied."""
    members = members_of(ablation, results)
    trained = [{k: v for k, v in settings_of(method.config).items() if k != "sampling"} for method in members]
    # A line joins samplings of one and the same model; different models are points.
    if len({_steps(method) for method in members}) > 1 and all(settings == trained[0] for settings in trained):
        return _against_evaluations(members, looks)
    labels = _labels(members)
    height = 0.42 * len(members) + 0.7
    figure = Figure(figsize=(8.6, height))
    left, right = figure.subplots(1, 2, sharey=True)
    longest = max(map(len, labels))
    figure.subplots_adjust(
        left=min(0.04 + 0.0105 * longest, 0.42), right=0.9, top=1 - 0.1 / height, bottom=0.5 / height, wspace=0.1
    )
    for place, method in enumerate(members):
        look, mean = looks[method.name], summary(method, quality)
        seeds = [value for run in method.runs if (value := quality(run)) is not None]
        left.plot(seeds, [place] * len(seeds), linestyle="none", marker="|", color=look.light, markersize=9, alpha=0.7)
        _bar(left, mean, place, look)
        if place == 0:
            continue
        change = difference(method, members[0], quality)
        _bar(right, change, place, look)
        right.annotate(
            word(change, "low"),
            (1.0, place),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    left.set_yticks(range(len(members)), labels)
    left.set_ylim(len(members) - 0.5, -0.5)
    right.axvline(0, color=MUTED, linewidth=1)
    left.set_xlabel(f"{quality_name(members[0].runs[0]).split(' (')[0]}, lower is better")
    right.set_xlabel("difference to the baseline, same seeds")
    left.margins(x=0.08)
    right.margins(x=0.12)
    return figure


def _against_evaluations(members: Sequence[Method], looks: Mapping[str, Look]) -> Figure:
    """One line per way of sampling that is left when the number of evaluations is taken away."""
    ways = [{k: v for k, v in method.config.get("sampling", {}).items() if k != "steps"} for method in members]
    keys = dict.fromkeys(key for way in ways for key in way)
    told = [key for key in keys if key == "solver" or any(way.get(key) != ways[0].get(key) for way in ways)]
    lines: dict[str, list[Method]] = {}
    for method, way in zip(members, ways, strict=True):
        name = ", ".join(str(way.get(key)) if key in ("solver", "spacing") else f"{key} {way.get(key)}" for key in told)
        lines.setdefault(name, []).append(method)
    figure = Figure(figsize=(6.4, 3.4))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.11, right=0.985, top=0.97, bottom=0.16)
    for name, group in lines.items():
        group.sort(key=_steps)
        look = looks[group[0].name]
        means = [summary(method, quality) for method in group]
        axes.errorbar(
            [_steps(method) for method in group],
            [mean.mean for mean in means if mean],
            yerr=[mean.half or 0.0 for mean in means if mean],
            color=look.light,
            marker=look.marker,
            linestyle=look.dash,
            capsize=3,
            label=name,
        )
    steps = sorted({_steps(method) for method in members})
    axes.set_xscale("log")
    axes.set_xticks(steps, [str(count) for count in steps])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("network evaluations per sample")
    axes.set_ylabel(quality_name(members[0].runs[0]))
    axes.legend()
    return figure


def _bar(axes: Axes, value: Estimate | None, place: int, look: Look) -> None:
    if value is not None:
        axes.errorbar(
            value.mean, place, xerr=value.half, color=look.light, marker=look.marker, markersize=6, elinewidth=1.4
        )


def _scores(members: Sequence[Method]) -> list[tuple[str, str]]:
    """(network, score) of every score that is compared and that every run has."""
    features = [run.metrics.features for method in members for run in method.runs]
    return [
        (network, kind)
        for network in features[0]
        for kind in COMPARED
        if all(kind in scores.get(network, {}) for scores in features)
    ]


def _labels(members: Sequence[Method]) -> list[str]:
    """Titles, without what they share with the baseline's."""
    base = members[0].title
    return [base, *(method.title.removeprefix(f"{base}, ") for method in members[1:])]


def _caption(ablation: Ablation, members: Sequence[Method]) -> str:
    counts = sorted({len(method.runs) for method in members})
    samples = " or ".join(dict.fromkeys(f"{run.metrics.samples:,}" for method in members for run in method.runs))
    if counts == [1]:
        return f"{ablation.question} One seed, {samples} samples: no interval, so no difference is known."
    few = " With one seed there is no interval, and the difference is not known." if counts[0] == 1 else ""
    how = (
        f"{' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))} seeds, {samples} samples each. Means and paired "
        f"differences (same seed, same order of data, same noise) with 95 % t-intervals. The word after a difference: `none` where the interval of the "
        f"difference holds zero.{few} Each row is judged by itself: of twenty true ties one would be called a difference by chance."
    )
    return f"{ablation.question} {how}"


def _steps(method: Method) -> int:
    return int(method.config.get("sampling", {}).get("steps", 0))
