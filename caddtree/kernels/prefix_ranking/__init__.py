"""The heaviest prefixes of a draft block, ranked where the block lies: one packed tensor for the host to read."""

from __future__ import annotations

from torch import Tensor

from caddtree.kernels import availability
from caddtree.kernels.prefix_ranking import reference
from caddtree.kernels.prefix_ranking.reference import (
    HEADER,
    RankedPrefixes,
    num_packed_nodes,
    packed_size,
    read_ranked,
)

__all__ = [
    "HEADER",
    "LARGEST_KERNEL_DEPTH",
    "LARGEST_KERNEL_WIDTH",
    "MOST_KERNEL_NODES",
    "RankedPrefixes",
    "num_packed_nodes",
    "packed_size",
    "rank_prefixes",
    "read_ranked",
]

LARGEST_KERNEL_DEPTH, LARGEST_KERNEL_WIDTH, MOST_KERNEL_NODES = 63, 1024, 1024
"""What the kernel has bits and registers for; a block beyond is ranked on the host, far from every round."""


def rank_prefixes(tokens: Tensor, log_probs: Tensor, max_nodes: int, stop_tokens: Tensor | None = None) -> Tensor:
    """Return the ``max_nodes`` heaviest prefixes, or all there are, with what the host must know about the block.

    A prefix weighs the sum of its candidates' log-probabilities, added in float32 from the root down. Equal weights
    go by depth, then by the parent's number, then by rank. Candidates of ``-inf`` are never nodes; a row that has no
    other, or holds a NaN or a number above 0 by more than rounding, ends the block.

    Args:
        tokens: ``(depth, width)`` int64, from 0 and below 2**31.
        log_probs: ``(depth, width)`` float32, non-increasing along a row; row ``d`` belongs to depth ``d + 1``.
        max_nodes: Upper bound on the nodes, at least 0.
        stop_tokens: ``(num_stops,)`` int64 on the same device; a prefix may end with one but does not go on behind it.

    Returns:
        ``(packed_size(max_nodes),)`` int32 on the same device: count, is_usable, binds and is_ordered, then parents,
        depths, ranks, tokens, bits of log-weights and what numbering the tree needs, ``max_nodes`` of each, 0 behind
        the last node. The host copies it and calls :func:`read_ranked`, whose result says what they mean.

    Source: DDTree, arXiv:2604.12989 (best-first heap).
    """
    depth, width = log_probs.shape
    is_within_reach = depth <= LARGEST_KERNEL_DEPTH and width <= LARGEST_KERNEL_WIDTH and max_nodes <= MOST_KERNEL_NODES
    if is_within_reach and availability.takes_triton(log_probs):
        from caddtree.kernels.prefix_ranking import triton_kernel

        return triton_kernel.rank_prefixes(tokens, log_probs, max_nodes, stop_tokens)
    return reference.rank_prefixes(tokens, log_probs, max_nodes, stop_tokens)
