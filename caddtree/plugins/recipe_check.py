"""Merged sections to a :class:`Recipe`: every error is found, none hides another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from caddtree.core.options import GenerationOptions, RuntimeOptions
from caddtree.plugins.choices import read_choice, read_choices
from caddtree.plugins.combination import check_combination, works_with
from caddtree.plugins.hooks import STAGES, Stage
from caddtree.plugins.nodes import BrokenNode, MappingNode, Node, Origin, Problem, plain_value, shown
from caddtree.plugins.options import OptionInfo, check_options, constructor_arguments, nearest, options_of
from caddtree.plugins.recipe_sections import Recipe, StageChoice, TargetOptions
from caddtree.plugins.registry import Registry

_SECTIONS = ("extends", "description", "preprocessors", "target", *STAGES, "observers", "runtime", "generation")
_UNKNOWN_SHOWN = 20


def check_recipe(merged: MappingNode, registry: Callable[[], Registry], problems: list[Problem]) -> Recipe | None:
    """Return the recipe that ``merged`` describes, or None with at least one problem more.

    Args:
        merged: All layers on top of one another.
        registry: Returns the strategies; asked only when a stage is there to be checked.
        problems: Takes everything that is wrong.
    """
    before = len(problems)
    _refuse_unknown_sections(merged, problems)
    description = _description(merged.get("description"), problems)
    target = _plain_section(merged, "target", TargetOptions, problems)
    runtime = _plain_section(merged, "runtime", RuntimeOptions, problems)
    generation = _plain_section(merged, "generation", GenerationOptions, problems)
    observers = read_choices(merged.get("observers"), "observer", "observers", registry, problems)
    stages = {kind: _stage(merged, kind, registry, problems) for kind in STAGES}
    chosen = {kind: stage for kind, stage in stages.items() if stage is not None}
    _refuse_conflicts(merged, chosen, registry, problems)
    if len(problems) > before or target is None or runtime is None or generation is None or len(chosen) < len(STAGES):
        return None
    return Recipe(
        target=target,
        drafter=chosen["drafter"],
        tree_builder=chosen["tree_builder"],
        cost_model=chosen["cost_model"],
        verifier=chosen["verifier"],
        observers=observers,
        runtime=runtime,
        generation=generation,
        description=description,
    )


def _refuse_unknown_sections(merged: MappingNode, problems: list[Problem]) -> None:
    unknown = [key for key in merged.entries if key not in _SECTIONS or key == "extends"]
    for key in unknown[:_UNKNOWN_SHOWN]:
        origin = merged.entries[key].key_origin
        message = f"is no section of a recipe; {nearest(key, _SECTIONS)}"
        if key == "extends":
            message = "belongs in a file, not in an override"
        problems.append(Problem(origin, message, shown(key)[1:-1]))
    if len(unknown) > _UNKNOWN_SHOWN:
        origin = merged.entries[unknown[_UNKNOWN_SHOWN]].key_origin
        problems.append(Problem(origin, f"and {len(unknown) - _UNKNOWN_SHOWN} more unknown sections"))


def _description(node: Node | None, problems: list[Problem]) -> str | None:
    value = None if node is None else plain_value(node)
    if value is None or isinstance(value, str):
        return value
    assert node is not None
    problems.append(Problem(node.origin, f"must be a string, found {shown(value)}", "description"))
    return None


def _plain_section(merged: MappingNode, section: str, sections_class: type, problems: list[Problem]) -> Any:
    """Return the checked ``target``, ``runtime`` or ``generation``, or None."""
    node = _mapping(merged, section, problems)
    if node is None:
        return None
    before = len(problems)
    values = check_options(_options(sections_class), node, section, section, problems)
    if len(problems) > before or any(isinstance(entry.node, BrokenNode) for entry in node.entries.values()):
        return None
    return sections_class(**constructor_arguments(sections_class, values))


@functools.cache
def _options(sections_class: type) -> tuple[OptionInfo, ...]:
    return options_of(sections_class)


def _mapping(merged: MappingNode, section: str, problems: list[Problem]) -> MappingNode | None:
    entry = merged.entries.get(section)
    if entry is None and section in ("runtime", "generation"):
        return MappingNode({}, merged.origin)
    if entry is None:
        example = "target: {model: FOLDER}" if section == "target" else f"{section}: {{name: NAME}}"
        problems.append(Problem(merged.origin, f"is missing; add a line such as {example}", section))
        return None
    if isinstance(entry.node, MappingNode):
        return entry.node
    if not isinstance(entry.node, BrokenNode):
        value = plain_value(entry.node)
        found = "nothing" if value is None else shown(value)
        key = {"target": "model", "runtime": "graphs", "generation": "temperature"}.get(section, "name")
        fix = (
            f"; write {{{key}: {value}}}"
            if isinstance(value, str) and len(value) <= 40
            else f", such as {{{key}: ...}}"
        )
        problems.append(Problem(entry.node.origin, f"must be a mapping, found {found}{fix}", section))
    return None


def _stage(
    merged: MappingNode, kind: Stage, registry: Callable[[], Registry], problems: list[Problem]
) -> StageChoice | None:
    """Return the checked strategy of one stage; None if it could not be found, partly empty if it is wrong."""
    node = _mapping(merged, kind, problems)
    return None if node is None else read_choice(node, kind, kind, registry, problems)


def _refuse_conflicts(
    merged: MappingNode,
    chosen: dict[Stage, StageChoice],
    registry: Callable[[], Registry],
    problems: list[Problem],
) -> None:
    """Refuse parts that cannot work together, and name the parts that could take their places."""
    if not chosen:
        return
    known = registry()
    classes = {kind: known.get(kind, stage.name) for kind, stage in chosen.items()}
    for conflict in check_combination(classes):
        ways = []
        for kind in (conflict.other, conflict.kind):
            names = [name for name in known.names(kind) if works_with(kind, known.get(kind, name), conflict)]
            ways.append(f"another {kind} ({', '.join(names) or 'none is installed'})")
        message = (
            f"{conflict.kind} {chosen[conflict.kind].name} needs {conflict.word!r}, which {conflict.other} "
            f"{chosen[conflict.other].name} lacks; choose {' or '.join(ways)}"
        )
        problems.append(Problem(_name_origin(merged, conflict.kind), message, f"{conflict.kind}.name"))


def _name_origin(merged: MappingNode, kind: Stage) -> Origin:
    section = merged.get(kind)
    name = section.get("name") if isinstance(section, MappingNode) else None
    return (name or section or merged).origin
