"""From ranked prefixes to the draft tree of a forward with fixed shapes, without a detour through the host."""

from __future__ import annotations

from torch import Tensor

from caddtree.kernels import availability
from caddtree.kernels.tree_numbering import reference
from caddtree.kernels.tree_numbering.reference import HEADER, NumberedTree, num_words, packet_size

__all__ = ["HEADER", "NumberedTree", "num_words", "number_tree", "packet_size"]


def number_tree(
    packed: Tensor,
    count: int | Tensor,
    root_token: int | Tensor,
    num_rows: int,
    context_length: int | Tensor | None = None,
) -> NumberedTree:
    """Return the tree of the ``count`` heaviest prefixes, its nodes numbered with the arg-max chain first.

    The other nodes follow in weight order, so parents come before their children. Rows behind the last node are
    padding: they see only themselves. Count, token and length may lie on the device, as ``(1,)`` int32 or int64, for a
    launch that is captured once and serves every round.

    Args:
        packed: What :func:`~caddtree.kernels.prefix_ranking.rank_prefixes` returned.
        count: Draft nodes wanted; no more are taken than were ranked.
        root_token: Token of the root.
        num_rows: Rows of the tree, at least ``count + 1``. A count on the device that is larger is cut.
        context_length: Committed tokens, for the header of the packet; None leaves 0 there.

    Raises:
        ValueError: If ``count`` is an int and its nodes do not fit the rows.
    """
    needed = 1 if isinstance(count, Tensor) else count + 1
    if num_rows < needed:
        raise ValueError(f"a tree of {needed} nodes does not fit {num_rows} rows. Give a row to every node.")
    if availability.takes_triton(packed):
        from caddtree.kernels.tree_numbering import triton_kernel

        return triton_kernel.number_tree(packed, count, root_token, num_rows, context_length)
    return reference.number_tree(packed, count, root_token, num_rows, context_length)
