"""Strict YAML: what a recipe may contain is small, and everything else is refused with its place.

Scalars follow the core schema of YAML 1.2: ``1e-3`` is a float, ``016`` is 16, ``0o16`` is 14, ``no``, ``off`` and
``1:30`` are strings. Duplicate keys, anchors, aliases, merge keys, tags and second documents are refused. The text is
read event by event without recursion, so that depth and size are bounded before anything is built.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import yaml

from caddtree.plugins.nodes import BrokenNode, Entry, ListNode, MappingNode, Node, Origin, Problem, ScalarNode, shown

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 10_000
_MAX_NUMBER_LENGTH = 256

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED_INTEGER = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(sign + "inf") for sign in ("", "-", "+") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_FORBIDDEN_CHARACTER = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAB_INDENT = re.compile(r"^ *\t", re.MULTILINE)


@attrs.frozen
class Document:
    """What was read; ``root`` is None when nothing could be."""

    root: Node | None
    problems: tuple[Problem, ...] = ()


class _UnreadableError(Exception):
    """Ends the reading of one document with the problem in its first argument."""


def read_file(path: Path, shown_as: str | None = None) -> Document:
    """Return the YAML of a file; every reason why it cannot be read is a problem, not an exception.

    Args:
        path: The file.
        shown_as: How the user called it.
    """
    origin = Origin(shown_as or str(path), folder=path.absolute().parent)
    try:
        return read_text(_decode(_read_bytes(path, origin), origin), origin)
    except _UnreadableError as error:
        return Document(None, (error.args[0],))


def read_text(text: str, origin: Origin) -> Document:
    """Return the YAML of ``text``; places are relative to ``origin``, which names the source."""
    problems: list[Problem] = []
    try:
        _check_characters(text, origin)
        root = _Composer(text, origin, problems).compose()
    except _UnreadableError as error:
        return Document(None, (*problems, error.args[0]))
    return Document(root, tuple(problems))


def plain_scalar(text: str) -> bool | int | float | str | None:
    """Return the value of an unquoted scalar by the core schema of YAML 1.2.

    Raises:
        ValueError: If a number is too long or too large to be held.
    """
    if text in _WORDS:
        return _WORDS[text]
    is_integer, is_based = _INTEGER.fullmatch(text), _BASED_INTEGER.fullmatch(text)
    if not (is_integer or is_based or _FLOAT.fullmatch(text)):
        return text
    if len(text) > _MAX_NUMBER_LENGTH:
        raise ValueError(f"a number of {len(text)} characters; quote it if it is a string")
    if is_integer:
        return int(text)
    if is_based:
        return int(text, 0)
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large for a float; write .inf if infinity is meant")
    return number


def _read_bytes(path: Path, origin: Origin) -> bytes:
    try:
        # a pipe or a device could block or never end: look before opening
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise _UnreadableError(Problem(origin, "is a directory; name the YAML file in it"))
        if not stat.S_ISREG(mode):
            raise _UnreadableError(Problem(origin, "is no regular file; a recipe is a YAML file"))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _UnreadableError(Problem(origin, "no such file; check the path")) from None
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise _UnreadableError(Problem(origin, f"cannot be read: {reason}")) from error
    if len(data) > MAX_BYTES:
        found = f"is larger than {MAX_BYTES} bytes, the most that a recipe may have; is it a recipe?"
        raise _UnreadableError(Problem(origin, found))
    return data


def _decode(data: bytes, origin: Origin) -> str:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        found = "starts with a byte order mark; save the file as UTF-8 without one"
        raise _UnreadableError(Problem(attrs.evolve(origin, line=1, column=1), found))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        found = f"byte 0x{data[error.start]:02x} is not valid UTF-8; save the file as UTF-8"
        raise _UnreadableError(Problem(_place(origin, before), found)) from error


def _check_characters(text: str, origin: Origin) -> None:
    match = _FORBIDDEN_CHARACTER.search(text)
    if match is not None:
        found = f"character {match[0]!r} is not allowed; write it as an escape in a double-quoted string"
        raise _UnreadableError(Problem(_place(origin, text[: match.start()]), found))


def _place(origin: Origin, before: str) -> Origin:
    """Return the place right after the text ``before``."""
    return attrs.evolve(origin, line=before.count("\n") + 1, column=len(before) - before.rfind("\n"))


@attrs.define
class _Open:
    """A list or a mapping whose end has not been read yet."""

    origin: Origin
    is_mapping: bool
    items: list[Node] = attrs.field(factory=list)
    entries: dict[str, Entry] = attrs.field(factory=dict)
    key_origin: Origin | None = None
    """The key whose value comes next; None while a key comes next."""
    key: str | None = None
    """That key, or None where it was refused and its value is dropped."""
    is_key: bool = False
    """Whether the collection stands where a key should; it was refused, and its content is dropped."""


class _Composer:
    """Builds the nodes of one document from the parser's events, on a stack of its own."""

    def __init__(self, text: str, origin: Origin, problems: list[Problem]) -> None:
        self.text, self.origin, self.problems = text, origin, problems
        self.stack: list[_Open] = []
        self.root: Node | None = None
        self.num_values = 0

    def compose(self) -> Node | None:
        """Return the root of the only document, or None where there is none."""
        for event in self._events():
            match event:
                case yaml.DocumentStartEvent():
                    self._start_document(event)
                case yaml.ScalarEvent() | yaml.AliasEvent():
                    self._add_leaf(event)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._open(event)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._close()
        return self.root

    def _events(self) -> Iterator[Any]:
        try:
            yield from yaml.parse(self.text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            raise _UnreadableError(self._syntax_problem(error)) from error
        except yaml.YAMLError as error:
            raise _UnreadableError(Problem(self.origin, f"is not YAML: {shown(str(error))}")) from error

    def _syntax_problem(self, error: yaml.MarkedYAMLError) -> Problem:
        place = self._at(error.problem_mark or error.context_mark)
        begun = ""
        if error.context:
            begun = f" {error.context}"
            if error.context_mark is not None:
                begun += f" that starts at line {error.context_mark.line + 1}"
        message = f"is not YAML: {error.problem}{begun}"
        tab = _TAB_INDENT.search(self.text)
        if tab is not None and place.line is not None:
            tab_place = _place(self.origin, self.text[: tab.end() - 1])
            if tab_place.line is not None and tab_place.line <= place.line:
                return Problem(tab_place, "found a tab in the indentation; indent with spaces")
        return Problem(place, f"{message}. Close what was opened, or quote text with special characters")

    def _start_document(self, event: Any) -> None:
        if self.root is not None:
            raise _UnreadableError(Problem(self._at(event.start_mark), "found a second document; keep one"))
        if event.tags or (event.version and tuple(event.version) != (1, 2)):
            self._refuse(event, "found a % directive; leave it out")

    def _add_leaf(self, event: Any) -> None:
        self._count(event)
        origin = self._at(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, f"found the alias {shown(event.anchor)}; write the value out")
            self._place_node(BrokenNode(origin))
            return
        is_sound = self._check_marks(event)
        text = str(event.value)
        is_key = bool(self.stack) and self.stack[-1].is_mapping and self.stack[-1].key_origin is None
        if is_key and is_sound and event.implicit[0] and text == "<<":
            self._refuse(event, "found the merge key <<; write the keys out, or use extends")
            is_sound = False
        try:
            value = plain_scalar(text) if event.implicit[0] else text
        except ValueError as error:
            self._refuse(event, f"found {shown(str(error))[1:-1]}")
            is_sound = False
        self._place_node(ScalarNode(value, text, origin) if is_sound else BrokenNode(origin))

    def _open(self, event: Any) -> None:
        self._count(event)
        if len(self.stack) >= MAX_DEPTH:
            found = f"is nested deeper than {MAX_DEPTH} levels; a recipe needs three"
            raise _UnreadableError(Problem(self._at(event.start_mark), found))
        self._check_marks(event)
        is_key = bool(self.stack) and self.stack[-1].is_mapping and self.stack[-1].key_origin is None
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        self.stack.append(_Open(self._at(event.start_mark), is_mapping, is_key=is_key))

    def _close(self) -> None:
        done = self.stack.pop()
        if done.is_key:
            self._place_node(ListNode((), done.origin))
        elif done.is_mapping:
            self._place_node(MappingNode(done.entries, done.origin))
        else:
            self._place_node(ListNode(tuple(done.items), done.origin))

    def _place_node(self, node: Node) -> None:
        if not self.stack:
            self.root = node
        elif not self.stack[-1].is_mapping:
            self.stack[-1].items.append(node)
        elif self.stack[-1].key_origin is None:
            self._place_key(self.stack[-1], node)
        else:
            self._place_value(self.stack[-1], node)

    def _place_key(self, parent: _Open, node: Node) -> None:
        parent.key_origin = node.origin
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            parent.key = node.value
            return
        parent.key = None
        if not isinstance(node, BrokenNode):
            found = shown(node.text) if isinstance(node, ScalarNode) else "a list or a mapping"
            self.problems.append(Problem(node.origin, f"keys must be words, found {found}"))

    def _place_value(self, parent: _Open, node: Node) -> None:
        key, origin = parent.key, parent.key_origin
        parent.key_origin = None
        if key is None or origin is None:
            return
        if key in parent.entries:
            first = parent.entries[key].key_origin
            found = f"found the key {shown(key)} twice, first at line {first.line}; keep one"
            self.problems.append(Problem(origin, found))
        else:
            parent.entries[key] = Entry(origin, node)

    def _check_marks(self, event: Any) -> bool:
        """Refuse anchors and tags; tell whether there were none."""
        if event.anchor is not None:
            self._refuse(event, f"found the anchor {shown(event.anchor)}; write the value out where it is used")
        if event.tag is not None:
            self._refuse(event, f"found the tag {shown(event.tag)}; recipes hold plain values only, leave it out")
        return event.anchor is None and event.tag is None

    def _count(self, event: Any) -> None:
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            found = f"holds more than {MAX_VALUES} values; is it a recipe?"
            raise _UnreadableError(Problem(self._at(event.start_mark), found))

    def _refuse(self, event: Any, message: str) -> None:
        self.problems.append(Problem(self._at(event.start_mark), message))

    def _at(self, mark: Any) -> Origin:
        if mark is None:
            return self.origin
        return attrs.evolve(self.origin, line=mark.line + 1, column=mark.column + 1)
