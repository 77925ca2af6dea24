"""What the harness asks for, in caddtree's words: arguments of the model and of one generation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from caddtree.core.errors import InputError
from caddtree.core.options import GenerationOptions
from caddtree.plugins.options import nearest

DEFAULT_MAX_GEN_TOKS = 256
"""Tokens at most where a task names no number: that of the harness's own ``hf`` model."""

HARNESS_DEVICE = "cuda:0"
"""What the command line passes as ``--device`` when the user says nothing."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = ("until", *_LENGTHS, "do_sample", "temperature", "top_p", "top_k", "seed", "num_beams")


def generation_options(kwargs: Mapping[str, Any], *, end: str | None, seed: int) -> GenerationOptions:
    """Return the options of one request; greedy unless the task asks for sampling.

    Args:
        kwargs: The task's ``generation_kwargs``, with those of ``--gen_kwargs`` on top.
        end: How the tokenizer writes its end of text: a stop string of every request, as it is in the harness.
        seed: That of the run, for a task that names none.

    Raises:
        InputError: Naming the argument that is unknown, or whose value cannot be honoured.
    """
    for name in kwargs:
        if name not in _KNOWN:
            raise InputError(f"generation_kwargs: {name!r} is not supported; {nearest(name, _KNOWN)}")
    if kwargs.get("num_beams", 1) != 1:
        raise InputError(f"generation_kwargs: num_beams={kwargs['num_beams']!r} is no plain decoding; leave it at 1")
    own_seed = kwargs.get("seed")
    return GenerationOptions(
        temperature=_temperature(kwargs),
        top_k=kwargs.get("top_k"),
        top_p=kwargs.get("top_p"),
        max_new_tokens=_max_new_tokens(kwargs),
        seed=seed if own_seed is None else own_seed,
        stop=_stop_strings(kwargs.get("until"), end),
    )


def unused_options(kwargs: Mapping[str, Any]) -> list[str]:
    """Return the options of sampling that a greedy request gives, as many tasks do."""
    is_greedy = not _temperature(kwargs)
    return [name for name in ("temperature", "top_k", "top_p", "seed") if is_greedy and kwargs.get(name)]


def _temperature(kwargs: Mapping[str, Any]) -> Any:
    does_sample, temperature = kwargs.get("do_sample"), kwargs.get("temperature")
    if not isinstance(does_sample, bool | None):
        raise InputError(f"generation_kwargs: do_sample must be true or false, found {does_sample!r}")
    if does_sample and not temperature:
        raise InputError(f"generation_kwargs: do_sample=True needs a temperature above 0, found {temperature!r}")
    return 0.0 if does_sample is False or temperature is None else temperature


def _max_new_tokens(kwargs: Mapping[str, Any]) -> Any:
    given = {name: kwargs[name] for name in _LENGTHS if kwargs.get(name) is not None}
    if len(set(given.values())) > 1:
        found = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise InputError(f"generation_kwargs: {found} mean the same; give {next(iter(given))} alone")
    return next(iter(given.values()), DEFAULT_MAX_GEN_TOKS)


def _stop_strings(until: Any, end: str | None) -> tuple[str, ...]:
    given = until if isinstance(until, list | tuple) else [] if until is None else [until]
    for entry in given:
        if not isinstance(entry, str) or not entry:
            raise InputError(f"generation_kwargs: until must hold strings that are not empty, found {entry!r}")
    return tuple(dict.fromkeys([*given, *([end] if end else [])]))


def recipe_changes(arguments: Mapping[str, Any], device: str | None) -> tuple[list[str], dict[str, Any]]:
    """Return ``a.b=value`` texts and sections that change a recipe as ``--model_args`` and ``--device`` say.

    Args:
        arguments: Keys with dots and their values, as the harness parsed them, or whole sections as mappings.
        device: That of ``--device``.

    Raises:
        InputError: If both name a device and differ, or if generation is to change, which belongs to the task.
    """
    for key in arguments:
        if key.partition(".")[0] == "generation":
            raise InputError(f"model_args: {key}: the task decides how to generate; use --gen_kwargs instead")
    sections = {key: value for key, value in arguments.items() if isinstance(value, Mapping)}
    sets = [f"{key}={_as_text(value)}" for key, value in arguments.items() if key not in sections]
    if device in (None, HARNESS_DEVICE):
        return sets, sections
    own = arguments.get("target.device", sections.get("target", {}).get("device"))
    if own is None:
        return [*sets, f"target.device={device}"], sections
    if own != device:
        raise InputError(f"--device is {device}, but model_args say target.device={own}; keep one of the two")
    return sets, sections


def _as_text(value: Any) -> str:
    """Return a value as ``--set`` reads it: what the harness could not parse stays as it was written."""
    return value if isinstance(value, str) else json.dumps(value)


def check_batch_size(batch_size: Any) -> None:
    """Refuse batches: sequences are decoded one at a time.

    Raises:
        InputError: For anything but 1 and ``auto``, which then means 1.
    """
    if str(batch_size) != "1" and str(batch_size).partition(":")[0] != "auto":
        raise InputError(f"batch_size is {batch_size!r}, but sequences are decoded one at a time; use 1 or auto")
