"""What travels between an engine and its worker besides blocks and records."""

from __future__ import annotations

import attrs


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
