"""How often drafted tokens were right, by the probability that the drafter gave them."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from caddtree.core.draft_tree import DraftTree
from caddtree.experiments.records import RELIABILITY_BINS, Reliability


@attrs.define(eq=False)
class ReliabilityCount:
    """Gathers the observations of one cell; counting waits for its end, so that it costs a round next to nothing."""

    _rounds: list[tuple[DraftTree, tuple[int, ...]]] = attrs.field(factory=list, init=False)

    def add(self, tree: DraftTree, path: Sequence[int]) -> None:
        """Take the children of the nodes on ``path``, root first."""
        if tree.num_drafts:
            self._rounds.append((tree, tuple(path)))

    def result(self) -> Reliability | None:
        """Return the counts, or None where nothing was drafted."""
        if not self._rounds:
            return None
        trees = [tree for tree, _ in self._rounds]
        starts = np.cumsum([0, *(tree.num_nodes for tree in trees)])
        log_weights = np.concatenate([tree.log_weights.numpy() for tree in trees])
        # all trees as one forest; a root's parent of -1 is set apart below
        parents = np.concatenate([tree.parents.numpy() + start for tree, start in zip(trees, starts, strict=False)])
        is_on_path = np.zeros(len(parents), bool)
        is_on_path[[start + node for (_, path), start in zip(self._rounds, starts, strict=False) for node in path]] = (
            True
        )
        is_child = is_on_path[parents]
        is_child[starts[:-1]] = False
        children = np.flatnonzero(is_child)
        probabilities = np.exp(log_weights[children] - log_weights[parents[children]], dtype=np.float64)
        bins = np.clip((probabilities * RELIABILITY_BINS).astype(np.int64), 0, RELIABILITY_BINS - 1)
        return Reliability(
            count=np.bincount(bins, minlength=RELIABILITY_BINS).tolist(),
            right=np.bincount(bins[is_on_path[children]], minlength=RELIABILITY_BINS).tolist(),
            probability_sum=np.bincount(bins, weights=probabilities, minlength=RELIABILITY_BINS).tolist(),
        )
