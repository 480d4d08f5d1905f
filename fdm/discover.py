"""Plug-ins by file: a method, or a transform, is one module in its room that defines ``Config`` and ``build``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType


@cache
def plugins(room: str) -> dict[str, ModuleType]:
    """Modules of package ``fdm.<room>`` that define a ``Config``, by their file names with ``-`` for ``_``.

    Adding a file is all it takes to add a method; there is no list to extend.
    """
    package = importlib.import_module(f"fdm.{room}")
    found = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"fdm.{room}.{info.name}")
        if hasattr(module, "Config"):
            found[info.name.replace("_", "-")] = module
    return found
