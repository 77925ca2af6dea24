"""A recipe: one pipeline as a value, read from YAML, merged, checked, and written back.

A recipe names a target and, for every stage, a strategy with its options.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from caddtree.core.errors import RecipeError
from caddtree.core.options import GenerationOptions
from caddtree.plugins.hooks import Stage
from caddtree.plugins.merging import merge, read_sets
from caddtree.plugins.nodes import MappingNode, Origin, Problem, join_problems, node_from_python
from caddtree.plugins.preprocessing import preprocess
from caddtree.plugins.recipe_check import check_recipe
from caddtree.plugins.recipe_files import find_recipe, read_layers, shipped_recipes
from caddtree.plugins.recipe_sections import Recipe, StageChoice, TargetOptions
from caddtree.plugins.registry import Registry, default_registry

__all__ = [
    "load_recipe",
    "shipped_recipes",
    "Recipe",
    "TargetOptions",
    "StageChoice",
    "GenerationOptions",
    "DEFAULT_STRATEGIES",
]

DEFAULT_STRATEGIES: Mapping[Stage, str] = {"tree_builder": "caddtree", "cost_model": "table", "verifier": "sdpa"}
"""Strategies of the stages that a recipe may leave out."""


def load_recipe(
    source: str | os.PathLike[str] | Recipe | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    *,
    registry: Registry | None = None,
) -> Recipe:
    """Return a checked recipe.

    Args:
        source: The name of a shipped recipe, the path of a YAML file, sections as a mapping, or a recipe.
        overrides: Sections whose keys replace those of ``source``.
        sets: ``a.b=value`` texts that replace single keys, after ``overrides``.
        registry: Where strategies are looked up; that of everything installed when None.

    Raises:
        RecipeError: With every error of the recipe and its overrides, one per line.
    """
    if isinstance(source, Recipe) and not overrides and not sets:
        return source
    problems: list[Problem] = []
    layers, label = _layers(source, problems)
    origin = layers[-1].origin if layers else Origin(label)
    has_source = bool(layers)
    if overrides:
        layers.append(_given(overrides, "overrides", problems))
    if sets:
        layers.append(read_sets(list(sets), problems))
    if not has_source:
        # nothing else can be judged without the file itself
        raise RecipeError(join_problems(problems))
    recipe = recipe_from_layers(layers, origin, label, problems, registry=registry)
    if problems or recipe is None:
        raise RecipeError(join_problems(problems))
    return recipe


def recipe_from_layers(
    layers: Sequence[MappingNode],
    origin: Origin,
    label: str,
    problems: list[Problem],
    *,
    registry: Registry | None = None,
) -> Recipe | None:
    """Return the recipe that layers make, laid one on another over the defaults; None with at least one problem more.

    Args:
        layers: The lowest first.
        origin: Where a section that is missing should have been.
        label: What to call the recipe.
        problems: Takes everything that is wrong, each where it was written.
        registry: As in :func:`load_recipe`.
    """
    merged = _defaults()
    for layer in layers:
        merged = merge(merged, layer)
    merged = attrs.evolve(merged, origin=attrs.evolve(origin, line=None, column=None))
    known = default_registry if registry is None else lambda: registry
    before = len(problems)
    merged = preprocess(merged, known, problems)
    if len(problems) > before:
        # what they would have changed cannot be judged
        return None
    recipe = check_recipe(merged, known, problems)
    return None if recipe is None else attrs.evolve(recipe, label=label)


def _layers(source: object, problems: list[Problem]) -> tuple[list[MappingNode], str]:
    """Return what ``source`` says, the lowest layer first, and what to call it."""
    if isinstance(source, Recipe):
        return [_given(source.to_mapping(), source.label, problems)], source.label
    if isinstance(source, Mapping):
        return [_given(source, "recipe", problems)], "recipe"
    if not isinstance(source, str | os.PathLike):
        raise RecipeError(f"a recipe is a name, a path, a mapping or a Recipe, found {type(source).__name__}")
    text = os.fspath(source)
    path = find_recipe(text) if isinstance(text, str) and not isinstance(source, os.PathLike) else Path(str(text))
    if isinstance(path, str):
        raise RecipeError(path)
    label = text if text in shipped_recipes() else path.stem
    return read_layers(path, problems), str(label)


def _given(sections: Mapping[str, Any], source: str, problems: list[Problem]) -> MappingNode:
    origin = Origin(source)
    node = node_from_python(sections, origin, problems)
    assert isinstance(node, MappingNode)
    if "extends" in node.entries:
        problems.append(Problem(origin, "belongs in a file; load that recipe and override it", "extends"))
        node = MappingNode({key: entry for key, entry in node.entries.items() if key != "extends"}, origin)
    return node


@functools.cache
def _defaults() -> MappingNode:
    node = node_from_python({kind: {"name": name} for kind, name in DEFAULT_STRATEGIES.items()}, Origin("defaults"), [])
    assert isinstance(node, MappingNode)
    return node
