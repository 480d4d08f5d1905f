"""The sections of the page, one file each.

A section is a module that defines ``ORDER`` (its place: lower comes first) and ``build(canvas)``, which returns a
``Section``, or None where the results have nothing for it. The files are the list. Its tables are written to ``tables/``
in all formats, its figures to ``figures/``. A section with tables also defines ``tables(results)``, which returns them without
drawing anything: `fdm trace` and `fdm check` read them there.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType

from fdm.errors import UserError
from fdm.report.results import Results
from fdm.report.section import Canvas, Section
from fdm.report.table import Table


def build_sections(canvas: Canvas) -> list[Section]:
    """All sections that have something to say, in their order."""
    built = (module.build(canvas) for module in _modules())
    return [section for section in built if section is not None]


@dataclass(frozen=True)
class Tables:
    """The tables of a report by name, in its order, and why those of some sections cannot be made (a file is not here)."""

    found: dict[str, Table]
    lacking: tuple[UserError, ...]


def build_tables(results: Results) -> Tables:
    """All tables, without figures and pictures; one section's lack of a file costs only its own tables."""
    found: dict[str, Table] = {}
    lacking = []
    for module in _modules():
        if hasattr(module, "tables"):
            try:
                found |= {table.name: table for table in module.tables(results)}
            except UserError as error:
                lacking.append(error)
    return Tables(found, tuple(lacking))


def _modules() -> list[ModuleType]:
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return sorted(modules, key=lambda module: (module.ORDER, module.__name__))
