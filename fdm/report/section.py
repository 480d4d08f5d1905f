"""What a section of the page is made of, and what the file that describes one gets to work with."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from fdm.report import style
from fdm.report.results import Results
from fdm.report.style import Look
from fdm.report.table import Table


@dataclass(frozen=True)
class Drawing:
    """A figure on the page; ``svg`` is the text of its file. With ``method`` it shows that experiment alone."""

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    method: str = ""


@dataclass(frozen=True)
class Picture:
    """Pixels, within a gallery; ``of`` are the experiments that it shows."""

    name: str
    title: str
    caption: str
    alt: str
    media: str
    content: bytes
    width: int
    height: int
    of: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return f"data:{self.media};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side; ``figure`` names the figure file that holds all of them, if there is one."""

    pictures: tuple[Picture, ...]
    figure: str = ""


@dataclass(frozen=True)
class Manifests:
    """The manifests of all runs; every number on the page links to one of them."""


Block = Table | Drawing | Gallery | Manifests


@dataclass(frozen=True)
class Section:
    """A part of the page with a place in its navigation: ``name`` is its anchor, ``caption`` stands above the blocks."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    caption: str = ""


@dataclass(frozen=True)
class Canvas:
    """What a section is built from.

    Attributes:
        results: the suite's results, checked.
        looks: colour, marker and dash of each experiment.
        folder: ``figures/`` of the report.
    """

    results: Results
    looks: Mapping[str, Look]
    folder: Path

    def draw(self, name: str, title: str, caption: str, alt: str, figure: Figure, method: str = "") -> Drawing:
        """Write a figure to ``figures/<name>.{svg,png}`` and return it as a block."""
        return Drawing(name, title, caption, alt, style.save(figure, self.folder, name), method)
