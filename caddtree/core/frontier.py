"""The heaviest prefixes of one draft block, in order: what every tree builder chooses from.

A prefix ``s_1 .. s_d`` weighs ``q_1(s_1) * ... * q_d(s_d)``. A parent is never lighter than its child, so the
heaviest ``n`` prefixes are a tree for every ``n``. Ranking is done here; where to stop is up to the builder.
"""

from __future__ import annotations

from functools import lru_cache
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import InputError
from caddtree.core.marginals import LARGEST_LOG_PROB, Marginals
from caddtree.kernels import availability
from caddtree.kernels.prefix_ranking import rank_prefixes, read_ranked
from caddtree.kernels.tree_numbering import number_tree

if TYPE_CHECKING:
    from caddtree.core.context import RoundContext

_NOTHING = float("-inf")
_WIDENING = 4
"""A selection costs far more than wider rows do, so a width that binds grows in few large steps."""

_HEAP_NODES = 64
"""Up to here a heap is faster: about 1.5 us a node, where the levels of a block cost 150 us whatever their size."""

_Level = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Nodes of one depth by weight: the place of the parent one depth up, the rank, the log-weight."""


@attrs.frozen(eq=False)
class Frontier:
    """The heaviest prefixes, heaviest first; ties go by depth, then by the parent's order, then by rank.

    Nodes are numbered from 1 in this order, 0 is the root, so that the first ``count`` nodes are a tree.
    """

    parents: NDArray[np.int64]  # (count,) number of the parent, 0 for the root
    depths: NDArray[np.int64]  # (count,) 1 for a child of the root
    ranks: NDArray[np.int64]  # (count,) 0 for the likeliest candidate of its depth
    tokens: NDArray[np.int64]  # (count,)
    log_weights: NDArray[np.float32]  # (count,) non-increasing
    marginals: Marginals
    """Where the prefixes come from, as wide as they had to be."""
    ranked: Tensor | None = None
    """The same list where it was ranked on the device, as ``kernels.prefix_ranking`` packs it."""

    def __len__(self) -> int:
        return len(self.parents)

    def expected_acceptance(self) -> NDArray[np.float64]:
        """Return ``(count + 1,)`` float64: Phi(n), the expected accepted draft tokens, for n = 0 .. count.

        Source: CaDDTree, arXiv:2606.01813.
        """
        phi = np.zeros(len(self) + 1)
        np.cumsum(np.exp(self.log_weights.astype(np.float64)), out=phi[1:])
        return phi


def heaviest_prefixes(marginals: Marginals, max_nodes: int, stop_tokens: frozenset[int] = frozenset()) -> Frontier:
    """Return the ``max_nodes`` heaviest prefixes, or all of them where there are fewer.

    The marginals are widened as long as a candidate beyond their width could still matter, so the result does
    not depend on the width they came with. Candidates of probability 0 are never nodes, and a row without a
    usable number ends the block.

    Args:
        marginals: Candidates of the block; clip them first where the tree must be shallower.
        max_nodes: Upper bound on the nodes returned, at least 0.
        stop_tokens: Tokens that end the text; a prefix may end with one but does not go on behind it.

    Raises:
        InputError: If a row of the marginals is not ordered best first.

    Source: DDTree, arXiv:2604.12989: by its heap for few nodes, level by level for many. At each depth the second form
    keeps the heaviest of (kept parents) x (candidates); the pair of the i-th parent and the j-th candidate, counted
    from 1, has ``i * j - 1`` others before it.
    """
    # the lightest finite number: a candidate of probability 0 is below it
    cut = np.finfo(np.float32).min
    while True:
        if max_nodes and availability.takes_triton(marginals.log_probs):
            frontier = _rank_on_device(marginals, max_nodes, stop_tokens)
        elif max_nodes <= _HEAP_NODES:
            frontier = _rank_by_heap(marginals, max_nodes, stop_tokens)
        else:
            frontier = _rank_by_level(marginals, max_nodes, stop_tokens, cut)
        width = marginals.width
        # the next sibling of a node of the last rank would weigh at most as much as that node and come after it:
        # it can only displace nodes behind it
        binds = width < max_nodes and bool((frontier.ranks[: max_nodes - 1] == width - 1).any())
        if not binds:
            return frontier
        marginals = marginals.widen(min(_WIDENING * width, max_nodes))
        if marginals.width <= width:
            return frontier
        if len(frontier) == max_nodes:
            # more candidates can only raise the weight of the last node
            cut = frontier.log_weights[-1]


def argmax_chain(marginals: Marginals, stop_tokens: frozenset[int] = frozenset()) -> Frontier:
    """Return the likeliest candidate of every position as one path, up to the first row without a usable number.

    It ends with the first token of ``stop_tokens``.

    Source: DFlash, arXiv:2602.06036.
    """
    best = Marginals(marginals.tokens[:, :1], marginals.log_probs[:, :1])
    # host sync: two numbers per position in one read
    found = torch.cat((best.tokens.int(), best.log_probs.float().view(torch.int32)), dim=1).cpu().numpy()
    first = found[:, 1:].copy().view(np.float32)
    if marginals.is_ranked_on_device:
        # a row that is not usable shows it in its first candidate: nothing is better than NaN
        marginals.note_usable(bool((first <= LARGEST_LOG_PROB).all()))
    log_probs = _usable_rows(first).ravel()
    tokens = found[: len(log_probs), 0].astype(np.int64)
    length = next((place for place, token in enumerate(tokens.tolist(), 1) if token in stop_tokens), len(tokens))
    log_probs, tokens, depths = log_probs[:length], tokens[:length], np.arange(1, length + 1)
    # cumsum adds one depth after the other in float32, as every weight is defined
    return Frontier(depths - 1, depths, np.zeros_like(depths), tokens, log_probs.cumsum(), best)


def tree_from_selection(frontier: Frontier, count: int, context: RoundContext) -> DraftTree:
    """Return the tree of the first ``count`` nodes under the round's root, numbered with the arg-max chain first.

    The other nodes follow in weight order; parents come before their children. A list that was ranked on the device is
    numbered there too, into the packet that the round's forward reads.
    """
    count = min(count, len(frontier))
    if count == 0:
        return DraftTree.root_only(context.root_token)
    if frontier.ranked is None:
        return _numbered(context.root_token, frontier, count)
    num_rows = context.num_rows(count)
    packet = number_tree(frontier.ranked, count, context.root_token, num_rows, context.context_length).packet
    return _numbered(context.root_token, frontier, count).placed(packet, num_rows)


def _numbered(root_token: int, frontier: Frontier, count: int) -> DraftTree:
    deepest = np.maximum.accumulate(frontier.depths[:count])
    # the arg-max prefix of a depth is the first of its depth in weight order
    is_spine = np.empty(count, bool)
    is_spine[0] = True
    np.greater(deepest[1:], deepest[:-1], out=is_spine[1:])
    spine = np.flatnonzero(is_spine)
    # behind a token that ends the text the first of a depth belongs to another branch
    follows = frontier.parents[spine[1:]] == spine[:-1] + 1
    if not follows.all():
        is_spine[spine[int(follows.argmin()) + 1 :]] = False
        spine = np.flatnonzero(is_spine)
    order = np.concatenate((spine, np.flatnonzero(~is_spine)))
    number = np.zeros(count + 1, np.int64)
    number[order + 1] = np.arange(1, count + 1)

    tokens, parents, depths = (np.empty(count + 1, np.int64) for _ in range(3))
    log_weights = np.empty(count + 1, np.float32)
    tokens[0], parents[0], depths[0], log_weights[0] = root_token, -1, 0, 0.0
    tokens[1:] = frontier.tokens[order]
    parents[1:] = number[frontier.parents[order]]
    depths[1:] = frontier.depths[order]
    log_weights[1:] = frontier.log_weights[order]
    return DraftTree(
        torch.from_numpy(tokens), torch.from_numpy(parents), torch.from_numpy(depths), torch.from_numpy(log_weights)
    )


def _usable_rows(log_probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows before the first that has no candidate or holds a number that is no log-probability."""
    # a NaN compares false
    is_usable = np.logical_and((log_probs <= LARGEST_LOG_PROB).all(axis=1), (log_probs > -np.inf).any(axis=1))
    num_usable = len(log_probs) if is_usable.all() else int(is_usable.argmin())
    # rounding leaves a certain token a little above 0, and a child would outweigh its parent
    usable = np.minimum(log_probs[:num_usable], 0)
    if (usable[:, 1:] > usable[:, :-1]).any():
        depth, rank = np.argwhere(usable[:, 1:] > usable[:, :-1])[0]
        raise InputError(
            f"candidates must be ordered best first, found log-probability {usable[depth, rank + 1]:g} behind "
            f"{usable[depth, rank]:g} in row {depth} of the marginals"
        )
    return usable


def _rank_on_device(marginals: Marginals, max_nodes: int, stop_tokens: frozenset[int]) -> Frontier:
    """Return the heaviest prefixes within the width, ranked by one launch; equal to the heap's bit for bit."""
    stops = _stops_on(marginals.log_probs.device, stop_tokens)
    tokens, log_probs = marginals.tokens.long().contiguous(), marginals.log_probs.float().contiguous()
    ranked = rank_prefixes(tokens, log_probs, max_nodes, stops)
    # host sync: 24 bytes per node; once per round unless the builder looks further or a width binds
    found = read_ranked(ranked.cpu(), max_nodes)
    marginals.note_usable(found.is_usable)
    if not found.is_ordered:
        _usable_rows(marginals.log_probs.float().cpu().numpy())  # says where
    return Frontier(found.parents, found.depths, found.ranks, found.tokens, found.log_weights, marginals, ranked)


@lru_cache(maxsize=8)
def _stops_on(device: torch.device, stop_tokens: frozenset[int]) -> Tensor | None:
    return torch.tensor(sorted(stop_tokens), dtype=torch.int64, device=device) if stop_tokens else None


def _rank_by_heap(marginals: Marginals, max_nodes: int, stop_tokens: frozenset[int]) -> Frontier:
    """Return the heaviest prefixes within the width: pop the heaviest, push its next sibling and its first child."""
    # host sync: narrow marginals are all that leaves the device
    usable = _usable_rows(marginals.log_probs.float().cpu().numpy())
    rows, candidates = usable.tolist(), marginals.tokens.tolist()
    num_rows, width = len(rows), marginals.width
    # by number: the root is 0
    weights, parents, depths, ranks, tokens = [0.0], [], [], [], []
    # equal weights go by depth, then by the parent's number, then by rank
    heap = [(-rows[0][0], 1, 0, 0)] if num_rows and max_nodes else []
    while heap:
        weight, depth, parent, rank = heap[0]
        parents.append(parent)
        depths.append(depth)
        ranks.append(rank)
        tokens.append(candidates[depth - 1][rank])
        weights.append(-weight)
        if len(parents) == max_nodes:
            break
        row = rows[depth - 1]
        # two float32 added in float64 and rounded are their float32 sum
        if rank + 1 < width and row[rank + 1] > _NOTHING:
            heapreplace(heap, (-float(np.float32(weights[parent] + row[rank + 1])), depth, parent, rank + 1))
        else:
            heappop(heap)
        if depth < num_rows and tokens[-1] not in stop_tokens:
            heappush(heap, (-float(np.float32(rows[depth][0] - weight)), depth + 1, len(parents), 0))
    return Frontier(
        np.array(parents, np.int64),
        np.array(depths, np.int64),
        np.array(ranks, np.int64),
        np.array(tokens, np.int64),
        np.array(weights[1:], np.float32),
        marginals,
    )


def _rank_by_level(marginals: Marginals, max_nodes: int, stop_tokens: frozenset[int], cut: np.float32) -> Frontier:
    """Return the heaviest prefixes within the width; ``cut`` bounds the last one from below."""
    # host sync: narrow marginals are all that leaves the device
    log_probs = _usable_rows(marginals.log_probs.float().cpu().numpy())
    tokens, stops = marginals.tokens.cpu().numpy(), np.array(sorted(stop_tokens), np.int64)
    levels: list[_Level] = []
    weights, pool = np.zeros(1, np.float32), np.zeros(0, np.float32)
    places = np.zeros(1, np.int64)  # of the nodes that may have children, among all of their depth
    pair_parents, pair_ranks, pair_starts = _pairs(max_nodes, marginals.width)
    for depth, row in enumerate(log_probs):
        # parents are ordered by weight: those whose best child is too light are a tail
        num_parents = int(np.count_nonzero(weights + row[0] >= cut))
        num_pairs = pair_starts[min(num_parents, max_nodes)]
        parents, ranks = pair_parents[:num_pairs], pair_ranks[:num_pairs]
        sums = weights[parents] + row[ranks]
        # pairs come ordered by (parent, rank), and a stable sort keeps that order among equal weights
        kept = (sums >= cut).nonzero()[0]
        kept = kept[(-sums[kept]).argsort(kind="stable")[:max_nodes]]
        if len(kept) == 0:
            break
        weights, ranks = sums[kept], ranks[kept]
        levels.append((places[parents[kept]], ranks, weights))
        pool = np.concatenate((pool, weights))
        if len(pool) >= max_nodes:
            # a prefix lighter than max_nodes others, found so far, cannot be chosen, nor can its descendants
            pool.partition(len(pool) - max_nodes)
            pool = pool[len(pool) - max_nodes :]
            cut = max(cut, pool[0])
        places = np.arange(len(weights))
        if len(stops):
            places = places[~np.isin(tokens[depth, ranks], stops)]
            weights = weights[places]
    return _merge(levels, marginals, max_nodes)


def _merge(levels: list[_Level], marginals: Marginals, max_nodes: int) -> Frontier:
    """Return the heaviest nodes over all depths, their parents renumbered to the common order."""
    if not levels:
        none = np.zeros(0, np.int64)
        return Frontier(none, none, none, none, np.zeros(0, np.float32), marginals)
    sizes = [len(weights) for _, _, weights in levels]
    # the root is number 0 and the nodes of a depth follow those of the depth before
    first_of_depth = np.cumsum([0, 1, *sizes[:-1]])
    depths = np.arange(len(levels)).repeat(sizes)
    parents = np.concatenate([level[0] for level in levels]) + first_of_depth[depths]
    ranks = np.concatenate([level[1] for level in levels])
    weights = np.concatenate([level[2] for level in levels])
    order = (-weights).argsort(kind="stable")[:max_nodes]
    number = np.zeros(len(weights) + 1, np.int64)
    number[order + 1] = np.arange(1, len(order) + 1)
    depths, ranks = depths[order], ranks[order]
    # host sync: as above
    tokens = marginals.tokens.cpu().numpy()[depths, ranks]
    return Frontier(number[parents[order]], depths + 1, ranks, tokens, weights[order], marginals)


@lru_cache(maxsize=64)
def _pairs(max_nodes: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
    """Return every pair that can survive: parents and ranks, counted from 0, and where each parent's pairs start."""
    counts = np.minimum(width, max_nodes // np.arange(1, max_nodes + 1))
    starts = np.concatenate(([0], np.cumsum(counts)))
    parents = np.arange(max_nodes).repeat(counts)
    ranks = np.arange(len(parents)) - starts[parents]
    return parents, ranks, [int(start) for start in starts]
