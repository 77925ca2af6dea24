"""Imported by Python at start where this folder is on the path: every look at the clock takes 1/1024 second.

Times then depend on what is run alone, so that two runs can be compared figure by figure. A power of two, so that
differences are exact whatever was counted before.
"""

import itertools
import time

_ticks = itertools.count()


def _perf_counter() -> float:
    return next(_ticks) / 1024


time.perf_counter = _perf_counter
