"""What travels between an engine and its worker besides blocks."""

from __future__ import annotations

import attrs

from caddtree.experiments.records import Cell, Record


@attrs.frozen
class Began:
    """A cell is being run now: should its worker die, it is the one to blame."""

    cell: Cell


Message = Began | Record
"""What a worker says about a block."""


@attrs.frozen
class Loading:
    """A variant is being loaded now: should its worker die, it is the one to blame."""

    variant: str


@attrs.frozen
class Finished:
    """The worker is loaded, or done with its block."""


@attrs.frozen
class Refused:
    """The worker cannot load the target: no other worker could."""

    error: Exception


@attrs.frozen
class Unusable:
    """The worker died or hangs."""

    reason: str
