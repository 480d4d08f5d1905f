"""The sections of the page, one file each.

A section is a module that defines ``ORDER`` (its place: lower comes first) and ``build(canvas)``, which returns a
``Section``, or None where the results have nothing for it. The files are the list. Its tables are written to ``tables/``
in all formats, its figures to ``figures/``.
"""

from __future__ import annotations

import importlib
import pkgutil

from fdm.report.section import Canvas, Section


def build_sections(canvas: Canvas) -> list[Section]:
    """All sections that have something to say, in their order."""
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    modules.sort(key=lambda module: (module.ORDER, module.__name__))
    built = (module.build(canvas) for module in modules)
    return [section for section in built if section is not None]
