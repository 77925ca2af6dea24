"""The options of a strategy: what its attrs class declares, and a recipe's values checked against it.

A strategy class is an attrs class; the public fields of its constructor are the options that a recipe may give.
Private fields and fields with ``init=False`` are none. A field whose metadata holds ``{"path": True}``, or that is
called ``model``, is a path: a value that begins with ``./`` or ``../`` refers to the folder of the recipe. Checking
runs the validators of the fields but never the constructor, so that a recipe is checked without loading weights.
"""

from __future__ import annotations

import ast
import copy
import difflib
import inspect
import itertools
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from caddtree.plugins.nodes import BrokenNode, MappingNode, Node, Problem, find_broken, plain_value, shown
from caddtree.plugins.strict_types import strict_value, type_words, unpack

_CODE_KEYS = ("trust_remote_code", "code_revision")
_CODE_FILES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy", ".npz", ".py")
_NAMES_LISTED = 20


@attrs.frozen
class OptionInfo:
    """One option of a strategy."""

    name: str
    type_text: str
    """The type as a reader of a recipe understands it, such as ``int | None``."""
    default: Any
    """Meaningless when the option is required."""
    is_required: bool
    doc: str
    is_path: bool = attrs.field(default=False, repr=False)
    type: Any = attrs.field(default=Any, repr=False)
    field: Any = attrs.field(default=None, repr=False, eq=False)


def options_of(strategy_class: type) -> tuple[OptionInfo, ...]:
    """Return the options of an attrs class in the order of its constructor.

    Raises:
        TypeError: If the annotation of an option cannot be resolved.
    """
    docs = _docs_below_fields(strategy_class)
    return tuple(
        _option(strategy_class, field, docs)
        for field in attrs.fields(strategy_class)
        if field.init and not field.name.startswith("_")
    )


def one_line_doc(strategy_class: type) -> str:
    """Return the first sentence of a class's own docstring, or nothing."""
    doc = inspect.cleandoc(vars(strategy_class).get("__doc__") or "")
    return " ".join(doc.split("\n\n")[0].split())


def check_options(
    options: Iterable[OptionInfo], section: MappingNode, path: str, owner: str, problems: list[Problem]
) -> dict[str, Any]:
    """Return the values of ``section`` for ``options``, defaults filled in where a recipe can hold them.

    Args:
        options: What is allowed.
        section: What was written.
        path: The key of the section, such as ``tree_builder``.
        owner: Whose options these are, such as ``tree_builder ddtree``.
        problems: Takes everything that is wrong.

    Returns:
        Plain values by option; an option with a problem is left out.
    """
    known = {option.name: option for option in options}
    _refuse_unknown(known, section, path, owner, problems)
    values = {name: copy.deepcopy(option.default) for name, option in known.items() if not option.is_required}
    structured = dict(values)
    wrong: set[str] = set()
    for name, option in known.items():
        node = section.get(name)
        before = len(problems)
        if node is not None and not find_broken(node):
            values[name], structured[name] = _checked_value(option, node, f"{path}.{name}", problems)
        elif node is None and option.is_required:
            found = f"is missing; {owner} needs it, {type_words(option.type)}"
            problems.append(Problem(section.origin, found, f"{path}.{name}"))
        if len(problems) > before or isinstance(node, BrokenNode):
            wrong.add(name)
    sound = [option for name, option in known.items() if name not in wrong]
    kept = {name: value for name, value in structured.items() if name not in wrong}
    wrong |= _run_validators(sound, kept, section, path, problems)
    return {name: values[name] for name in known if name in values and name not in wrong and _is_plain(values[name])}


def constructor_arguments(strategy_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked plain values as the types that the constructor of ``strategy_class`` declares."""
    known = {option.name: option for option in options_of(strategy_class)}
    return {known[name].field.alias: strict_value(value, known[name].type) for name, value in values.items()}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint: the nearest known name, and all of them."""
    names = sorted(known)
    if not names:
        return "there are none"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6) if len(name) <= 80 else []
    listed = ", ".join(names[:_NAMES_LISTED]) + (", ..." if len(names) > _NAMES_LISTED else "")
    return (f"did you mean {close[0]}? " if close else "") + f"allowed: {listed}"


def _option(strategy_class: type, field: Any, docs: Mapping[str, str]) -> OptionInfo:
    default = field.default
    is_required = default is attrs.NOTHING
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = None if default.takes_self else default.factory()
    annotation = _annotation(strategy_class, field)
    return OptionInfo(
        name=field.name,
        type_text=_type_text(annotation),
        default=None if is_required else default,
        is_required=is_required,
        doc=field.metadata.get("doc", docs.get(field.name, "")),
        is_path=bool(field.metadata.get("path")) or field.name == "model",
        type=annotation,
        field=field,
    )


def _annotation(strategy_class: type, field: Any) -> Any:
    """Return the resolved type of one field; the others may name types that exist for type checkers only."""
    if not isinstance(field.type, str):
        return Any if field.type is None else field.type
    for owner in strategy_class.__mro__:
        if field.name in vars(owner).get("__annotations__", {}):
            scope = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
            holder = types.SimpleNamespace(__annotations__={field.name: field.type})
            try:
                return typing.get_type_hints(holder, {**scope, owner.__name__: owner})[field.name]
            except Exception as error:
                raise TypeError(f"option {field.name}: type {field.type!r} cannot be resolved: {error}") from error
    return Any


def _type_text(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(str(value) for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(_type_text(part) for part in typing.get_args(annotation))
    if annotation is type(None):
        return "None"
    return inspect.formatannotation(annotation)


def _docs_below_fields(strategy_class: type) -> dict[str, str]:
    """Return the strings that stand below the fields of a class in its source, where that can be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(strategy_class)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = tree.body[0].body if tree.body and isinstance(tree.body[0], ast.ClassDef) else []
    docs: dict[str, str] = {}
    for field, below in itertools.pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            docs[field.target.id] = " ".join(below.value.value.split())
    return docs


def _refuse_unknown(
    known: Mapping[str, OptionInfo], section: MappingNode, path: str, owner: str, problems: list[Problem]
) -> None:
    unknown = [key for key in section.entries if key not in known]
    for key in unknown[:_NAMES_LISTED]:
        origin = section.entries[key].key_origin
        if key in _CODE_KEYS:
            found = "is refused: caddtree never runs code from a model folder; remove the key"
        else:
            found = f"is no option of {owner}; {nearest(key, known)}"
        problems.append(Problem(origin, found, f"{path}.{shown(key)[1:-1]}"))
    if len(unknown) > _NAMES_LISTED:
        found = f"has {len(unknown) - _NAMES_LISTED} more unknown keys"
        problems.append(Problem(section.entries[unknown[_NAMES_LISTED]].key_origin, found, path))


def _checked_value(option: OptionInfo, node: Node, path: str, problems: list[Problem]) -> tuple[Any, Any]:
    """Return a value as a recipe holds it and as the class takes it."""
    value = plain_value(node)
    if option.is_path and isinstance(value, str):
        value = _resolved_path(value, node, path, problems)
    try:
        structured = strict_value(value, option.type)
        if option.field.converter is not None:
            structured = _converted(option.field, structured)
    except Exception as error:
        for below, below_path, message in unpack(error, node, path):
            problems.append(Problem(below.origin, _without_name(message, option.name), below_path))
        return value, None
    return (structured if isinstance(structured, float) else value), structured


def _resolved_path(value: str, node: Node, path: str, problems: list[Problem]) -> str:
    if value.lower().endswith(_CODE_FILES):
        found = f"only safetensors and JSON are read, found {shown(value)}; convert the file"
        problems.append(Problem(node.origin, found, path))
    if "\0" in value or value.split("/")[0] not in (".", ".."):
        return value
    return str(((node.origin.folder or Path.cwd()) / value).resolve())


def _converted(field: Any, value: Any) -> Any:
    converter = field.converter
    if getattr(converter, "takes_self", False) or getattr(converter, "takes_field", False):
        return value  # a converter that wants the instance runs in the constructor only
    return getattr(converter, "converter", converter)(value)


class _NotSoundError(AttributeError):
    """A validator asked for an option that has no valid value."""


class _SoundValues(types.SimpleNamespace):
    """The values that are right so far, as attributes."""

    def __getattr__(self, name: str) -> Any:
        raise _NotSoundError(name)


def _run_validators(
    options: list[OptionInfo], structured: Mapping[str, Any], section: MappingNode, path: str, problems: list[Problem]
) -> set[str]:
    """Return the options that their validators refuse.

    A validator is given an object that holds all values that are right so far: it may look at another option.
    """
    values = _SoundValues(**structured)
    refused = set()
    for option in options:
        node = section.get(option.name)
        if option.field.validator is None or option.name not in structured:
            continue
        try:
            option.field.validator(values, option.field, structured[option.name])
        except _NotSoundError:
            continue  # it looked at an option that is wrong, which is reported already
        except Exception as error:
            text = str(error.args[0]) if error.args else type(error).__name__
            origin = (node or section).origin
            problems.append(Problem(origin, _without_name(text, option.name), f"{path}.{option.name}"))
            refused.add(option.name)
    return refused


def _without_name(message: str, name: str) -> str:
    """Return a message without the option's name in front: the path says it already."""
    for prefix in (f"{name} ", f"'{name}' "):
        message = message.removeprefix(prefix)
    return message


def _is_plain(value: Any) -> bool:
    """Tell whether a recipe can hold a value."""
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str)
