"""Slow and obvious counterparts of the frontier and of the choice of a tree size."""

from __future__ import annotations

import heapq

import attrs
import numpy as np
import torch
from hypothesis import strategies as st

from caddtree.core.context import RoundContext
from caddtree.core.marginals import Marginals


def heap_prefixes(log_probs: np.ndarray, max_nodes: int) -> list[tuple[int, int, int, np.float32]]:
    """Return (parent, depth, rank, log-weight) of the heaviest prefixes, one at a time from a heap.

    Pop the heaviest; push its next sibling and its first child. Ties go by depth, parent, rank.
    """
    depth_limit, width = log_probs.shape
    weights = [np.float32(0.0)]
    heap: list[tuple[np.float32, int, int, int]] = []

    def push(depth: int, parent: int, rank: int) -> None:
        if depth <= depth_limit and rank < width and log_probs[depth - 1, rank] > -np.inf:
            heapq.heappush(heap, (-np.float32(weights[parent] + log_probs[depth - 1, rank]), depth, parent, rank))

    nodes = []
    push(1, 0, 0)
    while heap and len(nodes) < max_nodes:
        negative, depth, parent, rank = heapq.heappop(heap)
        nodes.append((parent, depth, rank, -negative))
        weights.append(-negative)
        push(depth, parent, rank + 1)
        push(depth + 1, len(nodes), 0)
    return nodes


def all_trees(log_probs: np.ndarray) -> list[frozenset[tuple[int, ...]]]:
    """Return every prefix-closed set of prefixes (tuples of ranks), the empty set included."""
    depth_limit, width = log_probs.shape

    def below(prefix: tuple[int, ...]) -> list[frozenset[tuple[int, ...]]]:
        """Return all closed sets among the descendants of ``prefix``."""
        if len(prefix) == depth_limit:
            return [frozenset()]
        sets = [frozenset()]
        for rank in range(width):
            child = (*prefix, rank)
            if log_probs[len(prefix), rank] == -np.inf:
                continue
            with_child = [frozenset({child}) | inside for inside in below(child)]
            sets = [left | right for left in sets for right in [frozenset(), *with_child]]
        return sets

    return below(())


def probability(log_probs: np.ndarray, prefix: tuple[int, ...]) -> float:
    """Return the weight of a prefix of ranks: the float32 sum of its log-probabilities, exponentiated in float64."""
    total = np.float32(0.0)
    for depth, rank in enumerate(prefix):
        total = np.float32(total + log_probs[depth, rank])
    return float(np.exp(np.float64(total)))


def narrow(log_probs: np.ndarray, width: int, tokens: np.ndarray | None = None) -> Marginals:
    """Return marginals that show ``width`` candidates and widen up to all columns of ``log_probs``."""
    if tokens is None:
        # ids that differ from ranks, so that mixing them up shows
        tokens = np.tile(1000 - 3 * np.arange(log_probs.shape[1]), (len(log_probs), 1))
    width = min(width, log_probs.shape[1])
    wider = (lambda more: narrow(log_probs, more, tokens)) if width < log_probs.shape[1] else None
    return Marginals(torch.from_numpy(tokens[:, :width].copy()), torch.from_numpy(log_probs[:, :width].copy()), wider)


def random_log_probs(seed: int, depth: int, vocabulary: int, *, scale: float = 3.0) -> np.ndarray:
    """Return normalised ``(depth, vocabulary)`` float32, every row best first."""
    logits = torch.randn(depth, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale
    return torch.log_softmax(logits, dim=-1).sort(dim=-1, descending=True).values.numpy()


@st.composite
def tied_log_probs(draw: st.DrawFn, max_depth: int = 6, max_vocabulary: int = 12) -> np.ndarray:
    """Rows on a coarse grid: full of exact ties, with certain tokens and candidates of probability 0."""
    depth = draw(st.integers(1, max_depth))
    vocabulary = draw(st.integers(1, max_vocabulary))
    level = st.sampled_from([0.0, -0.25, -0.5, -0.75, -1.0, -1.5, -2.0, -4.0, -np.inf])
    rows = [sorted(draw(st.lists(level, min_size=vocabulary, max_size=vocabulary)), reverse=True) for _ in range(depth)]
    return np.array(rows, np.float32)


@attrs.frozen(eq=False)
class TableCost:
    """Seconds by number of draft nodes, spelt out; ``before`` is part of them."""

    seconds: np.ndarray
    before: float = 0.0

    def prepare(self, decoder: object) -> None:
        """Nothing to measure."""

    def before_choice_seconds(self, context_length: int) -> float:
        return self.before

    def after_choice_seconds(self, num_draft_nodes: np.ndarray, context_length: int) -> np.ndarray:
        return np.asarray(self.seconds, np.float64)[num_draft_nodes] - self.before


def round_context(**changes: object) -> RoundContext:
    """Return the context of a round with room for everything."""
    facts = {"root_token": 7, "context_length": 100, "remaining_tokens": 500, "position_limit": 4096}
    return RoundContext(**{**facts, **changes})  # type: ignore[arg-type]
