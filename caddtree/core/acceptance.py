"""The walk through a verified tree: which path is accepted, and which token follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor

from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import NumericalError
from caddtree.core.sampler import Sampler
from caddtree.core.tree_packet import unpack
from caddtree.kernels import availability
from caddtree.kernels.accept_walk import accept_walk, unpack_walk
from caddtree.kernels.target_choice import target_choices

_LONGEST_PATH = 64
"""Nodes of an accepted path at most; the device's answer has a fixed size."""


@attrs.frozen
class Walk:
    """An accepted path and what the target chose at each of its nodes."""

    path: tuple[int, ...]
    """Node indices from the root to the last node the target agrees with."""
    tokens: tuple[int, ...]
    """The target's choice at every node of the path: the accepted tokens, then the bonus token."""

    @property
    def num_accepted(self) -> int:
        """Accepted draft tokens; the bonus token is not counted."""
        return len(self.path) - 1

    def cut(self, num_tokens: int) -> Walk:
        """Return the walk that gains only the first ``num_tokens`` tokens; the last one becomes the bonus."""
        return self if num_tokens >= len(self.tokens) else Walk(self.path[:num_tokens], self.tokens[:num_tokens])


class AcceptanceRule(Protocol):
    """Turns the target's logits over a tree into a :class:`Walk`."""

    def walk(self, tree: DraftTree, logits: Tensor, context_length: int) -> Walk:
        """Return the accepted path; ``logits`` is ``(nodes, vocabulary)``.

        Raises:
            NumericalError: If a row is not finite.
        """


@attrs.frozen(eq=False)
class MatchChoice:
    """Step to a child while its token is the very token the target chooses at the current node.

    Exact at every temperature: the choice is made before the tree is looked at, with noise keyed by position.
    """

    sampler: Sampler
    prefix: Sequence[int] = ()
    """Token ids of the sequence so far, the root last; read only by samplers that have processors."""
    is_last: Callable[[Sequence[int]], bool] | None = None
    """Whether the last of the tokens chosen so far ends the text: no choice is drawn behind it."""

    def walk(self, tree: DraftTree, logits: Tensor, context_length: int) -> Walk:
        """Return the accepted path and the target's choices along it; rows of padding behind the nodes are ignored."""
        if tree.packet is not None and self.sampler.is_keyed and availability.takes_triton(logits):
            return self._walk_on_device(tree, logits, context_length)
        logits = logits[: tree.num_nodes]
        choose = _argmax_choices(logits, context_length)
        tokens, parents = tree.tokens.tolist(), tree.parents.tolist()
        node, path, chosen = 0, [0], []
        while True:
            if self.sampler.is_argmax:
                choice = choose(node)
            else:
                prefix = [*self.prefix, *(tokens[index] for index in path[1:])] if self.sampler.processors else ()
                choice = self.sampler.choose(logits[node], context_length + len(path) - 1, prefix)
            chosen.append(choice)
            if self.is_last is not None and not self.sampler.is_argmax and self.is_last(chosen):
                return Walk(tuple(path), tuple(chosen))
            node = _child(tokens, parents, node, choice)
            if node == 0:
                return Walk(tuple(path), tuple(chosen))
            path.append(node)

    def _walk_on_device(self, tree: DraftTree, logits: Tensor, context_length: int) -> Walk:
        assert tree.packet is not None
        rows, temperature = unpack(tree.packet, tree.packet_rows), self.sampler.temperature
        if temperature > 0 and (self.sampler.top_k is not None or self.sampler.filters_by_mass):
            # all rows at once, although few are walked: a choice at a time would make the host wait for each
            logits, temperature = self.sampler.tempered(logits.float()), 1.0
        choices, best = target_choices(
            logits,
            temperature=temperature,
            seed=self.sampler.seed,
            depths=rows.depths,
            root_position=rows.context_length,
        )
        packed = accept_walk(choices, best, rows.tokens, rows.parents, rows.num_nodes, max_path=_LONGEST_PATH)
        # host sync: the one read of verification
        walk = unpack_walk(packed.cpu())
        if walk.bad_row is not None:
            check_finite(best[: tree.num_nodes], context_length)
        return Walk(walk.path, walk.tokens)


def _argmax_choices(logits: Tensor, context_length: int) -> Callable[[int], int]:
    """Return the arg-max of a row by its index, after a check of all rows; of equal logits the lowest id wins."""
    if logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.float64):
        # few rows are walked, and NumPy finds the maxima several times as fast: 25 us instead of 90 at 17 x 4,096
        rows = logits.numpy()
        check_finite(torch.from_numpy(rows.max(axis=1)), context_length)
        return lambda node: int(rows[node].argmax())
    best, argmax = logits.max(dim=-1)
    check_finite(best, context_length)
    # host sync: all choices in one read, of which the walk needs few
    choices: list[int] = argmax.tolist()
    return choices.__getitem__


def check_finite(best: Tensor, context_length: int) -> None:
    """Refuse logits with NaN or infinity; ``best`` is the largest value of every row, NaN where one is.

    Raises:
        NumericalError: Naming the first bad row and the position of the tree's root.
    """
    finite = torch.isfinite(best)
    if not bool(finite.all()):  # host sync: one flag
        row = int((~finite).int().argmax())
        raise NumericalError(
            f"the target's logits are not finite: row {row} of {len(best)} holds {float(best[row])} "
            f"at context length {context_length}. Check the weights, or use a wider dtype."
        )


def _child(tokens: list[int], parents: list[int], node: int, token: int) -> int:
    for child in range(node + 1, len(tokens)):
        if parents[child] == node and tokens[child] == token:
            return child
    return 0
