"""Whether what a verifier samples has the target's own law: many walks over one tree, counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from caddtree.testing.claims import require

_SMALLEST_P = 1e-4
_SMALLEST_EXPECTED = 5.0
"""Below it an outcome is counted together with others: chi-squared needs that many."""


def check_law(draw: Callable[[int], Sequence[int]], law: NDArray[np.float64], num_draws: int, where: str) -> None:
    """Refuse draws that are not distributed as ``law``, by chi-squared.

    Args:
        draw: Draw number -> the first two tokens.
        law: ``(vocabulary, vocabulary)`` probabilities of the two tokens.
        num_draws: How many.
        where: What was drawn.
    """
    counts = np.zeros_like(law)
    for number in range(num_draws):
        first, second = draw(number)
        counts[first, second] += 1
    expected = law * num_draws
    is_rare = expected < _SMALLEST_EXPECTED
    found, wanted = (np.append(numbers[~is_rare], numbers[is_rare].sum()) for numbers in (counts, expected))
    if wanted[-1] < _SMALLEST_EXPECTED:
        # too rare even together: with the most likely outcome nothing is lost
        largest = int(wanted[:-1].argmax())
        for numbers in (found, wanted):
            numbers[largest] += numbers[-1]
        found, wanted = found[:-1], wanted[:-1]
    p = float(scipy.stats.chisquare(found, wanted * found.sum() / wanted.sum()).pvalue)
    share, right = counts.sum(axis=1) / num_draws, law.sum(axis=1)
    worst = int(np.abs(share - right).argmax())
    require(
        p > _SMALLEST_P,
        f"{where} is biased: {num_draws} draws of two tokens do not have the target's own law (chi-squared "
        f"p = {p:.2g}; token {worst} came first in {share[worst]:.1%} of them, expected in {right[worst]:.1%}). Never "
        f"match by arg-max above temperature 0, nor with noise of your own: return what rule.walk returns.",
    )
