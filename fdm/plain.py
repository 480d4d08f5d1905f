"""Files that people and other machines write, read as plain values of bounded size: none can run code or fill the memory."""

from __future__ import annotations

import json
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml

MOST_CHARACTERS = 1 << 18
MOST_DEPTH = 50
MOST_VALUES = 20_000


def read_yaml(text: str) -> Any:
    """One YAML document of mappings, lists, strings, numbers, booleans, dates and nulls; anchors are fine while they stay small.

    Raises:
        ValueError: not YAML, a tag, an anchor inside itself, or more than ``MOST_CHARACTERS``, ``MOST_DEPTH`` or, with anchors
            written out, ``MOST_VALUES``; one line.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text)} characters are more than the limit of {MOST_CHARACTERS}")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_json(text: str) -> Any:
    """One JSON document.

    Raises:
        ValueError: not JSON, or nested deeper than the parser can follow; one line.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


# What NumPy raises for broken files, besides OSError.
BROKEN = (
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def map_array(path: Path) -> np.memmap[Any, Any]:
    """The array of a .npy file, mapped read-only, so that a header cannot claim more than the file holds.

    Raises:
        OSError: missing or unreadable.
        ValueError: damaged, of Python objects, or another kind of file; one line.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except BROKEN as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    if not isinstance(found, np.memmap):
        found.close()  # an archive of arrays
        raise ValueError("not one array")
    return found


class _Loader(yaml.SafeLoader):
    """Bounds are kept while the document is composed, before anything is made of it."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0
        self.weights: dict[int, int] = {}  # values in a node, with anchors written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _refusal(event, f"the tag {event.tag!r} is not allowed here; write plain values")
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise _refusal(event, f"nested deeper than {MOST_DEPTH}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self.weights[id(node)] = 1 + sum(self.weights[id(part)] for part in _parts(node))
        elif id(node) not in self.weights:
            raise _refusal(event, f"the anchor {event.anchor!r} holds itself")
        if self.weights[id(node)] > MOST_VALUES:
            raise _refusal(event, f"more than {MOST_VALUES} values, with anchors written out")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _refusal(key, f"the key {key.value!r} is there twice")
                seen.add((key.tag, key.value))
        return node


def _parts(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refusal(event: Any, what: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark)
