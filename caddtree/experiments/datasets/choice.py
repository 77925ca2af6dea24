"""Which prompts an experiment asks, as a value: what a recipe-like file or a command line says of a data set."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import attrs

from caddtree.core.errors import InputError
from caddtree.experiments.datasets.catalogue import known_datasets
from caddtree.plugins.options import nearest

_FILE_SUFFIX = re.compile(r"\.jsonl(\.gz)?$", re.IGNORECASE)
_SHOWN_CHARACTERS = 80


def _name(choice: Any, _attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise InputError(f"name must be a text, found {value!r}")
    shown = repr(value[:_SHOWN_CHARACTERS])
    if not value.strip() or value != value.strip() or not value.isprintable() or re.search(r"[/\\]", value):
        hint = "A file goes into path, and name is its label"
        raise InputError(f"name must be a word or a few, without slashes or line breaks, found {shown}. {hint}")
    known = [info.name for info in known_datasets()]
    if choice.path is None and value not in known:
        raise InputError(
            f"name must be a known data set, or the label of a file given as path, found {shown}; "
            f"{nearest(value.lower(), known)}"
        )


def _path(_choice: object, _attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise InputError(f"path must be a text, found {value!r}")
    if not value or "\0" in value:
        raise InputError(f"path must name a file or folder, found {value!r}. Leave it out to use a known data set")


def _count(minimum: int, hint: str) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """Return a validator: an integer (bool is none) of at least ``minimum``, or the None that is the default."""

    def validate(_choice: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is None and attribute.default is None:
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{attribute.name} must be an integer, found {value!r}. {hint}")
        if value < minimum:
            raise InputError(f"{attribute.name} must be at least {minimum}, found {value}. {hint}")

    return validate


@attrs.frozen
class DatasetChoice:
    """A data set, or a prompt file of one's own, and which of its prompts are asked.

    The order is that of the files. A ``shuffle_seed`` permutes all prompts first; ``offset`` and ``limit`` then cut.
    """

    name: str = attrs.field(validator=_name)
    """A known data set; with ``path`` also any label, under which the results of that file are kept."""
    path: str | None = attrs.field(default=None, validator=_path, metadata={"path": True})
    """A local copy of a data set, file or folder in its original layout; for another label a JSONL prompt file."""
    limit: int | None = attrs.field(default=None, validator=_count(1, "Leave it out to ask every prompt"))
    """Prompts at most."""
    offset: int = attrs.field(default=0, validator=_count(0, "Set how many prompts are left out in front"))
    """Prompts left out in front."""
    turns: int | None = attrs.field(default=None, validator=_count(1, "Leave it out to keep every turn"))
    """User turns of a chat at most; 1 asks the first alone."""
    shuffle_seed: int | None = attrs.field(default=None, validator=_count(0, "Leave it out to keep the order"))
    """Seed of the permutation; every prompt is read for it, however small ``limit`` is."""

    @classmethod
    def parse(cls, text: str) -> DatasetChoice:
        """Return what a bare string means: a known name, or the path of a JSONL file, labelled by its stem.

        Raises:
            InputError: For anything else, listing the known names.
        """
        if not isinstance(text, str):
            raise InputError(f"a data set is a name or the path of a JSONL file, found {text!r}")
        file = PurePath(text).name
        label = _FILE_SUFFIX.sub("", file)
        if label != file or "/" in text:
            return cls(name=label, path=text)
        return cls(name=text)
