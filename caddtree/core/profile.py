"""Measured seconds of rounds on one machine: the data behind the measured cost models, kept as JSON."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from caddtree.core.errors import CostModelError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_MOVES_ALLOWED = 3.0


def _floats(value: Any) -> NDArray[np.float64]:
    return np.array(value, dtype=np.float64)


@attrs.frozen(eq=False)
class Profile:
    """Medians of whole rounds at a grid of contexts and draft-node counts.

    Raises:
        CostModelError: For a shape that does not fit, an empty or unordered grid, and numbers that are no seconds.
    """

    key: Mapping[str, str]
    """Everything that changes the figures: models, strategies, device, dtype, threads, versions."""
    contexts: tuple[int, ...]
    counts: tuple[int, ...]
    """Draft nodes, 0 first."""
    draft_seconds: NDArray[np.float64] = attrs.field(converter=_floats)  # (contexts,)
    after_seconds: NDArray[np.float64] = attrs.field(converter=_floats)  # (contexts, counts)
    spread_seconds: NDArray[np.float64] = attrs.field(converter=_floats)  # (contexts, counts), half the middle 50 %
    max_count: int
    """Largest count that was asked for; ``counts`` ends earlier where no draft has so many nodes."""
    repeats: int = 0
    """Rounds per cell at most."""
    outlier_share: float = 0.0
    switch_seconds: float = 0.0
    """What a round costs more when its forward is padded to other rows than the one before."""

    def __attrs_post_init__(self) -> None:
        for name, grid in (("contexts", self.contexts), ("counts", self.counts)):
            if not grid or list(grid) != sorted(set(grid)) or grid[0] < 0:
                raise CostModelError(f"profile: {name} must ascend from 0 or more, found {list(grid)}")
        # one size alone says nothing about others; it is whole only where nothing is ever drafted
        if self.counts[0] != 0 or (len(self.counts) == 1 and self.max_count > 0):
            raise CostModelError(f"profile: counts must be 0 and at least one more, found {list(self.counts)}")
        shape = (len(self.contexts), len(self.counts))
        for name, expected in (("draft_seconds", shape[:1]), ("after_seconds", shape), ("spread_seconds", shape)):
            values = getattr(self, name)
            if values.shape != expected:
                raise CostModelError(f"profile: {name} must have shape {expected}, found {values.shape}")
            bad = ~np.isfinite(values) | (values < 0)
            if bad.any():
                raise CostModelError(f"profile: {name} must be seconds of 0 or more, found {values[bad][0]}")
        if not 0 <= self.switch_seconds < np.inf:
            raise CostModelError(f"profile: switch_seconds must be seconds of 0 or more, found {self.switch_seconds}")
        if not (self.after_seconds > 0).all():
            raise CostModelError("profile: after_seconds holds a zero; no round takes no time")

    def repaired(self) -> Profile:
        """Return the profile with after_seconds non-decreasing in the count (isotonic least squares per context).

        More draft nodes cannot make a round cheaper; dips are noise of the medians. A repair that moves a median by
        more than three times its own spread is reported.
        """
        # half a second, which nobody should pay who only checks a recipe
        from scipy.optimize import isotonic_regression

        repaired = np.stack([isotonic_regression(row).x for row in self.after_seconds])
        moved = np.abs(repaired - self.after_seconds) > _MOVES_ALLOWED * np.maximum(self.spread_seconds, 1e-9)
        moved &= np.abs(repaired - self.after_seconds) > 0.02 * self.after_seconds
        if moved.any():
            context, count = (int(index) for index in np.argwhere(moved)[0])
            logger.warning(
                "profile: %d of %d medians dip by more than three times their spread, first at %d draft nodes and "
                "context %d; the machine was busy, or its costs really fall there. Measure again: caddtree profile",
                int(moved.sum()),
                moved.size,
                self.counts[count],
                self.contexts[context],
            )
        return attrs.evolve(self, after_seconds=repaired)

    def to_json(self) -> str:
        """Return the profile as JSON text."""
        return json.dumps(self.to_values(), indent=1)

    def to_values(self) -> dict[str, Any]:
        """Return the profile as JSON-ready values."""
        return {
            "format": FORMAT_VERSION,
            "key": dict(self.key),
            "contexts": list(self.contexts),
            "counts": list(self.counts),
            "draft_seconds": self.draft_seconds.tolist(),
            "after_seconds": self.after_seconds.tolist(),
            "spread_seconds": self.spread_seconds.tolist(),
            "max_count": self.max_count,
            "repeats": self.repeats,
            "outlier_share": self.outlier_share,
            "switch_seconds": self.switch_seconds,
        }

    def write(self, path: Path) -> None:
        """Write the profile; the file is there whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.write_text(self.to_json() + "\n", encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def read_profile(path: Path) -> Profile:
    """Return the profile in a JSON file.

    Raises:
        CostModelError: If it is no such file, or its numbers are no seconds; names the file.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CostModelError(f"{path}: only JSON profiles are read, and this is none: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT_VERSION:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise CostModelError(f"{path}: must be a profile of format {FORMAT_VERSION}, found {found!r}")
    try:
        return Profile(
            key={str(name): str(value) for name, value in raw["key"].items()},
            contexts=tuple(int(value) for value in raw["contexts"]),
            counts=tuple(int(value) for value in raw["counts"]),
            draft_seconds=raw["draft_seconds"],
            after_seconds=raw["after_seconds"],
            spread_seconds=raw["spread_seconds"],
            max_count=int(raw["max_count"]),
            repeats=int(raw["repeats"]),
            outlier_share=float(raw["outlier_share"]),
            switch_seconds=float(raw.get("switch_seconds", 0.0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        detail = f"{type(error).__name__}: {error}" if not isinstance(error, CostModelError) else str(error)
        raise CostModelError(f"{path}: {detail}") from error


class RoundSeconds:
    """Curves over the count, one per context, looked up and interpolated in microseconds.

    Between counts and contexts linear. Beyond the last count the last slope goes on. Outside the measured contexts
    the nearest context's increments hold, and only the level moves with the slope of the two nearest contexts,
    clipped at 0.
    """

    def __init__(
        self, contexts: tuple[int, ...], draft: NDArray[np.float64], counts: tuple[int, ...], after: NDArray[np.float64]
    ) -> None:
        self._contexts = np.array(contexts, dtype=np.float64)
        self._draft = draft
        self._slope = np.zeros(len(contexts))
        if len(counts) > 1:  # a drafter that never drafts has the count 0 alone
            self._slope = (after[:, -1] - after[:, -2]) / (counts[-1] - counts[-2])
        every = np.arange(counts[-1] + 1)
        self._after = np.stack([np.interp(every, counts, row) for row in after])
        self._told = False
        # asked several times in a round, always at one context
        self._known: tuple[int, float, NDArray[np.float64], float] | None = None

    def draft_seconds(self, context_length: int) -> float:
        """Return the seconds before the choice."""
        return self._at(context_length)[1]

    def after_seconds(self, counts: NDArray[np.int64], context_length: int) -> NDArray[np.float64]:
        """Return the seconds after the choice for every count."""
        _, _, curve, slope = self._at(context_length)
        last = len(curve) - 1
        if len(counts) == 0 or int(counts.max()) <= last:
            return np.asarray(curve[counts])
        beyond = np.maximum(counts - last, 0) * slope
        return np.asarray(curve[np.minimum(counts, last)] + beyond)

    def _at(self, context_length: int) -> tuple[int, float, NDArray[np.float64], float]:
        """Return the context, the seconds of drafting, the curve over counts, and its slope beyond the last."""
        if self._known is None or self._known[0] != context_length:
            self._known = self._interpolated(context_length)
        return self._known

    def _interpolated(self, context_length: int) -> tuple[int, float, NDArray[np.float64], float]:
        low, high, share = self._between(context_length)
        draft = max(0.0, float(self._draft[low] + share * (self._draft[high] - self._draft[low])))
        near = high if share > 1.0 else low
        if 0.0 <= share <= 1.0:
            curve = self._after[low] + share * (self._after[high] - self._after[low])
        else:
            level = self._after[low, 0] + share * (self._after[high, 0] - self._after[low, 0])
            curve = max(level, 0.0) + (self._after[near] - self._after[near, 0])
            curve = np.maximum(curve, 1e-9)
        return context_length, draft, curve, max(0.0, float(self._slope[near]))

    def _between(self, context_length: int) -> tuple[int, int, float]:
        contexts = self._contexts
        if len(contexts) == 1:
            return 0, 0, 0.0
        high = min(max(int(np.searchsorted(contexts, context_length)), 1), len(contexts) - 1)
        share = float((context_length - contexts[high - 1]) / (contexts[high] - contexts[high - 1]))
        if not self._told and share > 1.0:
            self._told = True
            logger.info(
                "context %d is beyond the %d that was profiled: only the level of the costs is extrapolated",
                context_length,
                int(contexts[-1]),
            )
        return high - 1, high, share
