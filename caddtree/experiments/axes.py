"""The axes of an experiment, expanded: one choice per value, one variant or setting per combination.

A list in an axis means several values, also inside a stage: ``{name: ddtree, node_budget: [16, 64]}`` is two choices.
An option that is a list itself is therefore written as a list of lists.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import attrs

from caddtree.core.options import GenerationOptions
from caddtree.plugins.hooks import STAGES
from caddtree.plugins.nodes import (
    BrokenNode,
    Entry,
    ListNode,
    MappingNode,
    Node,
    Problem,
    ScalarNode,
    plain_value,
    shown,
)
from caddtree.plugins.options import nearest

_REQUEST_KEYS = tuple(field.name for field in attrs.fields(GenerationOptions))
_SECTIONS = (*STAGES, "runtime", "generation")


@attrs.frozen
class Choice:
    """One value of an axis."""

    label: str
    sections: MappingNode
    """What it lays on the recipe below."""
    words: frozenset[str]
    """How ``exclude`` may call it."""
    long_label: str = ""
    """With its options named."""


@attrs.frozen
class Axis:
    """One thing that is varied."""

    key: str
    """As it was written, such as ``tree_builder`` or ``temperature``."""
    section: str
    option: str | None
    """The option that it varies; None where it varies the section as a whole."""
    choices: tuple[Choice, ...]

    @property
    def is_setting(self) -> bool:
        """Whether it varies the request, not the pipeline."""
        return self.section == "generation"


def read_axes(node: Node | None, problems: list[Problem]) -> list[Axis]:
    """Return the axes in the order they were written.

    Args:
        node: The section ``axes``; None where there is none.
        problems: Takes everything that is wrong.
    """
    if node is None or isinstance(node, BrokenNode):
        return []
    if not isinstance(node, MappingNode):
        problems.append(Problem(node.origin, "must be a mapping such as {tree_builder: [chain, caddtree]}", "axes"))
        return []
    axes: list[Axis] = []
    for key, entry in node.entries.items():
        place = _place(key, entry, problems)
        if place is None:
            continue
        section, option = place
        twin = next((axis.key for axis in axes if (axis.section, axis.option) == place), None)
        if twin is not None:
            problems.append(Problem(entry.key_origin, f"is varied by {twin} already; keep one", f"axes.{key}"))
            continue
        values = entry.node.items if isinstance(entry.node, ListNode) else (entry.node,)
        choices = [
            choice for value in values for choice in _choices(value, key, section, option, entry, problems)
        ]  # fmt: skip
        choices = _told_apart(choices)
        labels = [choice.label for choice in choices]
        for label in sorted({label for label in labels if labels.count(label) > 1}):
            problems.append(Problem(entry.key_origin, f"holds {label} twice; keep one", f"axes.{key}"))
        if not values:
            problems.append(Problem(entry.node.origin, "must hold at least one value", f"axes.{key}"))
        axes.append(Axis(key, section, option, tuple(choices)))
    return axes


def combinations(axes: list[Axis]) -> Iterator[tuple[Choice, ...]]:
    """Yield every combination, the last axis fastest; one empty combination without axes."""
    yield from itertools.product(*(axis.choices for axis in axes))


def stage_sections(node: Node, kind: str) -> MappingNode:
    """Return a stage, given as a mapping or by its name alone, as sections of a recipe."""
    if isinstance(node, ScalarNode):
        node = MappingNode({"name": Entry(node.origin, node)}, node.origin)
    return MappingNode({kind: Entry(node.origin, node)}, node.origin)


def _place(key: str, entry: Entry, problems: list[Problem]) -> tuple[str, str | None] | None:
    """Return the section and the option that an axis varies; no option where it varies the section as a whole."""
    section, _, option = key.partition(".")
    path = f"axes.{key}"
    if section == "target":
        message = "one experiment has one target, or outputs could not be compared; run it once per target with --set"
        problems.append(Problem(entry.key_origin, f"{message} base=RECIPE or fixed.target.KEY=VALUE", path))
        return None
    if section == "generation" and option:
        section, key = "generation", option
    if key in _REQUEST_KEYS:
        if key == "seed":
            problems.append(Problem(entry.key_origin, "is a key of its own: seeds: [0, 1]", path))
            return None
        return "generation", key
    if section not in _SECTIONS or "." in option:
        known = (*STAGES, *(name for name in _REQUEST_KEYS if name != "seed"), "runtime")
        problems.append(
            Problem(entry.key_origin, f"is nothing to vary; {nearest(section, known)}, or SECTION.OPTION", path)
        )
        return None
    if section == "generation" and not option:
        problems.append(Problem(entry.key_origin, "vary its options, such as temperature: [0, 1]", path))
        return None
    return section, option or None


def _choices(
    value: Node, key: str, section: str, option: str | None, entry: Entry, problems: list[Problem]
) -> Iterator[Choice]:
    path = f"axes.{key}"
    if isinstance(value, BrokenNode):
        return
    if option is not None:
        inner = MappingNode({option: Entry(entry.key_origin, value)}, value.origin)
        text = _text(value)
        yield Choice(f"{option}={text}", _section(section, inner), frozenset({text, f"{option}={text}"}))
    elif isinstance(value, MappingNode) and value.entries:
        yield from _multiplied(value, section)
    elif isinstance(value, ScalarNode) and isinstance(value.value, str) and section in STAGES:
        yield Choice(value.value, stage_sections(value, section), frozenset({value.value}))
    else:
        wanted = "the name of a strategy or a mapping" if section in STAGES else "a mapping of its options"
        problems.append(Problem(value.origin, f"must be {wanted}, found {shown(plain_value(value))}", path))


def _multiplied(node: MappingNode, section: str) -> Iterator[Choice]:
    """Yield one choice per combination of the lists inside a stage."""
    keys = list(node.entries)
    several = [
        entry.node.items if isinstance(entry.node, ListNode) and entry.node.items else (entry.node,)
        for entry in node.entries.values()
    ]
    for values in itertools.product(*several):
        entries = {
            key: Entry(node.entries[key].key_origin, value) for key, value in zip(keys, values, strict=True)
        }  # fmt: skip
        made = MappingNode(entries, node.origin)
        name = _text(made.get("name")) if "name" in entries else ""
        options = {key: _text(entry.node) for key, entry in entries.items() if key != "name"}
        long = " ".join([*([name] if name else []), *(f"{key}={text}" for key, text in options.items())])
        label = _short_label(name, options) or long
        yield Choice(label, _section(section, made), frozenset({label, long, name} - {""}), long)


def _short_label(name: str, options: dict[str, str]) -> str | None:
    """Return ``ddtree-16`` for a strategy with one number, the usual case."""
    if name and len(options) == 1 and next(iter(options.values())).replace(".", "").isdigit():
        return f"{name}-{next(iter(options.values()))}"
    return None


def _told_apart(choices: list[Choice]) -> list[Choice]:
    """Return the choices with their options named where a number alone would mean two of them."""
    labels = [choice.label for choice in choices]
    return [
        attrs.evolve(choice, label=choice.long_label)
        if choice.long_label and labels.count(choice.label) > 1
        else choice
        for choice in choices
    ]


def _section(section: str, node: MappingNode) -> MappingNode:
    return MappingNode({section: Entry(node.origin, node)}, node.origin)


def _text(node: Node | None) -> str:
    if isinstance(node, ScalarNode):
        return node.text if node.value is not None else "null"
    if isinstance(node, ListNode):
        return "[" + ",".join(_text(item) for item in node.items) + "]"
    return "" if node is None or isinstance(node, BrokenNode) else str(plain_value(node))
