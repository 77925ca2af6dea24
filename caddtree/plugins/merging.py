"""How layers of a recipe become one: ``extends``, ``overrides`` and ``--set`` merge by the same rule."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from caddtree.plugins.hooks import STAGES
from caddtree.plugins.nodes import (
    BrokenNode,
    Entry,
    MappingNode,
    Node,
    Origin,
    Problem,
    ScalarNode,
    moved,
    plain_value,
    shown,
)
from caddtree.plugins.yaml_reader import read_text

_EXAMPLE = "write it as in --set tree_builder.max_node_budget=64"
_ARGUMENT_SHOWN = 80


def merge(base: MappingNode, over: MappingNode) -> MappingNode:
    """Return ``over`` laid on ``base``: a stage whose name changes is replaced whole, the rest key by key."""
    entries = dict(base.entries)
    for section, entry in over.entries.items():
        below = entries.get(section)
        if below is None:
            entries[section] = entry
        else:
            entries[section] = Entry(entry.key_origin, _merge_section(section, below.node, entry.node))
    return MappingNode(entries, over.origin)


def read_sets(arguments: Sequence[str], problems: list[Problem]) -> MappingNode:
    """Return what ``--set a.b=value`` arguments say, together; their order means nothing.

    Args:
        arguments: The text after each ``--set``.
        problems: Takes everything that is wrong.
    """
    together = MappingNode({}, Origin("--set"))
    for argument in arguments:
        origin = Origin(
            "--set " + (argument if len(argument) <= _ARGUMENT_SHOWN else argument[:_ARGUMENT_SHOWN] + "...")
        )
        key, equals, text = argument.partition("=")
        names = [name.strip() for name in key.split(".")]
        if not equals or not all(names):
            problems.append(Problem(origin, f"must be KEY=VALUE; {_EXAMPLE}"))
            continue
        node = _read_value(text, origin, problems)
        for name in reversed(names):
            node = MappingNode({name: Entry(origin, node)}, origin)
        assert isinstance(node, MappingNode)
        together = _unite(together, node, "", problems)
    return together


def _merge_section(section: str, base: Node, over: Node) -> Node:
    if not isinstance(base, MappingNode) or not isinstance(over, MappingNode):
        return over
    if section in STAGES:
        name = over.get("name")
        if name is not None and plain_value(name) != plain_value(base.get("name") or BrokenNode(base.origin)):
            return over
    return MappingNode({**base.entries, **over.entries}, over.origin)


def _read_value(text: str, origin: Origin, problems: list[Problem]) -> Node:
    """Return the value of one ``--set``: a single value, or a list or mapping in brackets."""
    document = read_text(text, origin)
    problems += [attrs.evolve(problem, origin=origin) for problem in document.problems]
    if document.problems:
        return BrokenNode(origin)
    root, stripped = document.root, text.strip()
    if root is None and not stripped:
        return ScalarNode(None, "", origin)
    # a comment or a block collection would be read as something that was not meant
    is_whole = isinstance(root, ScalarNode) and (stripped[0] in "'\"" or root.text == stripped)
    if root is None or not (is_whole or (not isinstance(root, ScalarNode) and stripped[0] in "[{")):
        problems.append(Problem(origin, f"the value {shown(stripped)} is not a single value; put it in quotes"))
        return BrokenNode(origin)
    # a line number means nothing on the command line
    return moved(root, origin)


def _unite(first: MappingNode, second: MappingNode, path: str, problems: list[Problem]) -> MappingNode:
    entries = dict(first.entries)
    for key, entry in second.entries.items():
        below = f"{path}.{key}" if path else key
        if key not in entries:
            entries[key] = entry
            continue
        one, two = entries[key].node, entry.node
        if isinstance(one, MappingNode) and isinstance(two, MappingNode):
            entries[key] = Entry(entry.key_origin, _unite(one, two, below, problems))
        else:
            problems.append(Problem(entry.key_origin, f"is set twice, first by {one.origin}; keep one", below))
    return MappingNode(entries, second.origin)
