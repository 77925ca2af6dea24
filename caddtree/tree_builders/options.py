"""Validators and rules that the options of several builders share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from caddtree.core.errors import InputError

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def at_least(minimum: int, *, hint: str) -> Validator:
    """Return a validator: an integer (bool is none) of at least ``minimum``; ``hint`` says how to choose it."""

    def validate(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{attribute.name} must be an integer, found {value!r}. {hint}")
        if value < minimum:
            raise InputError(f"{attribute.name} must be at least {minimum}, found {value}. {hint}")

    return validate


def one_of(*allowed: str) -> Validator:
    """Return a validator: one of these words."""

    def validate(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str):
            raise InputError(f"{attribute.name} must be a word, found {value!r}; allowed are {', '.join(allowed)}")
        if value not in allowed:
            raise InputError(f"{attribute.name} must be one of {', '.join(allowed)}, found {value!r}")

    return validate


def allowed_counts(candidates: Sequence[int], budget: int) -> list[int]:
    """Return the candidate node counts within ``budget``, ascending, or the smallest if none is."""
    within = sorted({count for count in candidates if 0 <= count <= budget})
    return within or [min(candidates)]
