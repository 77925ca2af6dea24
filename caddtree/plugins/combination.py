"""Which strategies cannot work together: found when a recipe is loaded, from what their classes declare.

A strategy class may declare what it needs of the other stages, by kind, in words that both sides know::

    requires = {"verifier": ("branches",)}

and what it cannot give, which nobody has to declare who gives everything::

    lacks = ("branches",)

A word that one part requires of a kind and the chosen part of that kind lacks refuses the recipe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from caddtree.plugins.hooks import STAGES, Stage


@attrs.frozen
class Conflict:
    """Two chosen parts that cannot work together."""

    kind: Stage
    """The stage that needs something."""
    other: Stage
    """The stage that lacks it."""
    word: str


def check_declarations(strategy_class: type) -> None:
    """Refuse malformed declarations.

    Raises:
        TypeError: If ``requires`` is no mapping from kinds to words, or ``lacks`` holds anything but words.
    """
    requires = getattr(strategy_class, "requires", {})
    if not isinstance(requires, Mapping) or not set(requires) <= set(STAGES):
        raise TypeError(f"requires must map kinds ({', '.join(STAGES)}) to words, found {requires!r}")
    for words in (*requires.values(), getattr(strategy_class, "lacks", ())):
        if not isinstance(words, list | tuple | set | frozenset) or not all(isinstance(word, str) for word in words):
            raise TypeError(f"requires and lacks hold collections of words, found {words!r}")


def check_combination(chosen: Mapping[Stage, type]) -> list[Conflict]:
    """Return every pair of chosen strategy classes that cannot work together."""
    return [
        Conflict(kind, other, word)
        for kind in STAGES
        if kind in chosen
        for other, words in _requires(chosen[kind]).items()
        if other in chosen
        for word in sorted(words)
        if word in _lacks(chosen[other])
    ]


def works_with(kind: Stage, candidate: type, conflict: Conflict) -> bool:
    """Tell whether choosing ``candidate`` for its kind would end the conflict."""
    if kind == conflict.kind:
        return conflict.word not in _requires(candidate).get(conflict.other, ())
    return conflict.word not in _lacks(candidate)


def _requires(strategy_class: Any) -> Mapping[Stage, Collection[str]]:
    found: Mapping[Stage, Collection[str]] = getattr(strategy_class, "requires", {})
    return found


def _lacks(strategy_class: Any) -> Collection[str]:
    found: Collection[str] = getattr(strategy_class, "lacks", ())
    return found
