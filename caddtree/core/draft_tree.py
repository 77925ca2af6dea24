"""The draft tree: what one verification pass of the target carries."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caddtree.core.errors import TreeError


@attrs.frozen(eq=False)
class DraftTree:
    """A prefix tree of draft tokens as flat arrays; node 0 is the root, parents come before children.

    Nodes are chosen in weight order and then numbered with the arg-max chain first, so that the accepted path
    is often a prefix of the numbering and its KV rows need no move. All tensors but the packet are on the host.
    """

    tokens: Tensor  # (nodes,) int64
    parents: Tensor  # (nodes,) int64, -1 for the root
    depths: Tensor  # (nodes,) int64, 0 for the root
    log_weights: Tensor  # (nodes,) float32, sum of the log-probabilities from the root; 0 for the root
    sequence_index: Tensor | None = None  # (nodes,) int64 where a batch is a forest, else None
    packet: Tensor | None = attrs.field(default=None, init=False)  # (size,) int64, see core/tree_packet.py
    """The same tree on the target's device. No argument: a tree that is made from this one is another tree."""
    packet_rows: int = attrs.field(default=0, init=False)
    """Rows of the packet, padding included."""

    @classmethod
    def root_only(cls, token: int) -> DraftTree:
        """Return the tree of a round without draft nodes."""
        return cls(torch.tensor([token]), torch.tensor([-1]), torch.zeros(1, dtype=torch.int64), torch.zeros(1))

    @classmethod
    def from_parents(
        cls,
        tokens: Sequence[int] | NDArray[np.int64],
        parents: Sequence[int] | NDArray[np.int64],
        log_weights: Sequence[float] | NDArray[np.float32] | None = None,
    ) -> DraftTree:
        """Return a tree from token ids and parent indices; depths are derived.

        Raises:
            TreeError: If a parent does not come before its child, or the lengths differ.
        """
        parent_array = np.asarray(parents, dtype=np.int64)
        num_nodes = len(parent_array)
        weights = np.zeros(num_nodes, np.float32) if log_weights is None else np.asarray(log_weights, np.float32)
        if not num_nodes == len(tokens) == len(weights):
            raise TreeError(
                f"a tree needs one token, parent and weight per node, "
                f"found {len(tokens)}, {num_nodes} and {len(weights)}"
            )
        depths = np.zeros(num_nodes, np.int64)
        for node, parent in enumerate(parent_array.tolist()):
            if node == 0 and parent == -1:
                continue
            if not 0 <= parent < node:
                raise TreeError(f"node {node} must follow its parent, found parent {parent}. Sort by depth.")
            depths[node] = depths[parent] + 1
        return cls(
            torch.from_numpy(np.array(tokens, dtype=np.int64)),
            torch.from_numpy(parent_array.copy()),
            torch.from_numpy(depths),
            torch.from_numpy(weights.astype(np.float32)),
        )

    @property
    def num_nodes(self) -> int:
        """Nodes with the root: the rows of a verification pass."""
        return len(self.tokens)

    @property
    def num_drafts(self) -> int:
        """Nodes without the root."""
        return len(self.tokens) - 1

    @property
    def depth(self) -> int:
        """Depth of the deepest node; 0 for the root alone."""
        return int(self.depths.max())  # host sync: trees are built on the host

    @property
    def expected_acceptance(self) -> float:
        """Phi, the surrogate expected number of accepted draft tokens (CaDDTree, arXiv:2606.01813)."""
        return float(self.log_weights[1:].double().exp().sum())  # host sync: trees are built on the host

    def placed(self, packet: Tensor, packet_rows: int) -> DraftTree:
        """Return the same tree with its packet on the device."""
        tree = attrs.evolve(self)
        object.__setattr__(tree, "packet", packet)
        object.__setattr__(tree, "packet_rows", packet_rows)
        return tree

    def visibility_mask(self) -> Tensor:
        """Return ``(nodes, nodes)`` bool; ``[i, j]`` is true when node ``i`` attends to node ``j``."""
        return visibility_mask(self.parents)

    def packed_visibility(self) -> Tensor:
        """Return the mask as ``(nodes, words)`` int64; node ``j`` is bit ``j % 64`` of word ``j // 64``."""
        return torch.from_numpy(_packed_rows(self.parents).view(np.int64).copy())

    def check(self, *, max_depth: int, vocabulary_size: int) -> None:
        """Refuse a tree that a verification pass could not carry.

        Raises:
            TreeError: For a parent behind its child, a wrong or too large depth, a token outside the
                vocabulary or two siblings of one token.
        """
        tokens, parents, depths = self.tokens.numpy(), self.parents.numpy(), self.depths.numpy()
        index = np.arange(len(tokens))
        if len(tokens) == 0 or parents[0] != -1 or depths[0] != 0:
            raise TreeError("node 0 of a draft tree must be the root, with parent -1 and depth 0")
        if ((parents[1:] < 0) | (parents[1:] >= index[1:])).any():
            node = 1 + int(np.argmax((parents[1:] < 0) | (parents[1:] >= index[1:])))
            raise TreeError(f"node {node} must follow its parent, found parent {parents[node]}. Sort by depth.")
        if (depths[1:] != depths[parents[1:]] + 1).any():
            node = 1 + int(np.argmax(depths[1:] != depths[parents[1:]] + 1))
            raise TreeError(f"node {node} must be one deeper than its parent, found depth {depths[node]}")
        if depths.max() > max_depth:
            raise TreeError(f"a tree of this round may be at most {max_depth} deep, found {depths.max()}")
        if ((tokens < 0) | (tokens >= vocabulary_size)).any():
            token = tokens[np.argmax((tokens < 0) | (tokens >= vocabulary_size))]
            raise TreeError(f"draft tokens must lie in 0..{vocabulary_size - 1}, found {token}")
        if len(set(zip(parents.tolist(), tokens.tolist(), strict=True))) != len(tokens):
            raise TreeError("two children of one node carry the same token; each may be drafted once")


def visibility_mask(parents: Tensor) -> Tensor:
    """Return which nodes each node may attend to: itself and its ancestors.

    Args:
        parents: ``(nodes,)`` int64, parents before children, -1 for the root.

    Returns:
        ``(nodes, nodes)`` bool; ``[i, j]`` is true when node ``i`` sees node ``j``.

    Source: DDTree, arXiv:2604.12989 (ancestor-only attention).
    """
    bits = np.unpackbits(_packed_rows(parents), axis=1, count=len(parents), bitorder="little")
    return torch.from_numpy(bits.view(bool)).to(parents.device)


def _packed_rows(parents: Tensor) -> NDArray[np.uint8]:
    """Return the visibility mask as ``(nodes, bytes)`` uint8, little-endian, padded to whole words of 64 bits."""
    # a Python integer is a row of any length: one shift and one or per node beat array steps per depth
    rows: list[int] = []
    bit = 1
    # host sync: trees are built on the host
    for parent in parents.tolist():
        rows.append(bit if parent < 0 else rows[parent] | bit)
        bit <<= 1
    num_bytes = -(-len(rows) // 64) * 8
    packed = b"".join([row.to_bytes(num_bytes, "little") for row in rows])
    return np.frombuffer(packed, np.uint8).reshape(len(rows), num_bytes)
