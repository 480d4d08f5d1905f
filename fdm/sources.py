"""Which code a result depends on, and a digest of what that code means."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
PLUMBING = frozenset(
    {
        "config",
        "data",
        "device",
        "discover",
        "errors",
        "experiment",
        "launch",
        "picture",
        "plain",
        "progress",
        "records",
        "runs",
        "sources",
        "store",
        "tensors",
    }
)
"""Modules that carry or show results but do not shape them: what they read and check is in the identity by value."""

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def source_version(*entries: str) -> str:
    """Digest of modules of the package and of all that they import from it, but for ``PLUMBING``.

    It is blind to comments, docstrings and layout, and to files that the entries do not reach: a change of meaning makes a new
    run; a change of wording, or one more method in a file of its own, does not.

    Args:
        entries: paths below the package without suffix, for example ``training/loop``; a package stands for its files.
    """
    digest = hashlib.sha256()
    for path in sorted(_reached(entries)):
        digest.update(f"{path.relative_to(PACKAGE)}\n{_meaning(path)}\n".encode())
    return digest.hexdigest()[:16]


def _reached(entries: tuple[str, ...]) -> set[Path]:
    waiting = [path for entry in entries for path in _files(entry, whole=True)]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            for name in _imports(path):
                if name.split("/")[0] not in PLUMBING:
                    waiting += _files(name, whole=False)
    return found


def _files(name: str, whole: bool) -> list[Path]:
    """The module, or the package's ``__init__`` (all its files where ``whole``); nothing for a name inside a module."""
    folder = PACKAGE / name
    if folder.is_dir():
        return sorted(folder.rglob("*.py")) if whole else [folder / "__init__.py"]
    module = folder.with_suffix(".py")
    return [module] if module.is_file() else []


def _imports(path: Path) -> set[str]:
    """Names below the package that a file imports, as paths: modules, and for ``from a import b`` both a and a/b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            dotted = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        names.update(name.removeprefix("fdm.").replace(".", "/") for name in dotted if name.startswith("fdm."))
    return names


def _meaning(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Expr(ast.Constant(""))
    # Source text, not ast.dump, and one kind of quote: the rest differs between Python 3.11 and 3.12.
    return ast.unparse(tree).replace('"', "'")
