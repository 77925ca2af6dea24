"""Seconds per stage of a round, and the accepted path that stands in for a trained pair's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import attrs
import numpy as np
from torch import Tensor

from .device import Timing

STAGES = ("draft", "candidates", "tree", "forward", "walk", "commit")
"""Drafter's pass with its context update; log-softmax and top-k; ranking and numbering; the target over the tree; its
choices and the walk; moving of rows, features, and the bookkeeping of the round."""


@attrs.define
class StageClock:
    """Waits for the device at every mark and notes the seconds since the last one; does nothing while it is off.

    A wait between stages takes away the overlap of host and device: stages add up to more than a round.
    """

    synchronize: Callable[[], None]
    is_on: bool = False
    _samples: dict[str, list[float]] = attrs.field(factory=lambda: {stage: [] for stage in STAGES}, init=False)
    _last: float = attrs.field(default=0.0, init=False)

    def start(self) -> None:
        """Begin a round."""
        if self.is_on:
            self.synchronize()
            self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """End a stage."""
        if self.is_on:
            self.synchronize()
            now = time.perf_counter()
            self._samples[stage].append(now - self._last)
            self._last = now

    def timings(self) -> dict[str, Timing]:
        """Return what was noted since the last call, stages without a mark left out."""
        found = {stage: Timing.of(samples) for stage, samples in self._samples.items() if samples}
        for samples in self._samples.values():
            samples.clear()
        return found


def measure_rounds(run_round: Callable[[], None], *, warm_ups: int, repeats: int) -> Timing:
    """Return the seconds from the end of one round to the end of the next, as a text that is decoded meets them.

    A round ends when the host knows its tokens; what the device still does then is done under the next one.
    """
    for _ in range(warm_ups):
        run_round()
    stamps = [time.perf_counter()]
    for _ in range(repeats):
        run_round()
        stamps.append(time.perf_counter())
    return Timing.of(np.diff(stamps).tolist())


def measure_stages(
    run_round: Callable[[], None], clock: StageClock, *, warm_ups: int, repeats: int
) -> dict[str, Timing]:
    """Return the seconds of every stage of rounds that mark them on ``clock``."""
    clock.is_on = True
    try:
        for _ in range(warm_ups):
            run_round()
        clock.timings()
        for _ in range(repeats):
            run_round()
        return clock.timings()
    finally:
        clock.is_on = False


def accepted_path(parents: Sequence[int] | Tensor) -> tuple[int, ...]:
    """Return a path that a trained pair might accept: to the heaviest node off the arg-max chain.

    Its rows do not lie in place, so a commit has to move some. A tree that is a chain gives its first few nodes.

    Args:
        parents: ``(nodes,)``, the chain first, -1 for the root.
    """
    above = np.asarray(parents)
    is_off_chain = above[1:] != np.arange(len(above) - 1)
    if not is_off_chain.any():
        return tuple(range(min(len(above), 6)))
    node, path = 1 + int(is_off_chain.argmax()), []
    while node >= 0:
        path.append(node)
        node = int(above[node])
    return tuple(reversed(path))
