"""Pre-processors of recipes: plugins that change what was written before it is checked.

A recipe names them, so that an installed package changes nothing by being there::

    preprocessors: [environment]
    target: {model: "${MODELS}/Qwen3-4B"}

They run in the order of the list over the recipe with everything that it extends, all overrides included; each sees
what the ones before it made. What comes out is the recipe: it is shown, compared and stored without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from caddtree.core.errors import CaddtreeError, one_line
from caddtree.plugins.choices import read_choices
from caddtree.plugins.merging import merge
from caddtree.plugins.nodes import (
    Entry,
    ListNode,
    MappingNode,
    Node,
    Origin,
    Problem,
    find_broken,
    moved,
    node_from_python,
    plain_value,
    shown,
)
from caddtree.plugins.registry import Registry

SECTION = "preprocessors"
"""The key that names them in a recipe."""


@runtime_checkable
class Preprocessor(Protocol):
    """The sections of a recipe -> what is to be changed in them."""

    def process(self, sections: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return sections with the keys that get another value; they are laid over the recipe as ``extends`` does.

        Args:
            sections: What was written, as plain values: neither checked nor complete, and to be left as it is.
        """


def preprocess(merged: MappingNode, registry: Callable[[], Registry], problems: list[Problem]) -> MappingNode:
    """Return the recipe as its pre-processors make it, without their section.

    Args:
        merged: All layers on top of one another.
        registry: Returns the strategies; asked only where a pre-processor is named.
        problems: Takes everything that is wrong.
    """
    before = len(problems)
    section = merged.get(SECTION)
    choices = read_choices(section, "preprocessor", SECTION, registry, problems)
    merged = MappingNode({key: entry for key, entry in merged.entries.items() if key != SECTION}, merged.origin)
    # what could not be read cannot be shown to anybody
    if len(problems) > before or find_broken(merged):
        return merged
    for index, choice in enumerate(choices):
        assert isinstance(section, ListNode)
        info = registry().info("preprocessor", choice.name)
        try:
            changes = registry().create("preprocessor", choice.name, choice.options).process(plain_value(merged))
            if not isinstance(changes, Mapping):
                raise TypeError(f"process must return a mapping of sections, found {shown(changes)}")
            if SECTION in changes:
                raise TypeError(f"process must not return {SECTION}; a recipe alone says which run")
        except Exception as error:
            said = "says" if isinstance(error, CaddtreeError) else f"raised {type(error).__name__}"
            message = f"{choice.name} of {info.provider} {said}: {one_line(error)}"
            problems.append(Problem(section.items[index].origin, message, f"{SECTION}[{index}]"))
            return merged
        origin = Origin(f"preprocessor {choice.name}", folder=merged.origin.folder)
        made = _placed(node_from_python(changes, origin, problems), merged)
        if len(problems) > before:
            return merged
        assert isinstance(made, MappingNode)
        merged = MappingNode(merge(merged, made).entries, merged.origin)
    return merged


def _placed(made: Node, written: Node | None) -> Node:
    """Return values that stand where those were written which they replace: errors and relative paths refer to that."""
    match made, written:
        case MappingNode(), MappingNode():
            entries = {}
            for key, entry in made.entries.items():
                below = written.entries.get(key)
                origin = entry.key_origin if below is None else below.key_origin
                entries[key] = Entry(origin, _placed(entry.node, None if below is None else below.node))
            return MappingNode(entries, written.origin)
        case ListNode(), ListNode():
            partners = [*written.items, *([None] * len(made.items))]
            return ListNode(tuple(map(_placed, made.items, partners)), written.origin)
    return made if written is None else moved(made, written.origin)
