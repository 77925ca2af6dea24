"""The runner of fixed shapes: rows padded to buckets, caches at fixed addresses, functions captured once per bucket."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from caddtree.core.draft_tree import DraftTree
from caddtree.core.kv_cache import TreeCache
from caddtree.core.runner import StaticFunction, TreeAttention, run_packet, split_outputs
from caddtree.core.target import Target, TargetState
from caddtree.runtime.buckets import DEFAULT_BUCKETS
from caddtree.runtime.compiled_layers import CompiledLayers

logger = logging.getLogger(__name__)

_SMALLEST_CAPACITY = 1024

Capture = Callable[[StaticFunction], StaticFunction]
Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


def _as_it_is(function: Any) -> Any:
    return function


def _name(part: Any) -> str:
    return str(getattr(part, "__name__", type(part).__name__))


class StaticRunner:
    """Runs forwards over trees with shapes that come from a short list.

    Args:
        buckets: Rows, ascending.
        capture: Turns a function of fixed shapes into a captured one, such as a CUDA graph.
        compile: Turns a function over tensors into a compiled one.
    """

    def __init__(
        self, buckets: Sequence[int] = DEFAULT_BUCKETS, *, capture: Capture = _as_it_is, compile: Compile = _as_it_is
    ) -> None:
        self.row_buckets: tuple[int, ...] | None = tuple(buckets)
        self._buckets = tuple(buckets)
        self._capture, self._compile = capture, compile
        self._idle: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._told_of_large_tree = False

    @property
    def description(self) -> str:
        """The kinds of its two parts, and the buckets."""
        return f"rows {self._buckets}, capture {_name(self._capture)}, compile {_name(self._compile)}"

    def prepare(self, target: Target) -> None:
        """Let the target's layers run compiled in forwards of fixed shapes."""
        if self._compile is not _as_it_is:
            target.layer_execution = CompiledLayers(target.layers, self._compile)

    def borrow(self, owner: object, capacity: int, make: Callable[[int], Any], *, largest: int) -> Any:
        """Return the buffers of the last sequence where they are large enough: what was captured over them holds."""
        idle = self._idle.pop(owner, None)
        if idle is not None and idle.capacity >= capacity:
            idle.clear()
            return idle
        if idle is not None:
            idle.discard()
            # their memory may be needed for the larger ones
            del idle
        # powers of two: few requests then need larger ones than the request before
        rounded = max(_SMALLEST_CAPACITY, 1 << (capacity - 1).bit_length())
        return make(max(capacity, min(rounded, largest)))

    def give_back(self, owner: object, buffers: Any) -> None:
        """Keep the buffers for the next sequence, unless larger ones are kept."""
        kept = self._idle.get(owner)
        if kept is not None and kept.capacity > buffers.capacity:
            buffers.discard()
            return
        if kept is not None:
            kept.discard()
        self._idle[owner] = buffers

    def free(self) -> None:
        """Drop idle buffers and what was captured over them."""
        for buffers in self._idle.values():
            buffers.discard()
        self._idle.clear()

    def forward(self, target: Target, state: TargetState, tree: DraftTree, attention: TreeAttention) -> Tensor:
        """Return logits ``(bucket rows, vocabulary)``; they hold until anything captured is run again."""
        tree = target.place(state, tree, attention)
        assert tree.packet is not None
        num_rows = tree.packet_rows
        state.cache.reserve(num_rows)
        function = self._function(target, state.cache, attention, num_rows)
        logits, state.features = split_outputs(function(tree.packet))
        return logits

    def capture(self, function: StaticFunction) -> StaticFunction:
        """Return the captured form."""
        return self._capture(function)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the compiled form."""
        return self._compile(function)

    def _function(self, target: Target, cache: TreeCache, attention: TreeAttention, num_rows: int) -> StaticFunction:
        key = (num_rows, id(attention))
        if key in cache.captured:
            return cache.captured[key]

        # weak: what is kept for a target must not keep it
        weak_target = weakref.proxy(target)

        def forward(packet: Tensor) -> tuple[Tensor, ...]:
            return run_packet(weak_target, cache, attention, packet, num_rows)

        if num_rows not in self._buckets:
            self._tell_of_large_tree(num_rows)
            return forward
        cache.captured[key] = self._capture(forward)
        return cache.captured[key]

    def _tell_of_large_tree(self, num_rows: int) -> None:
        if not self._told_of_large_tree:
            self._told_of_large_tree = True
            logger.warning(
                "a tree of %d rows is larger than the largest bucket (%d) and runs without a graph; add it to "
                "runtime.buckets, or lower the builder's budget",
                num_rows,
                self._buckets[-1],
            )
