"""The hot call of a strategy against a built-in's on the same machine at the same moment."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from caddtree.testing.claims import must_work, require

FLOOR_SECONDS = 1e-3
"""Always allowed: below a millisecond a round does not feel it."""
_REPEATS = 15
_FEWEST = 4
"""Turns at least: a yardstick that was interrupted when it was used once would allow anything."""


def check_speed(
    what: str,
    work: Callable[[], object],
    yardstick: Callable[[], object],
    name: str,
    slowest: float,
    when: str = "in every round",
) -> None:
    """Refuse a call that takes more than ``slowest`` times the yardstick's seconds plus :data:`FLOOR_SECONDS`.

    Both take turns and the fastest of each counts, so that a busy machine slows both or neither; after a few turns one
    within the limit is enough.

    Args:
        what: The call, as in ``build over 15 positions``.
        work: The call of the strategy under test.
        yardstick: The call that it is compared with.
        name: What the yardstick is, as in ``tree_builder ddtree``.
        slowest: Times the yardstick.
        when: How often the call is made.
    """
    best, limit = float("inf"), float("inf")
    with must_work(what), torch.inference_mode():
        work()  # what is made once is no part of a round
        yardstick()
        for turn in range(1, _REPEATS + 1):
            limit = min(limit, *(slowest * _seconds(yardstick) + FLOOR_SECONDS for _ in range(3)))
            best = min(best, _seconds(work))
            if turn >= _FEWEST and best <= limit:
                return
    require(
        False,
        f"{what} is too slow: {best * 1e3:.2f} ms in the best of {_REPEATS} calls, where {limit * 1e3:.2f} ms are "
        f"allowed, {slowest:g} times what {name} takes here. It runs {when}: make it faster, or raise "
        f"`slowest_allowed` if it is worth it.",
    )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
