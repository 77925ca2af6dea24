"""How kernels are launched, as values: what follows from sizes, for a launch and for whoever compiles ahead of time."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Launch:
    """One launch; it follows from sizes alone."""

    grid: tuple[int, ...]
    constexprs: dict[str, Any]
    num_warps: int


@attrs.frozen
class SplitAndMerge:
    """Two launches over rows of a vocabulary."""

    split: Launch  # grid: rows, splits of the vocabulary
    merge: Launch  # grid: rows
