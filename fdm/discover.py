"""Plug-ins by file: a method, or a transform, is one module in its room that defines ``Config`` and ``build``."""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType

from fdm.errors import UserError


@cache
def plugins(room: str) -> dict[str, ModuleType]:
    """Modules of package ``fdm.<room>`` that define a ``Config``, by their file names with ``-`` for ``_``.

    Adding a file is all it takes to add a method; there is no list to extend.

    Raises:
        UserError: a file cannot be imported; names its line, and why.
    """
    package = importlib.import_module(f"fdm.{room}")
    found = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        try:
            module = importlib.import_module(f"fdm.{room}.{info.name}")
        except Exception as error:
            raise _broken(Path(package.__path__[0], f"{info.name}.py"), error) from error
        if hasattr(module, "Config"):
            found[info.name.replace("_", "-")] = module
    return found


def _broken(path: Path, error: Exception) -> UserError:
    """What is wrong with the plug-in in ``path``, at the line that says so: of a file that cannot be parsed, or the last of its own."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    place, why = f"{path}:{lines[-1]}" if lines else f"{path}", " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        place, why = f"{error.filename}:{error.lineno}", error.msg
    return UserError(f"{place}: cannot be imported: {type(error).__name__}: {why}; mend the file, or take it away")
