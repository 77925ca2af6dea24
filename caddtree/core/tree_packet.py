"""The one tensor that carries a draft tree to a forward whose shapes are fixed: rows padded to a bucket.

Layout, all int64: context length, number of nodes, then per row the token, the parent, the depth and the packed
visibility bits (node ``j`` is bit ``j % 64`` of word ``j // 64``). One tensor means one copy to the device per round,
and one address that a captured graph reads. Padding rows see only themselves and lie behind the nodes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import TreeError
from caddtree.kernels.tree_numbering import HEADER, num_words, packet_size

__all__ = ["PacketRows", "num_words", "pack_tree", "packet_size", "padded_rows", "unpack"]


@attrs.frozen(eq=False)
class PacketRows:
    """Views into a packet."""

    context_length: Tensor  # (1,) int64
    num_nodes: Tensor  # (1,) int64
    tokens: Tensor  # (rows,) int64, 0 for padding
    parents: Tensor  # (rows,) int64, -1 for the root and for padding
    depths: Tensor  # (rows,) int64, 0 for padding
    visibility: Tensor  # (rows, words) int64

    @property
    def num_rows(self) -> int:
        """Rows of the forward, padding included."""
        return len(self.tokens)

    def visible(self) -> Tensor:
        """Return the visibility of the rows among themselves, ``(rows, rows)`` bool, by operations of fixed shape."""
        node = torch.arange(self.num_rows, device=self.tokens.device)
        return (self.visibility[:, node // 64] >> (node % 64)) & 1 == 1


def padded_rows(num_nodes: int, buckets: Sequence[int] | None) -> int:
    """Return the rows of a forward over so many nodes: the smallest bucket that holds them.

    Without buckets, and beyond the largest, as many as there are nodes.
    """
    if buckets is None:
        return num_nodes
    index = bisect_left(buckets, num_nodes)
    return buckets[index] if index < len(buckets) else num_nodes


def pack_tree(tree: DraftTree, context_length: int, num_rows: int) -> Tensor:
    """Return the packet ``(packet_size(num_rows),)`` int64 of a tree on the host.

    Raises:
        TreeError: If the tree has more nodes than rows.
    """
    num_nodes = tree.num_nodes
    if num_nodes > num_rows:
        raise TreeError(f"a tree of {num_nodes} nodes does not fit {num_rows} rows")
    packet = np.zeros(packet_size(num_rows), np.int64)
    packet[0], packet[1] = context_length, num_nodes
    rows = unpack(torch.from_numpy(packet), num_rows)
    rows.parents.fill_(-1)
    rows.tokens[:num_nodes], rows.parents[:num_nodes] = tree.tokens, tree.parents
    rows.depths[:num_nodes] = tree.depths
    bits = tree.packed_visibility()
    rows.visibility[:num_nodes, : bits.shape[1]] = bits
    visibility = rows.visibility.numpy()
    padding = np.arange(num_nodes, num_rows)
    # a row that sees nothing would divide by a sum of zero
    visibility[padding, padding // 64] = np.left_shift(np.int64(1), padding % 64)
    return torch.from_numpy(packet)


def unpack(packet: Tensor, num_rows: int) -> PacketRows:
    """Return views of the parts of a packet."""
    first = HEADER
    tokens, parents, depths = (packet[first + part * num_rows : first + (part + 1) * num_rows] for part in range(3))
    visibility = packet[first + 3 * num_rows :].view(num_rows, num_words(num_rows))
    return PacketRows(packet[0:1], packet[1:2], tokens, parents, depths, visibility)
