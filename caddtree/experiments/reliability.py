"""How often drafted tokens were right, by the probability that the drafter gave them."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from caddtree.core.draft_tree import DraftTree
from caddtree.experiments.records import RELIABILITY_BINS, Reliability


def _counts() -> NDArray[np.int64]:
    return np.zeros(RELIABILITY_BINS, np.int64)


@attrs.define(eq=False)
class ReliabilityCount:
    """Gathers the observations of one cell, round by round."""

    count: NDArray[np.int64] = attrs.field(factory=_counts)
    right: NDArray[np.int64] = attrs.field(factory=_counts)
    probability_sum: NDArray[np.float64] = attrs.field(factory=lambda: np.zeros(RELIABILITY_BINS))

    def add(self, tree: DraftTree, path: Sequence[int]) -> None:
        """Count the children of the nodes on ``path``, root first."""
        parents, log_weights = tree.parents.numpy(), tree.log_weights.numpy()
        is_on_path = np.zeros(len(parents), bool)
        is_on_path[list(path)] = True
        # the root's parent is -1 and would index the last node
        children = 1 + np.flatnonzero(is_on_path[parents[1:]])
        probabilities = np.exp(log_weights[children] - log_weights[parents[children]], dtype=np.float64)
        bins = np.clip((probabilities * RELIABILITY_BINS).astype(np.int64), 0, RELIABILITY_BINS - 1)
        self.count += np.bincount(bins, minlength=RELIABILITY_BINS)
        self.right += np.bincount(bins[is_on_path[children]], minlength=RELIABILITY_BINS)
        self.probability_sum += np.bincount(bins, weights=probabilities, minlength=RELIABILITY_BINS)

    def result(self) -> Reliability | None:
        """Return the counts, or None where nothing was drafted."""
        if not self.count.any():
            return None
        return Reliability(self.count.tolist(), self.right.tolist(), self.probability_sum.tolist())
