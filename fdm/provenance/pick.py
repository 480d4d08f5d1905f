"""Names as people type them: exact, in any case, or as much of the start as is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from fdm.config import nearest
from fdm.errors import UserError

Item = TypeVar("Item")


def pick(wanted: str, items: Sequence[Item], names: Callable[[Item], Sequence[str]], what: str) -> list[Item]:
    """All items that ``wanted`` means: those with this very name, or else those with a name that starts with it.

    Args:
        names: what an item may be called; items with an equal first name are one thing.
        what: such a thing, for messages.

    Raises:
        UserError: it fits nothing, or several things.
    """
    text = wanted.casefold()
    tests: tuple[Callable[[str], bool], ...] = (
        lambda name: name == wanted,
        lambda name: name.casefold() == text,
        lambda name: name.casefold().startswith(text),
    )
    for fits in tests:
        found = [item for item in items if any(fits(name) for name in names(item))]
        things = list(dict.fromkeys(names(item)[0] for item in found))
        if len(things) > 1:
            raise UserError(f"{what} {wanted!r} may be any of: {', '.join(things)}")
        if found:
            return found
    known = list(dict.fromkeys(names(item)[0] for item in items))
    every = [name for item in items for name in names(item)]
    raise UserError(f"no {what} {wanted!r}{nearest(wanted, every)}; there are: {', '.join(known) or 'none'}")
