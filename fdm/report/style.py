"""How figures look: one colour, marker and dash per method, and one SVG that suits both a light and a dark page.

Colours are told apart by colour-blind readers (after Paul Tol's muted scheme, darkened to a contrast of 3:1 on white),
and never carry meaning alone: markers, dashes and labels repeat it. On the page each drawn colour becomes a CSS
variable.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from fdm.report.names import slug
from fdm.report.results import Method, Results
from fdm.report.tables import BASELINE

INK, MUTED, LINE = "#1b1d22", "#5a606b", "#d8dbe0"
# The page's colours as CSS variables: (on light, on dark). The first three are also those of every figure.
THEME = {
    "ink": (INK, "#e7e9ed"),
    "muted": (MUTED, "#a3abb7"),
    "line": (LINE, "#363b43"),
    "page": ("#fcfcfb", "#121417"),
    "card": ("#ffffff", "#191c20"),
    "soft": ("#f3f4f5", "#1e2227"),
    "accent": ("#1d5fa8", "#86bdf7"),
    "warn": ("#8a4b00", "#f0bd72"),
    "warn-page": ("#fff6e6", "#2a2216"),
    "best": ("#eaf3ec", "#1d3024"),
}
GREY = ("#6c727b", "#a6adb8")
# (on light, on dark): the same hue, lifted for a dark background.
PALETTE = (
    ("#332288", "#9c92f5"),
    ("#c9566b", "#ef8496"),
    ("#2a8f80", "#56c9b7"),
    ("#84812a", "#cbc75c"),
    ("#3d8cc0", "#85c9f2"),
    ("#882255", "#d77cab"),
    ("#117733", "#5fc07f"),
    ("#aa4499", "#dd8fd0"),
    ("#a5631f", "#e0a463"),
    ("#5f8a00", "#a7d14a"),
)
STAGES = (
    ("#b5532a", "#e8926b"),
    ("#7a6a1f", "#c9b659"),
    ("#2b7a5b", "#62c39c"),
    ("#2f6ea8", "#7fb8ea"),
    ("#6a4fb0", "#b29cf0"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "*")
Dash = Literal["-"] | tuple[float, Sequence[float]]
DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


@dataclass(frozen=True)
class Look:
    """A method's colours and shapes, the same in every figure and table."""

    light: str
    dark: str
    marker: str
    dash: Dash
    variable: str


def looks(results: Results) -> dict[str, Look]:
    """Looks by experiment name; the baseline is grey, the others take the palette in the order of the suite.

    Where they are more than colours, methods of one family share a colour, and markers and dashes tell them apart.
    """
    found = {}
    others = [method for method in results.methods if method.name != BASELINE]
    many = len(others) > len(PALETTE)
    kinds = list(dict.fromkeys(family(method) if many else method.name for method in others))
    members: dict[int, int] = {}
    for i, method in enumerate(results.methods):
        marker, variable = MARKERS[i % len(MARKERS)], f"--method-{i}"
        if method.name == BASELINE:
            found[method.name] = Look(*GREY, marker, "-", variable)
            continue
        colour = kinds.index(family(method) if many else method.name) % len(PALETTE)
        before = members.setdefault(colour, 0)
        members[colour] += 1
        dash = DASHES[(before if many else colour) % len(DASHES)]
        found[method.name] = Look(*PALETTE[colour], marker, dash, variable)
    return found


def family(method: Method) -> str:
    """Process and kinds of transforms: what variants of a method share."""
    config = method.config.get("method", {})
    transforms = [str(part.get("kind")) for part in config.get("transforms") or () if isinstance(part, Mapping)]
    return " ".join([str(config.get("process")), *sorted(set(transforms))])


def stage_colour(stage: int) -> str:
    """Colour of a stage in a drawing."""
    return STAGES[stage % len(STAGES)][0]


def variables(looks: Mapping[str, Look]) -> dict[str, tuple[str, str]]:
    """Every CSS variable of the page with its colours on light and on dark."""
    return {
        **{f"--{name}": pair for name, pair in THEME.items()},
        **{f"--stage-{i}": pair for i, pair in enumerate(STAGES)},
        **{look.variable: (look.light, look.dark) for look in looks.values()},
    }


def theme_css(looks: Mapping[str, Look]) -> str:
    """The variables for a light page, for a dark system and for a reader's own choice."""
    light, dark = ("; ".join(f"{name}: {pair[i]}" for name, pair in variables(looks).items()) for i in range(2))
    light, dark = f"color-scheme: light; {light};", f"color-scheme: dark; {dark};"
    return (
        f":root {{ {light} }}\n"
        f'@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {dark} }} }}\n'
        f'@media screen {{ :root[data-theme="dark"] {{ {dark} }} }}\n'
    )


def drawn_colours(looks: Mapping[str, Look]) -> dict[str, str]:
    """What each colour of a drawing becomes on the page."""
    return {
        light: f"var({name})"
        for name, (light, _) in variables(looks).items()
        if name in ("--ink", "--muted", "--line") or name.startswith(("--stage-", "--method-"))
    }


@contextmanager
def drawing() -> Iterator[None]:
    """Settings for every figure; SVG keeps its text as text, and its ids depend on nothing but the content."""
    settings = {
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper"),
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so every machine lays figures out alike
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "axes.edgecolor": MUTED,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "svg.fonttype": "none",
        "svg.hashsalt": "fdm",
        # Titles come from files and may hold dollar signs.
        "text.parse_math": False,
        "axes.formatter.use_mathtext": False,
    }
    with matplotlib.rc_context(settings):
        yield


def belongs(method: str, *artists: Artist) -> None:
    """Mark parts of a drawing as one method's: the page's method filter hides them with it."""
    for artist in artists:
        artist.set_gid(f"of-{slug(method)}")


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write ``<name>.svg`` (transparent) and ``<name>.png`` (on white) without dates; returns the SVG's text."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    # A group's id must be unique; one method has many groups.
    svg = re.sub(r'<g id="of-([^"]+)"', r'<g data-of="\1"', out.getvalue())
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    figure.savefig(folder / f"{name}.png", format="png", dpi=180, facecolor="white", metadata={"Software": None})
    return svg


def inline(svg: str, name: str, variables: dict[str, str]) -> str:
    """An SVG file's text as an element of the page: own ids, theme variables for colours, no size of its own.

    Only markup is rewritten; text between tags (titles from files) passes as matplotlib escaped it.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)

    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body))
    used = {name for pair in used for name in pair if name}

    def tag(match: re.Match[str]) -> str:
        text = match.group(0)
        # Only ids that something refers to are kept: matplotlib repeats those of equal images.
        text = re.sub(r'\sid="([^"]*)"', lambda own: f' id="{name}-{own[1]}"' if own[1] in used else "", text)
        text = re.sub(r'href="#', f'href="#{name}-', text)
        text = text.replace("url(#", f"url(#{name}-")
        return re.sub(r"#[0-9a-f]{6}\b(?=[;\"])", lambda colour: variables.get(colour.group(0), colour.group(0)), text)

    body = re.sub(r"<[^<>]+>", tag, body)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    width = float(size.group(1)) if size else 720.0
    head = re.sub(r'\s(?:width|height|version)="[^"]*"', "", body[: body.index(">")])
    # The size on the page follows the drawing's own, so that all figures have the same size of letters.
    more = f' class="plot" aria-hidden="true" focusable="false" style="width:{width * 1.6:.0f}px"'
    return head + more + body[body.index(">") :]
