"""Figures of forward processes: signal over noise with and without rescaling, noisy images, information."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fdm.report.extras import Forward
from fdm.report.results import Method
from fdm.report.style import GREY, INK, LINE, MUTED, Look, belongs, family, stage_colour

Pair = tuple[Method, Forward]
NOTABLE = 2.0
"""Ratio of signal over noise, at one time and stage, from which two processes are said to differ in it."""
SHOWN = 6


def differ_in_snr(pairs: Sequence[Pair]) -> bool:
    """Whether some member has another signal over noise than the first at the same times and stages; no pairs, no difference."""
    if not pairs:
        return False
    first = pairs[0][1]
    for _, other in pairs[1:]:
        if other.t.shape == first.t.shape and np.array_equal(other.t, first.t):
            ratio = (other.energy / other.dimension) / (first.energy / first.dimension)
            if np.max(np.abs(np.log(ratio))) > np.log(NOTABLE):
                return True
    return False


def snr_figure(pairs: Sequence[Pair], looks: Mapping[str, Look]) -> Figure:
    """Above: per element and in total against t. Below: the same noisy image in every stage, a row per method."""
    frames = max(len(forward.frames) for _, forward in pairs)
    cell = 8.6 / (frames + 0.4)
    top, gap, head = 2.7, 0.75, 0.42
    height = top + gap + len(pairs) * (cell + head)
    figure = Figure(figsize=(8.6, height))
    per, total = figure.subplots(
        1,
        2,
        gridspec_kw={
            "left": 0.085,
            "right": 0.985,
            "top": 1 - 0.25 / height,
            "bottom": 1 - top / height,
            "wspace": 0.2,
        },
    )
    for method, forward in pairs:
        look = looks[method.name]
        for axes, values in ((per, forward.energy / forward.dimension), (total, forward.energy)):
            _by_stage(axes, forward, values, look, method.title)
    for axes, title in (
        (per, "Signal over noise, per element"),
        (total, "Signal over noise, whole image"),
    ):
        _log(axes)
        axes.set_title(title)
        axes.set_xlabel("t")
    per.legend(fontsize=7.5)
    for row, (method, forward) in enumerate(pairs):
        y = height - top - gap - row * (cell + head)
        figure.text(
            0.1 / 8.6,
            (y + 0.12) / height,
            method.title,
            fontsize=8.5,
            color=looks[method.name].light,
            fontweight="bold",
        )
        for j, frame in enumerate(forward.frames):
            axes = figure.add_axes(
                ((0.1 + j * cell) / 8.6, (y - cell + 0.02) / height, (cell - 0.08) / 8.6, (cell - 0.14) / height)
            )
            axes.imshow(_grey(frame[0]), cmap="gray", vmin=0, vmax=1, interpolation="none")
            axes.axis("off")
            side = frame.shape[-1]
            axes.set_title(f"t = {forward.frame_t[j]:.2f}, {side}×{side}", fontsize=6.5, pad=1.5, fontweight="normal")
    return figure


def information_figure(pairs: Sequence[Pair], looks: Mapping[str, Look]) -> Figure | None:
    """Left: a standard state and its smaller versions; right: the state of each process. None without a closed form."""
    known = _distinct([(method, forward) for method, forward in pairs if len(forward.information)])
    if not known:
        return None
    plain = next((pair for pair in known if len(set(pair[1].stage)) == 1), known[0])
    figure = Figure(figsize=(8.6, 3.7))
    several = len(known) > SHOWN
    if several:
        firsts: dict[str, Pair] = {}
        for pair in known:
            firsts.setdefault(family(pair[0]), pair)
        known = list(firsts.values())
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.085, right=0.985, top=0.92, bottom=0.14, wspace=0.08)
    method, forward = plain
    for level, (side, clean) in enumerate(zip(forward.image_side, forward.image_information, strict=True)):
        tone = stage_colour(level - 1) if level else INK
        label = f"{side}×{side}" + (" (the state itself)" if level == 0 else "")
        left.plot(forward.t, forward.information[:, level], color=tone, linewidth=1.5, label=label)
        for axes in (left, right):
            axes.axhline(clean, color=tone if axes is left else LINE, linewidth=0.9, linestyle=(0, (2, 2)))
        left.text(1.0, clean, f"clean {side}×{side}", fontsize=7, color=tone, va="bottom", ha="right")
    left.set_title(f"{method.title}: state, made smaller")
    left.legend(title="size", fontsize=7.5, title_fontsize=7.5, loc="lower left")
    for other, its in known:
        _by_stage(right, its, its.information[:, 0], looks[other.name], other.title)
    right.set_title("State of the first process of each kind" if several else "State of each process")
    right.legend(fontsize=7.5, loc="lower left")
    lowest = min(float(np.nanmin(its.information[its.t < 0.98, 0])) for _, its in known)
    for axes in (left, right):
        _log(axes)
        axes.set_xlabel("t")
    left.set_ylim(bottom=max(lowest / 2, 1e-2))
    left.set_ylabel("information about the image, bits")
    return figure


def oracle_figure(pairs: Sequence[Pair], looks: Mapping[str, Look]) -> Figure | None:
    """E(N) of each experiment's process and solver; a dotted line at its structural floor."""
    known: list[Pair] = []
    for method, forward in pairs:
        twins = (np.array_equal(forward.oracle_error, its.oracle_error) for _, its in known)
        if len(forward.oracle_error) > 1 and not any(twins):
            known.append((method, forward))
    if not known:
        return None
    floors = {method.name: float(forward.oracle_floor) for method, forward in known}
    exact = [method.title for method, _ in known if math.isnan(floors[method.name])]
    told = textwrap.wrap(f"Grey, without a floor: {'; '.join(exact)}.", 125) if exact else []
    height = 3.9 + 0.16 * len(told)
    figure = Figure(figsize=(8.6, height))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.085, right=0.73, top=0.98, bottom=(0.6 + 0.16 * len(told)) / height)
    steps = known[0][1].oracle_steps
    end = 2 * float(steps[-1])
    for method, forward in known:
        look, floor = looks[method.name], floors[method.name]
        colour = GREY[0] if math.isnan(floor) else look.light
        drawn = axes.plot(
            forward.oracle_steps,
            forward.oracle_error,
            color=colour,
            marker=look.marker,
            markersize=3 if math.isnan(floor) else 5,
            linewidth=0.8 if math.isnan(floor) else 1.4,
        )
        if not math.isnan(floor):
            last = float(forward.oracle_steps[-1])
            drawn += axes.plot([last, end], [floor, floor], color=colour, linestyle=(0, (1, 1)), linewidth=1.6)
        belongs(method.name, *drawn)
    axes.set_xscale("log")
    _log(axes, (1.0, 2.0, 5.0))
    axes.set_xticks(steps, [str(count) for count in steps])
    axes.set_xlim(right=end)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("network evaluations N")
    axes.set_ylabel("relative error of the covariance, E(N)")
    figure.draw_without_rendering()  # settles the limits
    place = -1.0
    for method, _ in sorted(known, key=lambda pair: floors[pair[0].name]):
        if not math.isnan(floor := floors[method.name]):
            _, own = axes.transAxes.inverted().transform(axes.transData.transform((end, floor)))
            place = max(float(own), place + 12 / 72 / height / 0.8)  # a line of text above the name below
            name = axes.text(1.01, place, method.title, transform=axes.transAxes, fontsize=7, va="center")
            name.set_color(looks[method.name].light)
            belongs(method.name, name)
    figure.text(0.02, 0.05 / height, "\n".join(told), fontsize=7.5, color=MUTED, va="bottom")
    return figure


def _log(axes: Axes, subs: tuple[float, ...] = (1.0,)) -> None:
    """Decimal numbers, or powers of ten, on a logarithmic axis (matplotlib's own labels need its mathematical text, which is off)."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def _number(value: float) -> str:
    exponent = math.log10(value)
    if 1e-4 <= value < 1e5 or not math.isclose(exponent, round(exponent), abs_tol=1e-9):
        return f"{value:g}"
    return "10" + str(round(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _by_stage(axes: Axes, forward: Forward, values: np.ndarray, look: Look, label: str) -> None:
    """One line, broken where the process jumps; a mark at the ends of each stage."""
    for stage in dict.fromkeys(forward.stage.tolist()):
        here = forward.stage == stage
        first = stage == forward.stage[0]
        axes.plot(
            forward.t[here],
            values[here],
            color=look.light,
            linestyle=look.dash,
            linewidth=1.5,
            label=label if first else None,
        )
    inner = [t for t in dict.fromkeys(forward.t.tolist()) if (forward.t == t).sum() > 1]
    for t in inner:
        axes.axvline(t, color=MUTED, linewidth=0.4, alpha=0.5)


def _distinct(pairs: Sequence[Pair]) -> list[Pair]:
    """Without processes whose state has the same information at the same times as an earlier one's."""
    found: list[Pair] = []
    for method, forward in pairs:
        same = (
            np.array_equal(forward.t, its.t)
            and np.allclose(forward.information[:, 0], its.information[:, 0], rtol=1e-6)
            for _, its in found
        )
        if not any(same):
            found.append((method, forward))
    return found


def _grey(frame: np.ndarray) -> np.ndarray:
    limit = max(1.0, float(np.quantile(np.abs(frame), 0.99)))
    return np.clip((frame[0] / limit + 1) / 2, 0, 1)
