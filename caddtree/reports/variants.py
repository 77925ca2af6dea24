"""What kind of variant a recipe makes, so that pictures can set fixed budgets beside adaptive ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from caddtree.experiments.summary import Summary

Kind = Literal["plain", "fixed", "chain", "adaptive"]


@attrs.frozen
class DrawnVariant:
    """A variant as pictures show it."""

    name: str
    kind: Kind
    node_budget: int | None
    """Of a fixed budget; None of the others."""
    family: str
    """Variants of one family differ in the node budget alone; those of fixed budgets become one line."""


def drawn_variants(summary: Summary) -> tuple[DrawnVariant, ...]:
    """Return the variants of a run in the order of its tables.

    A tree builder with a ``node_budget`` has a fixed one; ``chain`` is a chain; any other builder chooses by itself.
    """
    found = []
    for name, sections in summary.recipes.items():
        builder = sections.get("tree_builder") or {}
        budget = builder.get("node_budget")
        if name == summary.plain:
            kind: Kind = "plain"
        elif builder.get("name") == "chain":
            kind = "chain"
        else:
            kind = "adaptive" if budget is None else "fixed"
        found.append(DrawnVariant(name, kind, budget if kind == "fixed" else None, _family(sections)))
    return tuple(found)


def families(variants: tuple[DrawnVariant, ...]) -> dict[str, list[DrawnVariant]]:
    """Return the fixed budgets of every family by the family's name, budgets ascending."""
    groups: dict[str, list[DrawnVariant]] = {}
    for variant in variants:
        if variant.kind == "fixed":
            groups.setdefault(variant.family, []).append(variant)
    return {
        _common_name(members): sorted(members, key=lambda member: member.node_budget or 0)
        for members in groups.values()
    }


def _family(sections: Mapping[str, Any]) -> str:
    """Return all of a pipeline but its node budget."""
    builder = {name: value for name, value in (sections.get("tree_builder") or {}).items() if name != "node_budget"}
    rest = {name: value for name, value in sections.items() if name not in ("description", "generation")}
    return json.dumps({**rest, "tree_builder": builder}, sort_keys=True, default=str)


def _common_name(members: list[DrawnVariant]) -> str:
    """Return what the names of a family share, such as ``ddtree`` of ``ddtree-16`` and ``ddtree-64``."""
    first, last = min(member.name for member in members), max(member.name for member in members)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length].rstrip("0123456789").rstrip("-_ =.,:") or members[0].name
