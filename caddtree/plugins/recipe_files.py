"""Where recipes are: those that ship with the package, files, and what a file extends."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import caddtree
from caddtree.plugins.nodes import BrokenNode, MappingNode, Node, Origin, Problem, ScalarNode, shown
from caddtree.plugins.options import nearest
from caddtree.plugins.yaml_reader import read_file

_SUFFIXES = (".yaml", ".yml")
_MAX_EXTENDS = 16


@functools.cache
def shipped_recipes() -> dict[str, Path]:
    """Return the recipes of the package by name."""
    folder = Path(caddtree.__file__).parent / "recipes"
    found = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}


def find_recipe(source: str, folder: Path | None = None) -> Path | str:
    """Return the file that ``source`` means, or what is wrong with it.

    Args:
        source: The name of a shipped recipe, or a path.
        folder: What a relative path refers to; the current directory when None.
    """
    shipped = shipped_recipes()
    if source in shipped:
        return shipped[source]
    path = Path(source) if folder is None else folder / source
    is_path = "/" in source or os.sep in source or source.lower().endswith(_SUFFIXES)
    if is_path or ("\0" not in source and os.path.lexists(path)):
        return path
    return f"there is no recipe {shown(source)}; {nearest(source, shipped)}; or give the path of a YAML file"


def read_layers(path: Path, problems: list[Problem]) -> list[MappingNode]:
    """Return a recipe file and all that it extends, the file itself last.

    Args:
        path: The recipe.
        problems: Takes everything that is wrong in any of the files.
    """
    layers: list[MappingNode] = []
    seen: list[str] = []
    next_path: Path | None = path
    while next_path is not None:
        seen.append(os.path.realpath(next_path) if "\0" not in str(next_path) else str(next_path))
        root = _read_mapping(next_path, problems)
        if root is None:
            break
        entries = dict(root.entries)
        extends = entries.pop("extends", None)
        if layers:
            # a description is about the file that it stands in
            entries.pop("description", None)
        layers.append(MappingNode(entries, root.origin))
        next_path = None if extends is None else _extended(extends.node, next_path, seen, problems)
    return layers[::-1]


def _read_mapping(path: Path, problems: list[Problem]) -> MappingNode | None:
    document = read_file(path)
    problems += document.problems
    if isinstance(document.root, MappingNode):
        return document.root
    if document.root is None and not document.problems:
        problems.append(Problem(Origin(str(path)), "is empty; a recipe names at least a target and a drafter"))
    elif document.root is not None and not isinstance(document.root, BrokenNode):
        found = "a single value" if isinstance(document.root, ScalarNode) else "a list"
        message = f"must be a mapping of sections such as target and drafter, found {found}"
        problems.append(Problem(document.root.origin, message))
    return None


def _extended(node: Node, path: Path, seen: list[str], problems: list[Problem]) -> Path | None:
    if isinstance(node, BrokenNode):
        return None
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str) or not node.value:
        found = "must be the name of a shipped recipe or a relative path"
        problems.append(Problem(node.origin, found, "extends"))
        return None
    parent = find_recipe(node.value, path.parent)
    if isinstance(parent, str):
        problems.append(Problem(node.origin, parent, "extends"))
        return None
    if "\0" in str(parent) or not os.path.lexists(parent):
        problems.append(Problem(node.origin, f"no such file {shown(str(parent))}; check the path", "extends"))
        return None
    if os.path.realpath(parent) in seen:
        chain = " -> ".join(Path(step).name for step in [*seen, os.path.realpath(parent)])
        problems.append(Problem(node.origin, f"goes in a circle: {chain}; remove one", "extends"))
        return None
    if len(seen) > _MAX_EXTENDS:
        problems.append(Problem(node.origin, f"is the {len(seen)}th in a row, more than {_MAX_EXTENDS}", "extends"))
        return None
    return parent
