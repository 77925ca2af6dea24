"""The heaviest prefixes of a draft block by a heap on the host: the definition, and the layout of the result."""

from __future__ import annotations

from heapq import heappop, heappush

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HEADER = 4
"""Numbers in front of the nodes: count, is_usable, binds, is_ordered."""
FIELDS = 6
"""Numbers of a node: parent, depth, rank, token, bits of the log-weight, spine.

The *spine* are the nodes of rank 0 that descend from such nodes alone. A node's last number counts those of them that
come no later than it, negative if it is none itself: with it the tree is numbered without a search.
"""
LARGEST_LOG_PROB = 1e-4
"""Rounding may leave the log-probability of a certain token this much above 0."""

_Node = tuple[int, int, int, int, np.float32]
"""Parent, depth, rank, token, log-weight."""


@attrs.frozen(eq=False)
class RankedPrefixes:
    """A packed result as the host works with it; nodes are numbered from 1, heaviest first."""

    is_usable: bool  # every number of the block is a log-probability
    binds: bool  # wider rows could have given other nodes
    is_ordered: bool  # false: a row that counts is not ordered best first, and there are no nodes
    parents: NDArray[np.int64]  # (count,) number of the parent, 0 for the root
    depths: NDArray[np.int64]  # (count,) 1 for a child of the root
    ranks: NDArray[np.int64]  # (count,) 0 for the likeliest candidate of its depth
    tokens: NDArray[np.int64]  # (count,)
    log_weights: NDArray[np.float32]  # (count,) non-increasing


def packed_size(max_nodes: int) -> int:
    """Return the numbers in a packed result."""
    return HEADER + FIELDS * max_nodes


def num_packed_nodes(packed: Tensor) -> int:
    """Return the ``max_nodes`` that a packed result was made for."""
    return (len(packed) - HEADER) // FIELDS


def read_ranked(packed: Tensor, max_nodes: int) -> RankedPrefixes:
    """Return the parts of ``packed``, which lies on the host and was made for ``max_nodes``."""
    numbers = packed.numpy()
    count, is_usable, binds, is_ordered = numbers[:HEADER].tolist()
    nodes = numbers[HEADER:].reshape(FIELDS, max_nodes)[:, :count]
    parents, depths, ranks, tokens = nodes[:4].astype(np.int64)
    log_weights = nodes[4].view(np.float32)
    return RankedPrefixes(bool(is_usable), bool(binds), bool(is_ordered), parents, depths, ranks, tokens, log_weights)


def rank_prefixes(tokens: Tensor, log_probs: Tensor, max_nodes: int, stop_tokens: Tensor | None) -> Tensor:
    """Return the heaviest prefixes, packed; arguments and result as in the package's own function."""
    # host sync: the heap lives on the host
    block, candidates = log_probs.cpu().numpy(), tokens.tolist()
    stops = frozenset() if stop_tokens is None else frozenset(stop_tokens.tolist())
    # rounding leaves a certain token a little above 0, and a child would outweigh its parent
    rows = np.minimum(block[: _num_usable(block)], np.float32(0))
    is_ordered = bool((rows[:, 1:] <= rows[:, :-1]).all())
    nodes = _pop_heaviest(rows, candidates, max_nodes, stops) if is_ordered else []

    # a NaN compares false
    is_usable = bool((block <= LARGEST_LOG_PROB).all())
    width = block.shape[1]
    # the next sibling of a node of the last rank comes after it: it can only displace nodes behind it
    binds = width < max_nodes and any(rank == width - 1 for _, _, rank, _, _ in nodes[: max_nodes - 1])
    packed = np.zeros(packed_size(max_nodes), np.int32)
    packed[:HEADER] = len(nodes), is_usable, binds, is_ordered
    fields = packed[HEADER:].reshape(FIELDS, max_nodes)
    spine = [0]
    for place, (parent, depth, rank, token, log_weight) in enumerate(nodes):
        is_spine = rank == 0 and parent == spine[-1]
        if is_spine:
            spine.append(place + 1)
        num_spine = len(spine) - 1
        fields[:, place] = parent, depth, rank, token, log_weight.view(np.int32), num_spine if is_spine else -num_spine
    return torch.from_numpy(packed).to(log_probs.device)


def _num_usable(block: NDArray[np.float32]) -> int:
    """Return how many rows lie before the first that has no candidate or holds what is no log-probability."""
    # a NaN compares false
    is_usable = (block <= LARGEST_LOG_PROB).all(axis=1) & (block > -np.inf).any(axis=1)
    return int(np.logical_and.accumulate(is_usable).sum())


def _pop_heaviest(
    rows: NDArray[np.float32], candidates: list[list[int]], max_nodes: int, stops: frozenset[int]
) -> list[_Node]:
    """Return the nodes in order: take the heaviest prefix that waits; its next sibling and first child wait next."""
    num_rows, width = rows.shape
    weights = [np.float32(0)]  # by number: the root is 0
    nodes: list[_Node] = []
    # equal weights go by depth, then by the parent's number, then by rank
    heap: list[tuple[np.float32, int, int, int]] = []

    def push(depth: int, parent: int, rank: int) -> None:
        if depth <= num_rows and rank < width and rows[depth - 1, rank] > -np.inf:
            heappush(heap, (-(weights[parent] + rows[depth - 1, rank]), depth, parent, rank))

    push(1, 0, 0)
    while heap and len(nodes) < max_nodes:
        cost, depth, parent, rank = heappop(heap)
        token = candidates[depth - 1][rank]
        # minus zero would be another pattern of bits
        weight = np.float32(0) - cost
        weights.append(weight)
        nodes.append((parent, depth, rank, token, weight))
        push(depth, parent, rank + 1)
        if token not in stops:
            push(depth + 1, len(nodes), 0)
    return nodes
