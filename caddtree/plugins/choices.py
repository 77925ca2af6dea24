"""Named strategies with their options, as recipes and experiments write them, checked against the registry."""

from __future__ import annotations

from collections.abc import Callable

from caddtree.core.errors import PluginError
from caddtree.plugins.hooks import Extension, Kind
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
from caddtree.plugins.options import check_options
from caddtree.plugins.recipe_sections import StageChoice
from caddtree.plugins.registry import Registry


def read_choice(
    node: MappingNode, kind: Kind, path: str, registry: Callable[[], Registry], problems: list[Problem]
) -> StageChoice | None:
    """Return the strategy that ``{name: NAME, option: value, ...}`` means.

    Args:
        node: What was written.
        kind: What is wanted.
        path: Its key, such as ``tree_builder`` or ``observers[0]``.
        registry: Returns the strategies.
        problems: Takes everything that is wrong.

    Returns:
        None if the strategy could not be found; without the options that are wrong.
    """
    name_node = node.get("name")
    if isinstance(name_node, BrokenNode):
        return None
    if name_node is None:
        known = ", ".join(registry().names(kind)) or f"the {kind}s that are installed, which are none"
        problems.append(Problem(node.origin, f"is missing; add one of {known}", f"{path}.name"))
        return None
    name = name_node.value if isinstance(name_node, ScalarNode) else None
    if not isinstance(name, str):
        message = f"must be a string, found {shown(plain_value(name_node))}"
        problems.append(Problem(name_node.origin, message, f"{path}.name"))
        return None
    try:
        info = registry().info(kind, name)
    except PluginError as error:
        problems.append(Problem(name_node.origin, str(error), f"{path}.name"))
        return None
    options = MappingNode({key: entry for key, entry in node.entries.items() if key != "name"}, node.origin)
    return StageChoice(name, check_options(info.options, options, path, f"{kind} {name}", problems))


def read_choices(
    node: Node | None, kind: Extension, path: str, registry: Callable[[], Registry], problems: list[Problem]
) -> tuple[StageChoice, ...]:
    """Return what a list such as ``[NAME, {name: NAME, option: value}]`` means, in its order; nothing is an empty list.

    Args:
        node: What was written.
        kind: What is wanted.
        path: Its key, such as ``observers``.
        registry: Returns the strategies; not asked where the list is empty.
        problems: Takes everything that is wrong.
    """
    if node is None or isinstance(node, BrokenNode) or (isinstance(node, ScalarNode) and node.value is None):
        return ()
    if not isinstance(node, ListNode):
        found = shown(plain_value(node))
        problems.append(Problem(node.origin, f"must be a list such as [{{name: NAME}}], found {found}", path))
        return ()
    chosen = []
    for index, item in enumerate(node.items):
        entry = _mapping(item, f"{path}[{index}]", problems)
        choice = None if entry is None else read_choice(entry, kind, f"{path}[{index}]", registry, problems)
        if choice is not None:
            chosen.append(choice)
    return tuple(chosen)


def _mapping(node: Node, path: str, problems: list[Problem]) -> MappingNode | None:
    """Return one item of a list as a mapping; a name stands for itself without options."""
    if isinstance(node, ScalarNode) and isinstance(node.value, str):
        return MappingNode({"name": Entry(node.origin, node)}, node.origin)
    if isinstance(node, MappingNode):
        return node
    if not isinstance(node, BrokenNode):
        problems.append(Problem(node.origin, f"must be a name or a mapping, found {shown(plain_value(node))}", path))
    return None
