"""Prompts, and files of them: one JSON object per line, with errors that name file and line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from caddtree.core.errors import InputError
from caddtree.experiments.json_files import json_lines


@attrs.frozen
class PromptRecord:
    """One prompt: plain text, or the user's turns of a chat."""

    id: str
    domain: str
    prompt: Any
    """What :meth:`Decoder.generate` takes: text, token ids or messages."""
    later_turns: tuple[str, ...] = ()
    """What the user says next, turn by turn, each after the answer to the one before."""


def read_prompts(path: Path, *, limit: int | None = None) -> list[PromptRecord]:
    """Return the prompts of a JSONL file, the first ``limit`` of them.

    Every line holds ``prompt`` (text), ``turns`` (texts of the user; the first is the prompt) or ``messages`` (role
    and content), and may hold ``id`` and ``domain``. A line without an id goes by its number. The file is UTF-8 and
    may be compressed by gzip.

    Raises:
        InputError: If the file cannot be read, a line is wrong or an id stands twice; names file and line.
    """
    records = list(iter_prompts(path))
    if not records:
        raise InputError(f"{path}: no prompts; give one JSON object per line")
    return records[:limit]


def iter_prompts(path: Path) -> Iterator[PromptRecord]:
    """Return what :func:`read_prompts` does, each line read and checked when its prompt is asked for."""
    lines = ((f"{path}:{number}", number, entry) for number, entry in json_lines(path))
    return refuse_repeated_ids((where, _record(entry, where, number)) for where, number, entry in lines)


def refuse_repeated_ids(placed: Iterable[tuple[str, PromptRecord]]) -> Iterator[PromptRecord]:
    """Return the prompts of (place, prompt) pairs: results are kept by id, so that no two may share one.

    Raises:
        InputError: Naming both places.
    """
    places: dict[str, str] = {}
    for where, record in placed:
        if record.id in places:
            first = places[record.id]
            raise InputError(f"{where}: the id {record.id!r} is taken by {first}. Give every prompt an id of its own")
        places[record.id] = where
        yield record


def _record(entry: dict[str, Any], where: str, number: int) -> PromptRecord:
    prompt, later_turns = _prompt(entry, where)
    return PromptRecord(_id(entry, where, number), str(entry.get("domain", "")), prompt, later_turns)


def _id(entry: dict[str, Any], where: str, number: int) -> str:
    value = entry.get("id")
    if value is None:
        return str(number)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise InputError(
            f"{where}: id must be a text or a number, found {value!r}. Leave it out to use the line number"
        )
    return str(value)


def _prompt(entry: dict[str, Any], where: str) -> tuple[Any, tuple[str, ...]]:
    if isinstance(entry.get("prompt"), str) and entry["prompt"]:
        return entry["prompt"], ()
    turns = entry.get("turns")
    if isinstance(turns, list) and turns and all(isinstance(turn, str) and turn for turn in turns):
        return [{"role": "user", "content": turns[0]}], tuple(turns[1:])
    messages = entry.get("messages")
    if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
        return messages, ()
    raise InputError(f"{where}: needs 'prompt' (text), 'turns' (list of texts) or 'messages', found {sorted(entry)}")
