"""Prompt files: one JSON object per line, with errors that name file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from caddtree.core.errors import InputError


@attrs.frozen
class PromptRecord:
    """One prompt: plain text, or the user's turns of a chat."""

    id: str
    domain: str
    prompt: Any
    """What :meth:`Decoder.generate` takes: text, token ids or messages."""


def read_prompts(path: Path, *, limit: int | None = None) -> list[PromptRecord]:
    """Return the prompts of a JSONL file.

    Every line holds ``prompt`` (text), ``turns`` (texts of the user; the first is asked) or ``messages`` (role and
    content), and may hold ``id`` and ``domain``.

    Raises:
        InputError: If the file cannot be read or a line is wrong; names file and line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the prompts: {error}") from error
    records = [
        _record(line, f"{path}:{number}", number) for number, line in enumerate(text.splitlines(), 1) if line.strip()
    ]
    if not records:
        raise InputError(f"{path}: no prompts; give one JSON object per line")
    return records[:limit]


def _record(line: str, where: str, number: int) -> PromptRecord:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}:{error.colno}: not JSON: {error.msg}") from error
    if not isinstance(entry, dict):
        raise InputError(f"{where}: a line must be a JSON object, found {type(entry).__name__}")
    return PromptRecord(str(entry.get("id", number)), str(entry.get("domain", "")), _prompt(entry, where))


def _prompt(entry: dict[str, Any], where: str) -> Any:
    if isinstance(entry.get("prompt"), str) and entry["prompt"]:
        return entry["prompt"]
    turns = entry.get("turns")
    if isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns):
        return [{"role": "user", "content": turns[0]}]
    messages = entry.get("messages")
    if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
        return messages
    raise InputError(f"{where}: needs 'prompt' (text), 'turns' (list of texts) or 'messages', found {sorted(entry)}")
