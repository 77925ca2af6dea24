"""A JSON Schema of recipes, made from the sections and from the registry, so that editors complete and check recipes.

A schema sees one file: what the file extends, and options that look at one another, are judged when it is loaded.
"""

from __future__ import annotations

import enum
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from caddtree.core.options import GenerationOptions, RuntimeOptions
from caddtree.plugins.hooks import STAGES, Extension, Stage
from caddtree.plugins.options import OptionInfo, one_line_doc, options_of
from caddtree.plugins.recipe import DEFAULT_STRATEGIES, shipped_recipes
from caddtree.plugins.recipe_sections import TargetOptions
from caddtree.plugins.registry import Registry, StrategyInfo, default_registry

Schema = dict[str, Any]
Limits = Mapping[Any, Schema]
"""Keywords by the scalar type that they bound."""

_SECTIONS: Mapping[str, type] = {"target": TargetOptions, "runtime": RuntimeOptions, "generation": GenerationOptions}
_SCALARS: Mapping[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    Path: "string",
    type(None): "null",
}
_LISTED: Mapping[str, Extension] = {"preprocessors": "preprocessor", "observers": "observer"}
"""Sections that are lists of strategies, with the kind of them."""
_LISTS = (list, tuple, Sequence)
_TABLES = (dict, Mapping)


def recipe_schema(registry: Registry | None = None) -> Schema:
    """Return the JSON Schema (draft 2020-12) of a recipe file; the same installation gives the same schema.

    Args:
        registry: Whose strategies a recipe may name; everything installed when None.
    """
    strategies = (default_registry() if registry is None else registry).describe()
    by_kind = {kind: [info for info in strategies if info.kind == kind] for kind in STAGES}
    definitions = {section: _section(options_class) for section, options_class in _SECTIONS.items()}
    listed = {kind: [info for info in strategies if info.kind == kind] for kind in _LISTED.values()}
    used = [info for infos in (*by_kind.values(), *listed.values()) for info in infos]
    definitions |= {_name(info): _strategy(info) for info in used}
    definitions |= {f"{kind}s": _list_of(kind, infos) for kind, infos in listed.items()}
    definitions |= {kind: _whole_stage(kind, infos) for kind, infos in by_kind.items()}
    definitions |= {f"{kind}.changed": _changed_stage(kind, infos) for kind, infos in by_kind.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "caddtree recipe",
        "description": "One pipeline: a target and, for every stage, a strategy with its options.",
        "type": "object",
        "properties": {
            "extends": _extends(),
            "description": {"description": "What the recipe is, in a line.", "type": ["string", "null"]},
            **{section: _reference(section) for section in _LISTED},
            "target": _reference("target"),
            **{kind: {"description": _kind_words(kind), "type": "object"} for kind in STAGES},
            "runtime": _reference("runtime"),
            "generation": _reference("generation"),
        },
        "additionalProperties": False,
        "if": {"required": ["extends"]},
        "then": {"properties": {kind: _reference(f"{kind}.changed") for kind in STAGES}},
        "else": {
            "properties": {
                "target": {"required": _required(options_of(TargetOptions))},
                **{kind: _reference(kind) for kind in STAGES},
            },
            # a file with neither is there to be extended
            "dependentRequired": {"target": ["drafter"], "drafter": ["target"]},
        },
        "$defs": definitions,
    }


def _extends() -> Schema:
    return {
        "description": "A shipped recipe, or the path of a file relative to this one, that this recipe starts from: a "
        "stage whose name changes is replaced whole, the rest key by key.",
        # the names are for completion; a path may be anything
        "anyOf": [{"enum": sorted(shipped_recipes())}, {"type": "string", "minLength": 1}],
    }


def _section(options_class: type) -> Schema:
    """Return the schema of a section without strategies; none of its keys is required, because a base may give it."""
    return {"description": one_line_doc(options_class), **_table_of(options_of(options_class))}


def _strategy(info: StrategyInfo) -> Schema:
    """Return the schema of a stage that runs this strategy, required options left to the recipe as a whole."""
    table = _table_of(info.options)
    properties = {"name": {"const": info.name, "description": info.doc}, **table["properties"]}
    return {"description": info.doc, **table, "properties": properties}


def _whole_stage(kind: Stage, infos: Sequence[StrategyInfo]) -> Schema:
    """Return the schema of a stage in a recipe that extends nothing."""
    default = DEFAULT_STRATEGIES.get(kind)
    schema = _named_stage(kind, infos, with_required=True)
    if default is None:
        return {**schema, "required": ["name"]}
    if default not in [info.name for info in infos]:
        return schema
    # options without a name are those of the default strategy
    return {**schema, "else": _reference(f"{kind}.{default}")}


def _changed_stage(kind: Stage, infos: Sequence[StrategyInfo]) -> Schema:
    """Return the schema of a stage in a recipe that extends another: without a name, options of any strategy."""
    names = sorted({option.name for info in infos for option in info.options})
    return {**_named_stage(kind, infos, with_required=False), "else": {"propertyNames": {"enum": names}}}


def _list_of(kind: Extension, infos: Sequence[StrategyInfo]) -> Schema:
    """Return the schema of a list whose entries are names, or mappings with a name and options."""
    names = [info.name for info in infos]
    named = {
        "type": "object",
        "properties": {"name": {"enum": names}},
        "required": ["name"],
        "allOf": [_when_named(info, with_required=True) for info in infos],
    }
    bare = [info.name for info in infos if not _required(info.options)]
    return {
        "description": _LIST_WORDS[kind] + "".join(f"\n{info.name}: {info.doc}" for info in infos),
        "type": ["array", "null"],
        "items": {"anyOf": [*([{"enum": bare}] if bare else []), named]} if names else False,
    }


def _named_stage(kind: Stage, infos: Sequence[StrategyInfo], *, with_required: bool) -> Schema:
    choices = "\n".join(f"{info.name}: {info.doc}" for info in infos)
    return {
        "description": _kind_words(kind),
        "type": "object",
        "properties": {"name": {"description": f"The strategy.\n{choices}", "enum": [info.name for info in infos]}},
        "if": {"required": ["name"]},
        "then": {"allOf": [_when_named(info, with_required=with_required) for info in infos]},
    }


def _when_named(info: StrategyInfo, *, with_required: bool) -> Schema:
    required = _required(info.options) if with_required else []
    then = _reference(_name(info))
    # some editors read nothing that stands beside a reference
    return {
        "if": {"properties": {"name": {"const": info.name}}},
        "then": {"allOf": [then, {"required": required}]} if required else then,
    }


def _table_of(options: Iterable[OptionInfo]) -> Schema:
    properties = {option.name: _option(option) for option in options}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _option(option: OptionInfo) -> Schema:
    schema: Schema = {"description": option.doc} if option.doc else {}
    schema |= _type(option.type, _limits(option))
    if not option.is_required and (option.default is None or _is_json(option.default)):
        schema["default"] = list(option.default) if isinstance(option.default, tuple) else option.default
    return schema


def _required(options: Iterable[OptionInfo]) -> list[str]:
    return [option.name for option in options if option.is_required]


def _limits(option: OptionInfo) -> Limits:
    """Return what the validators of an option take: they are asked, because a declaration of theirs could be anything.

    A converter stands between the file and the validators, so that nothing they say holds of what is written.
    """
    if option.field is None or option.field.validator is None or option.field.converter is not None:
        return {}
    return {
        int: _lowest(option, (-1, 0, 1, 2)),
        float: {**(_lowest(option, (-1.0, 0.0)) or _above_zero(option)), **_at_most_one(option)},
        str: _words(option.field.validator) or ({"minLength": 1} if _takes(option, "") is False else {}),
    }


class _LooksElsewhereError(Exception):
    """A validator asked for another option, so that nothing holds of this one alone."""


class _Alone:
    """Stands for the instance that a validator is given."""

    def __getattr__(self, name: str) -> Any:
        raise _LooksElsewhereError(name)


def _takes(option: OptionInfo, value: Any) -> bool | None:
    """Tell whether the validators take a value; None if that depends on other options."""
    try:
        option.field.validator(_Alone(), option.field, value)
    except _LooksElsewhereError:
        return None
    except Exception:
        return False
    return True


def _lowest(option: OptionInfo, candidates: Sequence[float]) -> Schema:
    """Return the bound below: the first candidate that is taken, if all before it are refused and all behind it not."""
    answers = [_takes(option, value) for value in candidates]
    first = answers.index(True) if True in answers else 0
    is_bound = first > 0 and answers == [False] * first + [True] * (len(answers) - first)
    return {"minimum": candidates[first]} if is_bound else {}


def _above_zero(option: OptionInfo) -> Schema:
    is_bound = [_takes(option, value) for value in (-1.0, 0.0, 0.5)] == [False, False, True]
    return {"exclusiveMinimum": 0} if is_bound else {}


def _at_most_one(option: OptionInfo) -> Schema:
    """Return the bound above of shares and probabilities."""
    is_bound = [_takes(option, value) for value in (0.5, 1.0, 1.000001, 2.0)] == [True, True, False, False]
    return {"maximum": 1} if is_bound else {}


def _words(validator: Any) -> Schema:
    """Return the words that attrs' ``in_`` allows, also inside ``and_`` and ``optional``."""
    inner = getattr(validator, "_validators", None) or [getattr(validator, "validator", None)]
    options = getattr(validator, "options", None)
    if isinstance(options, list | tuple | set | frozenset) and all(isinstance(word, str) for word in options):
        return {"enum": list(options) if isinstance(options, list | tuple) else sorted(options)}
    found = [words for part in inner if part is not None and (words := _words(part))]
    return found[0] if found else {}


def _type(annotation: Any, limits: Limits | None = None) -> Schema:
    """Return the schema of a type; what no schema can express allows everything."""
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0], limits)
    if annotation in _SCALARS:
        return {"type": _SCALARS[annotation], **(limits or {}).get(annotation, {})}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(part, limits) for part in arguments]}
    if origin in _TABLES:
        return {"type": "object", **({"additionalProperties": _type(arguments[1])} if arguments else {})}
    if origin in _LISTS:
        return {"type": "array", **_items(origin, arguments)}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"enum": [member.value for member in annotation]}
    if isinstance(annotation, type) and attrs.has(annotation):
        options = options_of(annotation)
        return {**_table_of(options), "required": _required(options)}
    return {}


def _items(origin: Any, arguments: tuple[Any, ...]) -> Schema:
    if not arguments:
        return {}
    if origin is tuple and arguments[-1] is not Ellipsis:
        count = len(arguments)
        return {"prefixItems": [_type(part) for part in arguments], "minItems": count, "maxItems": count}
    return {"items": _type(arguments[0])}


def _is_json(value: Any) -> bool:
    """Tell whether JSON can hold a default; it has no infinity."""
    if isinstance(value, list | tuple):
        return all(_is_json(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))


_LIST_WORDS: Mapping[Extension, str] = {
    "preprocessor": "Pre-processors that change the recipe before it is checked, in their order.",
    "observer": "What sees rounds and finished requests, or says where a text ends.",
}


def _kind_words(kind: Stage) -> str:
    words: Mapping[Stage, str] = {
        "drafter": "Proposes what may come next: a draft model, or none.",
        "tree_builder": "Chooses a draft tree, and its size, from what the drafter proposes.",
        "cost_model": "Says how long a round takes by the number of its draft nodes.",
        "verifier": "Runs the target over the tree.",
    }
    return words[kind]


def _name(info: StrategyInfo) -> str:
    return f"{info.kind}.{info.name}"


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}
