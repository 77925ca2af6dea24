"""Values of a recipe as the types that a strategy declares, without guessing: a string is never a number.

cattrs finds the rule for a type; the rules for single values, lists, tables and unions replace its own, which convert.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, StructureHandlerNotFoundError

from caddtree.plugins.nodes import ListNode, MappingNode, Node, shown
from caddtree.plugins.yaml_reader import plain_scalar

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    type(None): "null",
    Path: "a path",
    Any: "any value",
}
_FOUND: dict[type, str] = {bool: "a bool", int: "an integer", float: "a float", str: "a string"}
_LISTS = (list, tuple, Sequence)
_TABLES = (dict, Mapping)


class MismatchError(ValueError):
    """A value is not of the declared type; ``steps`` lead from the option to the value."""

    def __init__(self, message: str, steps: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.steps = steps


class ManyMismatchesError(ValueError):
    """Several values inside one option are wrong."""

    def __init__(self, errors: Sequence[MismatchError]) -> None:
        super().__init__("; ".join(str(error) for error in errors))
        self.errors = tuple(errors)


def strict_value(value: Any, annotation: Any) -> Any:
    """Return a plain value as ``annotation`` wants it.

    Raises:
        ValueError: If it is of another type; :func:`unpack` tells what and where.
    """
    return _converter().structure(value, annotation)


def type_words(annotation: Any) -> str:
    """Return a type in words, with its article."""
    origin, arguments = _origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(value) for value in arguments)
    if _is_union(annotation):
        # null is said last: it is seldom what was meant
        ordered = sorted(arguments, key=lambda part: part is type(None))
        return " or ".join(type_words(part) for part in ordered)
    if origin in _LISTS:
        members = [part for part in arguments if part is not Ellipsis]
        return f"a list, each {type_words(members[0])}" if members else "a list"
    if origin in _TABLES:
        return "a mapping"
    return _WORDS.get(annotation, f"a {getattr(annotation, '__name__', annotation)}")


def unpack(error: Exception, node: Node, path: str) -> Iterator[tuple[Node, str, str]]:
    """Yield every message of ``error`` behind the node and the path that it is about."""
    if isinstance(error, ManyMismatchesError):
        for mismatch in error.errors:
            yield from unpack(mismatch, node, path)
    elif isinstance(error, MismatchError):
        yield _descend(node, error.steps), path + _path_of(error.steps), str(error)
    elif isinstance(error, ClassValidationError):
        noted, plain = error.group_exceptions()
        for inner, note in noted:
            yield from unpack(inner, _descend(node, (note.name,)), f"{path}.{note.name}")
        for other in plain:
            yield from unpack(other, node, path)
    elif isinstance(error, ForbiddenExtraKeysError):
        keys = ", ".join(sorted(shown(key) for key in error.extra_fields))
        yield node, path, f"has unknown keys {keys}"
    elif isinstance(error, StructureHandlerNotFoundError):
        yield node, path, "cannot be set in a recipe; leave it out"
    else:
        yield node, path, str(error.args[0]) if error.args else type(error).__name__


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (bool, int, str, type(None)):
        converter.register_structure_hook(kind, _same_type)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(Path, lambda value, _: Path(_same_type(value, str)))
    converter.register_structure_hook_func(lambda kind: _origin(kind) is typing.Literal, _literal)
    converter.register_structure_hook_func(_is_union, _member)
    converter.register_structure_hook_func(lambda kind: _origin(kind) in _LISTS, _list)
    converter.register_structure_hook_func(lambda kind: _origin(kind) in _TABLES, _table)
    return converter


def _origin(annotation: Any) -> Any:
    """Return ``list`` for ``list[int]``, and a type without arguments as it is."""
    return typing.get_origin(annotation) or annotation


def _is_union(annotation: Any) -> bool:
    return _origin(annotation) in (typing.Union, types.UnionType)


def _mismatch(value: Any, annotation: Any) -> MismatchError:
    kind = _FOUND.get(type(value))
    found = f", {kind}" if kind else ""
    hint = "; remove the quotes" if isinstance(value, str) and _would_fit(value, annotation) else ""
    return MismatchError(f"must be {type_words(annotation)}, found {shown(value)}{found}{hint}")


def _would_fit(text: str, annotation: Any) -> bool:
    """Tell whether a string, written without quotes, is of the type."""
    try:
        value = plain_scalar(text)
    except ValueError:
        return False
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    return type(value) in members or (type(value) is int and float in members)


def _same_type(value: Any, kind: Any) -> Any:
    if type(value) is not kind:
        raise _mismatch(value, kind)
    return value


def _number(value: Any, kind: Any) -> float:
    # true is an int to Python
    if type(value) not in (int, float):
        raise _mismatch(value, kind)
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _literal(value: Any, kind: Any) -> Any:
    # 1 == True == 1.0: the type counts too
    if not any(type(value) is type(allowed) and value == allowed for allowed in typing.get_args(kind)):
        raise _mismatch(value, kind)
    return value


def _member(value: Any, kind: Any) -> Any:
    """Return the value as the first member of the union that takes it, an exact type before a number."""
    members = sorted(typing.get_args(kind), key=lambda part: type(value) is not part)
    inner: list[ManyMismatchesError] = []
    for member in members:
        try:
            return strict_value(value, member)
        except ManyMismatchesError as error:
            inner.append(error)
        except (ValueError, ClassValidationError):
            continue
    if len(inner) == 1:
        raise inner[0]
    raise _mismatch(value, kind)


def _list(value: Any, kind: Any) -> Any:
    if not isinstance(value, list | tuple):
        hint = f"; write [{shown(value)}]" if isinstance(value, str) else ""
        raise MismatchError(f"{_mismatch(value, kind)}{hint}")
    arguments = typing.get_args(kind) or (Any,)
    is_tuple = _origin(kind) is tuple
    if is_tuple and len(arguments) > 0 and arguments[-1] is not Ellipsis and typing.get_args(kind):
        if len(value) != len(arguments):
            raise MismatchError(f"must be a list of {len(arguments)}, found a list of {len(value)}")
        members: Sequence[Any] = arguments
    else:
        members = (arguments[0],) * len(value)
    items = _each(list(zip(range(len(value)), value, members, strict=True)))
    return tuple(items) if is_tuple else items


def _table(value: Any, kind: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _mismatch(value, kind)
    arguments = typing.get_args(kind)
    member = arguments[1] if arguments else Any
    items = _each([(key, item, member) for key, item in value.items()])
    return dict(zip(value, items, strict=True))


def _each(parts: list[tuple[Any, Any, Any]]) -> list[Any]:
    items: list[Any] = []
    errors: list[MismatchError] = []
    for step, value, member in parts:
        try:
            items.append(strict_value(value, member))
        except MismatchError as error:
            errors.append(MismatchError(str(error), (step, *error.steps)))
        except ManyMismatchesError as error:
            errors += [MismatchError(str(inner), (step, *inner.steps)) for inner in error.errors]
    if errors:
        raise ManyMismatchesError(errors)
    return items


def _path_of(steps: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def _descend(node: Node, steps: tuple[str | int, ...]) -> Node:
    """Return the node that ``steps`` lead to, or the last one on the way."""
    for step in steps:
        below: Node | None = None
        if isinstance(node, ListNode) and isinstance(step, int):
            below = node.items[step]
        elif isinstance(node, MappingNode) and isinstance(step, str):
            below = node.get(step)
        if below is None:
            return node
        node = below
    return node
