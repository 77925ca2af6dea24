"""A recipe as it was written: values that remember where they stand, and the problems found with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

MAX_PROBLEMS_SHOWN = 50
_TEXT_SHOWN = 60


@attrs.frozen
class Origin:
    """Where a value was written."""

    source: str
    """A file as the user knows it, a ``--set`` argument, or another word for what was given in code."""
    line: int | None = None
    column: int | None = None
    folder: Path | None = None
    """What relative model paths refer to; None means the current directory."""

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@attrs.frozen
class Problem:
    """One line of a recipe's error: where, which key, what is wrong and how to fix it."""

    origin: Origin
    message: str
    path: str = ""

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        return f"{self.origin}: {path}{self.message}"


@attrs.frozen
class ScalarNode:
    """A single value; ``text`` is how it was spelt."""

    value: bool | int | float | str | None
    text: str
    origin: Origin


@attrs.frozen
class ListNode:
    """Values in order."""

    items: tuple[Node, ...]
    origin: Origin


@attrs.frozen
class Entry:
    """One key of a mapping with its value."""

    key_origin: Origin
    node: Node


@attrs.frozen
class MappingNode:
    """Values by name, in the order they were written."""

    entries: dict[str, Entry]
    origin: Origin

    def get(self, key: str) -> Node | None:
        """Return the value of ``key``, or None."""
        entry = self.entries.get(key)
        return None if entry is None else entry.node


@attrs.frozen
class BrokenNode:
    """Stands where a value could not be read; its problem is reported already."""

    origin: Origin


Node = ScalarNode | ListNode | MappingNode | BrokenNode


def join_problems(problems: Iterable[Problem]) -> str:
    """Return the text of an error that reports all ``problems``, those of one file in the order of its lines."""
    unique = list(dict.fromkeys(problems))
    sources = {origin: index for index, origin in enumerate(dict.fromkeys(p.origin.source for p in unique))}
    unique.sort(key=lambda p: (sources[p.origin.source], p.origin.line or 0, p.origin.column or 0))
    lines = [str(problem) for problem in unique[:MAX_PROBLEMS_SHOWN]]
    if len(unique) > MAX_PROBLEMS_SHOWN:
        lines.append(f"{unique[0].origin.source}: and {len(unique) - MAX_PROBLEMS_SHOWN} more errors")
    return "\n".join(lines)


def plain_value(node: Node) -> Any:
    """Return the value as plain Python: scalars, lists and dicts."""
    match node:
        case ScalarNode():
            return node.value
        case ListNode():
            return [plain_value(item) for item in node.items]
        case MappingNode():
            return {key: plain_value(entry.node) for key, entry in node.entries.items()}
    return None


def find_broken(node: Node) -> bool:
    """Tell whether any part of the value could not be read."""
    match node:
        case ListNode():
            return any(find_broken(item) for item in node.items)
        case MappingNode():
            return any(find_broken(entry.node) for entry in node.entries.values())
    return isinstance(node, BrokenNode)


def moved(node: Node, origin: Origin) -> Node:
    """Return the node with every place in it replaced."""
    match node:
        case ListNode():
            return ListNode(tuple(moved(item, origin) for item in node.items), origin)
        case MappingNode():
            entries = {key: Entry(origin, moved(entry.node, origin)) for key, entry in node.entries.items()}
            return MappingNode(entries, origin)
    return attrs.evolve(node, origin=origin)


def node_from_python(value: object, origin: Origin, problems: list[Problem], path: str = "") -> Node:
    """Return the node of a value given in code; what a recipe cannot hold becomes a problem."""
    if value is None or isinstance(value, bool | int | float | str):
        return ScalarNode(value, repr(value), origin)
    if isinstance(value, os.PathLike):
        return ScalarNode(os.fspath(value), repr(value), origin)
    if isinstance(value, Mapping):
        entries: dict[str, Entry] = {}
        for key, item in value.items():
            below = f"{path}.{key}" if path else str(key)
            if isinstance(key, str):
                entries[key] = Entry(origin, node_from_python(item, origin, problems, below))
            else:
                problems.append(Problem(origin, f"keys must be strings, found {shown(key)}", path))
        return MappingNode(entries, origin)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        items = (node_from_python(item, origin, problems, f"{path}[{i}]") for i, item in enumerate(value))
        return ListNode(tuple(items), origin)
    kind = type(value).__name__
    problems.append(Problem(origin, f"a recipe cannot hold a {kind}; give a number, a string or a list", path))
    return BrokenNode(origin)


def shown(value: object) -> str:
    """Return a value as an error message quotes it: escaped, and cut where it is long."""
    if isinstance(value, str):  # cut before escaping: a value may be a megabyte long
        return repr(value if len(value) <= _TEXT_SHOWN else value[:_TEXT_SHOWN] + "...")
    if isinstance(value, list | tuple | dict):
        return f"a list of {len(value)}" if not isinstance(value, dict) else f"a mapping of {len(value)} keys"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()  # as YAML spells it
    if isinstance(value, int) and abs(value) >= 10**_TEXT_SHOWN:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)
