"""How the target's forward over a draft tree is run; the decoding loop never asks which way.

Two forms of the same forward exist. Over a *view* of the cache shapes follow the tree, which suits plain eager
execution under dense masks. With *fixed shapes* the tree comes as one packet, rows are written by slot and the
context length is read on the device: then one compiled function, or one captured graph, serves every round.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from caddtree.core.tree_packet import PacketRows, unpack

if TYPE_CHECKING:
    from caddtree.core.draft_tree import DraftTree
    from caddtree.core.kv_cache import TreeCache
    from caddtree.core.target import Target, TargetState

Outputs = tuple[Tensor, ...]
StaticFunction = Callable[[Tensor], Outputs]
"""One tensor in, tensors out; the shape of the input decides all other shapes."""


class TreeAttention(Protocol):
    """How a target's layers attend under a draft tree: the part of the forward that a verifier brings."""

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether only the form with fixed shapes exists."""

    def applied(self) -> AbstractContextManager[None]:
        """While entered, the model attends this way."""

    def arguments(self, rows: PacketRows, capacity: int, dtype: torch.dtype) -> dict[str, Any]:
        """Return what the decoder's forward is told about the tree, by operations of fixed shape.

        Args:
            rows: The tree.
            capacity: KV rows of the cache.
            dtype: Of additive masks.
        """


class TargetRunner(Protocol):
    """Runs the target, and the drafter's pass, eagerly, compiled, or as captured graphs."""

    @property
    def row_buckets(self) -> tuple[int, ...] | None:
        """Rows that forwards over a tree are padded to, ascending; None where every number runs as it is."""

    @property
    def description(self) -> str:
        """What of it changes how long a round takes, in words."""

    def prepare(self, target: Target) -> None:
        """Get a new target ready."""

    def borrow(self, owner: object, capacity: int, make: Callable[[int], Any], *, largest: int) -> Any:
        """Return empty buffers of at least ``capacity`` rows for one sequence.

        Args:
            owner: Whose buffers: those of one owner are made alike.
            capacity: Rows.
            largest: Rows that no sequence can exceed.
            make: Makes new ones of the capacity it is given. They have a ``capacity``, a method ``clear`` that forgets
                the sequence, and a method ``discard`` that drops what was captured over them.
        """

    def give_back(self, owner: object, buffers: Any) -> None:
        """Take buffers back: their sequence has ended."""

    def free(self) -> None:
        """Drop what is kept for later requests."""

    def forward(self, target: Target, state: TargetState, tree: DraftTree, attention: TreeAttention) -> Tensor:
        """Return logits ``(rows, vocabulary)``, rows of padding last, and leave the features in ``state``."""

    def capture(self, function: StaticFunction) -> StaticFunction:
        """Return the fast form of a function of fixed shapes, or the function itself.

        Args:
            function: Runs operations of fixed shape on its input and on tensors that stay where they are; never waits
                for the device. What it returns may be overwritten when anything captured is run again.
        """

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the compiled form of a function over tensors, modules and caches, or the function itself."""


class PlainRunner:
    """Runs everything as it is written, over as many rows as the tree has: the definition of the others."""

    row_buckets: tuple[int, ...] | None = None
    description = "plain"

    def prepare(self, target: Target) -> None:
        """Change nothing."""

    def borrow(self, owner: object, capacity: int, make: Callable[[int], Any], *, largest: int) -> Any:
        """Return new buffers for every sequence."""
        return make(capacity)

    def give_back(self, owner: object, buffers: Any) -> None:
        """Leave them to the garbage collector."""

    def free(self) -> None:
        """Keep nothing."""

    def forward(self, target: Target, state: TargetState, tree: DraftTree, attention: TreeAttention) -> Tensor:
        """Return the logits of the nodes."""
        if not attention.has_fixed_shapes:
            return target.forward_view(state, tree)
        tree = target.place(state, tree, attention)
        assert tree.packet is not None
        state.cache.reserve(tree.packet_rows)
        outputs = run_packet(target, state.cache, attention, tree.packet, tree.packet_rows)
        logits, state.features = split_outputs(outputs)
        return logits

    def capture(self, function: StaticFunction) -> StaticFunction:
        """Return the function."""
        return function

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function."""
        return function


def run_packet(
    target: Target, cache: TreeCache, attention: TreeAttention, packet: Tensor, num_rows: int
) -> tuple[Tensor, ...]:
    """Return logits ``(rows, vocabulary)`` and, where layers are tapped, features, by operations of fixed shape."""
    rows = unpack(packet, num_rows)
    cache.slots = rows.context_length + torch.arange(num_rows, device=packet.device)
    try:
        arguments = attention.arguments(rows, cache.capacity, target.dtype)
        with attention.applied():
            hidden, features = target.run_decoder(rows.tokens, rows.context_length + rows.depths, cache, **arguments)
    finally:
        cache.slots = None
    logits = target.head_logits(hidden)
    return (logits,) if features is None else (logits, features)


def split_outputs(outputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    """Return logits and features, None where no layer is tapped."""
    return outputs[0], outputs[1] if len(outputs) > 1 else None
