"""JSON files of data, plain or compressed by gzip: an object per line, or one list; errors name the place."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from caddtree.core.errors import InputError

_GZIP_START = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return line numbers and objects of a file that holds one JSON object per line, read as they are asked for.

    Lines end with a newline and nothing else: other separators of Unicode may stand inside a JSON string. Empty lines
    are left out; the file is UTF-8, with or without byte order mark.

    Raises:
        InputError: Naming file and line.
    """
    with _opened(path) as file:
        for number, raw in enumerate(file, 1):
            where = f"{path}:{number}"
            text = _decoded(raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw, where)
            if text.strip():
                yield number, _checked_object(_parsed(text, where), where, "a line")


def json_list(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return positions, from 1, and objects of a file that holds one JSON list of objects.

    Raises:
        InputError: Naming the file and the line, or the place in the list.
    """
    with _opened(path) as file:
        text = _decoded(file.read().removeprefix(_BYTE_ORDER_MARK), str(path))
    entries = _parsed(text, str(path))
    if not isinstance(entries, list):
        raise InputError(f"{path}: must be a JSON list of objects, found {type(entries).__name__}")
    for number, entry in enumerate(entries, 1):
        yield number, _checked_object(entry, f"{path}, entry {number}", "an entry")


def holds_a_list(path: Path) -> bool:
    """Tell whether a JSON file begins with a list, not with the object of a first line.

    Raises:
        InputError: If the file cannot be read.
    """
    with _opened(path) as file:
        return file.read(4096).removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"[")


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open for reading; what is compressed is told by its first bytes, because names lie."""
    try:
        with open(path, "rb") as file:
            if file.peek(2).startswith(_GZIP_START):
                with gzip.open(file) as unpacked:
                    yield unpacked
            else:
                yield file
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read the prompts: {error}") from error


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8 text (byte {error.start + 1}: {error.reason}). Save it as UTF-8"
        ) from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if error.lineno > 1 else ""
        raise InputError(f"{where}{line}:{error.colno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        # a number of thousands of digits, or brackets nested as deep
        raise InputError(f"{where}: JSON that cannot be read: {error}") from error


def _checked_object(entry: Any, where: str, what: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: {what} must be a JSON object, found {type(entry).__name__}")
    return entry
