"""What a request may ask for: sampling, length, stops, seed."""

from __future__ import annotations

import math
from typing import Any, Literal

import attrs

from caddtree.core.errors import InputError

SMALLEST_TEMPERATURE = 1e-37
"""Scores are float32: a smaller temperature would be rounded to 0. The text is greedy from far above on."""


def _number(minimum: float, maximum: float, *, above: bool = False) -> Any:
    """Return a validator: a real number (bool is none) in ``[minimum, maximum]``, or above ``minimum``."""

    def validate(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is None and attribute.default is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{attribute.name} must be a number, found {value!r}")
        low = value > minimum if above else value >= minimum
        if not (math.isfinite(value) and low and value <= maximum):
            bound = "above" if above else "at least"
            top = "" if maximum == math.inf else f" and at most {maximum:g}"
            raise InputError(f"{attribute.name} must be {bound} {minimum:g}{top}, found {value!r}")

    return validate


def _integer(minimum: int, maximum: int | None = None, hint: str = "") -> Any:
    """Return a validator: an integer (bool is none) in ``[minimum, maximum]``."""

    def validate(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is None and attribute.default is None:
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{attribute.name} must be an integer, found {value!r}")
        if value < minimum or (maximum is not None and value > maximum):
            top = "" if maximum is None else f" and at most {maximum}"
            raise InputError(f"{attribute.name} must be at least {minimum}{top}, found {value}{hint}")

    return validate


def _strings(_instance: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for entry in value:
        if not isinstance(entry, str) or not entry:
            raise InputError(f"every entry of {attribute.name} must be a string that is not empty, found {entry!r}")


def _stop_tuple(value: object) -> tuple[Any, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list | tuple) else (value,)


@attrs.frozen
class GenerationOptions:
    """Options of one request; a recipe's ``generation`` section gives the defaults.

    Temperature 0 is greedy decoding, whatever ``top_k``, ``top_p`` and ``seed`` say.
    """

    temperature: float = attrs.field(default=0.0, validator=_number(0.0, math.inf))
    """0 is greedy; above it, scores are divided by it and tokens are sampled."""
    top_k: int | None = attrs.field(default=None, validator=_integer(1, hint="; leave it out to keep every token"))
    """Sample from the k likeliest tokens only; from all when None."""
    top_p: float | None = attrs.field(default=None, validator=_number(0.0, 1.0, above=True))
    """Sample from the smallest set of tokens with this much probability together; from all when None."""
    max_new_tokens: int | None = attrs.field(default=None, validator=_integer(1))
    """Tokens to generate at most; as many as the context has room for when None."""
    seed: int = attrs.field(default=0, validator=_integer(0, 2**64 - 1))
    """Of sampling: the same seed gives the same text, whatever the draft tree."""
    stop: tuple[str, ...] = attrs.field(default=(), converter=_stop_tuple, validator=_strings)
    """The text ends before the first of these strings."""
    ignore_eos: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    """Go on behind end-of-text tokens, as benchmarks of a fixed length do."""


def _bucket_tuple(value: Any) -> tuple[int, ...] | None:
    return tuple(value) if isinstance(value, list | tuple) else value


def _buckets(_instance: object, _attribute: attrs.Attribute[Any], value: tuple[int, ...] | None) -> None:
    if value is None:
        return
    whole = isinstance(value, tuple) and all(type(rows) is int for rows in value)
    if not whole or not value or list(value) != sorted(set(value)) or value[0] < 1:
        found = list(value) if isinstance(value, tuple) else value
        raise InputError(f"buckets must be ascending row counts of at least 1, such as [1, 16, 32], found {found!r}")


def _word(*allowed: str) -> Any:
    def validate(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in allowed:
            raise InputError(f"{attribute.name} must be one of {', '.join(allowed)}, found {value!r}")

    return validate


@attrs.frozen
class RuntimeOptions:
    """How the models are executed; a recipe's ``runtime`` section. Tokens never depend on it."""

    graphs: Literal["auto", "never"] = attrs.field(default="auto", validator=_word("auto", "never"))
    """Whether forwards over draft trees are captured as CUDA graphs; ``auto`` means on a CUDA device."""
    compile: Literal["auto", "always", "never"] = attrs.field(
        default="auto", validator=_word("auto", "always", "never")
    )
    """Whether the layers go through torch.compile; ``auto`` means on a CUDA device."""
    buckets: tuple[int, ...] | None = attrs.field(default=None, converter=_bucket_tuple, validator=_buckets)
    """Rows that forwards over draft trees are padded to, ascending; a bucket of r rows holds r - 1 draft nodes. The
    default where graphs or compiled layers run is 1, 2, 4, ... 64, 96, 128, ... 1024; elsewhere nothing is padded."""
