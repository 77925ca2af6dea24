"""The numbering of a draft tree in plain loops on the host: the definition, and the layout of the result."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from caddtree.kernels.prefix_ranking import RankedPrefixes, num_packed_nodes, read_ranked

HEADER = 2
"""Numbers of a packet in front of its rows: context length, number of nodes."""
WORD_BITS = 64


@attrs.frozen(eq=False)
class NumberedTree:
    """A draft tree padded to a number of rows: one packet for the forward, and views by name, made on demand."""

    packet: Tensor  # (packet_size(rows),) int64: context length, nodes, tokens, parents, depths, visibility
    extras: Tensor  # (2, rows) int32: order, bits of the log-weights
    num_rows: int

    @property
    def tokens(self) -> Tensor:
        """``(rows,)`` int64, 0 for padding."""
        return self._numbers(0)

    @property
    def parents(self) -> Tensor:
        """``(rows,)`` int64, -1 for the root and for padding."""
        return self._numbers(1)

    @property
    def depths(self) -> Tensor:
        """``(rows,)`` int64, 0 for the root and for padding."""
        return self._numbers(2)

    @property
    def visibility(self) -> Tensor:
        """``(rows, words)`` int64; row ``j`` is bit ``j % 64`` of word ``j // 64``."""
        return self.packet[HEADER + 3 * self.num_rows :].view(self.num_rows, num_words(self.num_rows))

    @property
    def order(self) -> Tensor:
        """``(rows,)`` int32: the node's number among the ranked prefixes, 0 for the root, -1 for padding."""
        return self.extras[0]

    @property
    def log_weights(self) -> Tensor:
        """``(rows,)`` float32, 0 for the root and for padding."""
        return self.extras[1].view(torch.float32)

    def _numbers(self, place: int) -> Tensor:
        start = HEADER + place * self.num_rows
        return self.packet[start : start + self.num_rows]


def num_words(num_rows: int) -> int:
    """Return the words of visibility bits that a row needs."""
    return -(-num_rows // WORD_BITS)


def packet_size(num_rows: int) -> int:
    """Return the numbers in a packet."""
    return HEADER + num_rows * (3 + num_words(num_rows))


def number_tree(
    packed: Tensor, count: int | Tensor, root_token: int | Tensor, num_rows: int, context_length: int | Tensor | None
) -> NumberedTree:
    """Return the padded tree; arguments and result as in the package's own function."""
    # host sync: everything is read, the loops run on the host
    prefixes = read_ranked(packed.cpu(), num_packed_nodes(packed))
    num_drafts = min(int(count), len(prefixes.parents), num_rows - 1)
    order = _spine_first(prefixes, num_drafts)
    row_of = {number: row for row, number in enumerate(order)}

    packet = torch.zeros(packet_size(num_rows), dtype=torch.int64)
    extras = torch.zeros((2, num_rows), dtype=torch.int32)
    tree = NumberedTree(packet, extras, num_rows)
    packet[0], packet[1] = 0 if context_length is None else int(context_length), num_drafts + 1
    tree.parents.fill_(-1)
    tree.order.fill_(-1)
    tree.tokens[0], tree.order[0] = int(root_token), 0
    for row, number in enumerate(order[1:], 1):
        place = number - 1
        tree.tokens[row] = int(prefixes.tokens[place])
        tree.parents[row] = row_of[int(prefixes.parents[place])]
        tree.depths[row] = int(prefixes.depths[place])
        tree.order[row] = number
        tree.log_weights[row] = float(prefixes.log_weights[place])
    _fill_visibility(tree.visibility, tree.parents.tolist())
    return NumberedTree(packet.to(packed.device), extras.to(packed.device), num_rows)


def _spine_first(prefixes: RankedPrefixes, num_drafts: int) -> list[int]:
    """Return the number of every row's node: the root, its likeliest child, that one's and so on, then the others."""
    spine = [0]
    for place in range(num_drafts):
        if prefixes.ranks[place] == 0 and prefixes.parents[place] == spine[-1]:
            spine.append(place + 1)
    return spine + sorted(set(range(num_drafts + 1)) - set(spine))


def _fill_visibility(visibility: Tensor, parents: list[int]) -> None:
    """Set the bits of every row's own node and its ancestors."""
    for row, parent in enumerate(parents):
        if parent >= 0:
            visibility[row] = visibility[parent]
        bit = 1 << (row % WORD_BITS)
        # the last bit of a word is its sign
        visibility[row, row // WORD_BITS] |= bit if bit < 1 << (WORD_BITS - 1) else -bit
