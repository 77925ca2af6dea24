"""The walk through a verified tree, where the target's choices are: the host reads one small tensor per round."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from caddtree.kernels import availability
from caddtree.kernels.accept_walk import reference

__all__ = ["LARGEST_KERNEL_TREE", "AcceptedWalk", "accept_walk", "unpack_walk"]

LARGEST_KERNEL_TREE = 1024
"""Rows that one program of the kernel holds; plain torch walks larger trees."""


class AcceptedWalk(NamedTuple):
    """What the host learns from a round's verification."""

    path: tuple[int, ...]
    """Node indices from the root to the last node the target agrees with."""
    tokens: tuple[int, ...]
    """The target's choice at every node of the path: the accepted tokens, then the bonus token."""
    bad_row: int | None
    """The first node whose logits are not finite; then path and tokens mean nothing."""


def accept_walk(
    choices: Tensor, best: Tensor, tokens: Tensor, parents: Tensor, num_nodes: int | Tensor, max_path: int
) -> Tensor:
    """Return the path on which the target's choice at every node is the token of the next, packed for one read.

    The walk starts at node 0. Siblings carry distinct tokens, so at most one child can follow; of equal ones the
    first would. Rows from ``num_nodes`` on are padding and are ignored whatever they hold.

    Args:
        choices: ``(rows,)`` int64, the target's choice after every node.
        best: ``(rows,)`` float32, the target's largest logit at every node.
        tokens: ``(rows,)`` int64.
        parents: ``(rows,)`` int64, parents before children, -1 for the root.
        num_nodes: Nodes with the root; ``(1,)`` int64 where only the device knows it.
        max_path: Nodes after which the walk ends: at least the depth of the tree + 1.

    Returns:
        ``(3 + 2 * max_path,)`` int64: the nodes on the path, 1 if ``best`` is finite at every node else 0, the first
        node where it is not or -1, then the path from node 0 on, then the choice at each of its nodes; -1 behind.
        :func:`unpack_walk` reads it.
    """
    if len(choices) <= LARGEST_KERNEL_TREE and availability.takes_triton(choices):
        from caddtree.kernels.accept_walk import triton_kernel

        return triton_kernel.accept_walk(choices, best, tokens, parents, num_nodes, max_path)
    return reference.accept_walk(choices, best, tokens, parents, num_nodes, max_path)


def unpack_walk(packed: Tensor) -> AcceptedWalk:
    """Return the walk that :func:`accept_walk` packed."""
    # host sync: the one read of a round, unless the tensor was copied to the host before
    length, _, bad_row, *rest = packed.tolist()
    max_path = len(rest) // 2
    path, tokens = rest[:length], rest[max_path : max_path + length]
    return AcceptedWalk(tuple(path), tuple(tokens), bad_row if bad_row >= 0 else None)
