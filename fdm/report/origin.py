"""Where a printed number comes from: places in the files of runs, and what was done with what stands there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fdm.report.results import Run


@dataclass(frozen=True)
class Source:
    """A place in a file of a run: ``Source("cost.json", "training", "seconds")``. Called with a run, it reads what stands there.

    Attributes:
        path: keys from the outside in; positions in lists as digits. Of an ``.npz`` the name of an array.
    """

    file: str
    path: tuple[str, ...]

    def __init__(self, file: str, *path: str) -> None:
        object.__setattr__(self, "file", file)
        object.__setattr__(self, "path", path)

    @property
    def timed(self) -> bool:
        """Whether it is a time or a speed, which depends on the device."""
        return self.path[-1].startswith("seconds") or self.path[-1].endswith("per_second")

    def __call__(self, run: Run) -> Any:
        """The value in ``run``; None where the run has none."""
        return self.read(run.content(self.file))

    def read(self, content: Any) -> Any:
        """The value in the file's content, plain or as a model; None where a mapping has no such key.

        Raises:
            AttributeError: a model has no such field, so this source is wrong.
        """
        for key in self.path:
            if content is None:
                return None
            if isinstance(content, Mapping):
                content = content.get(key)
            elif isinstance(content, (list, tuple)):
                content = content[int(key)] if int(key) < len(content) else None
            else:
                content = getattr(content, key)
        return content

    def __str__(self) -> str:
        return f"{self.file}: {'.'.join(self.path)}"


@dataclass(frozen=True)
class Origin:
    """What a cell was made of.

    Attributes:
        sources: places in the files of each run of the cell's row.
        how: what was done with the values, in words.
        against: experiment whose runs went in as well, as that which the others are compared with.
    """

    sources: tuple[Source, ...]
    how: str
    against: str = ""
