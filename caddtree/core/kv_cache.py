"""The target's KV cache: preallocated rows, speculative rows behind the committed ones, commit in place."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from caddtree.core.runner import StaticFunction
from caddtree.kernels import availability
from caddtree.kernels.commit_rows import RowMover


class _TreeLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer; rows beyond the owner's length are speculative or unused.

    Every row is kept in sliding-window layers too: the window is in the mask, so commit and rollback are the
    same in every layer.
    """

    # False: Transformers then builds no mask of its own for a one-token call
    is_compileable = False
    is_croppable = True
    is_sliding = False

    def __init__(self, owner: TreeCache) -> None:
        super().__init__()
        # weak: a cycle would keep the buffers of an ended sequence until the garbage collector comes by
        self.owner: TreeCache = weakref.proxy(owner)  # type: ignore[assignment]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers in the shape of the first rows."""
        rows = self.owner.capacity
        # zeros, not empty: a NaN in a masked row of a whole-buffer attention would still spread (0 * NaN)
        self.keys = key_states.new_zeros((*key_states.shape[:2], rows, key_states.shape[-1]))
        self.values = value_states.new_zeros((*value_states.shape[:2], rows, value_states.shape[-1]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new rows; return everything written so far, or with given slots the whole buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.owner.slots is not None:
            self.keys.index_copy_(2, self.owner.slots, key_states)
            self.values.index_copy_(2, self.owner.slots, value_states)
            return self.keys, self.values
        start = self.owner.length
        end = start + key_states.shape[-2]
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def grow(self, capacity: int) -> None:
        """Move the committed rows into larger buffers."""
        if not self.is_initialized or self.keys.shape[2] >= capacity:
            return
        length = self.owner.length
        grown = [
            buffer.new_zeros((*buffer.shape[:2], capacity, buffer.shape[-1])) for buffer in (self.keys, self.values)
        ]
        for new, old in zip(grown, (self.keys, self.values), strict=True):
            new[:, :, :length] = old[:, :, :length]
        self.keys, self.values = grown

    def get_seq_length(self) -> int:
        """Return the committed rows."""
        return self.owner.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the rows that attention sees and the offset of the first."""
        return self.owner.length + query_length, 0

    def get_max_length(self) -> int:
        """Return the rows that fit."""
        return self.owner.capacity

    def get_max_cache_shape(self) -> int:
        """Return the rows that fit, under the name of older Transformers versions."""
        return self.owner.capacity


class TreeCache(Cache):  # type: ignore[misc]
    """One sequence's keys and values: ``length`` committed rows in buffers of ``capacity`` rows."""

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.slots: Tensor | None = None
        """``(rows,)`` int64 while a forward of fixed shapes runs: where its rows go. Else: behind what is there."""
        self.captured: dict[tuple[int, int], StaticFunction] = {}
        """What a runner has captured over these very buffers, by rows and attention; gone when they grow."""
        self._num_moved = 0
        self._mover: RowMover | None = None
        super().__init__(layers=[_TreeLayer(self) for _ in range(num_layers)])

    def reserve(self, num_rows: int) -> None:
        """Make room for ``num_rows`` rows behind the committed ones; buffers at least double when they grow."""
        needed = self.length + num_rows
        if needed > self.capacity:
            capacity = max(needed, 2 * self.capacity)
            # first: when memory runs out on the way, nothing may be replayed over buffers that are gone
            self.discard()
            for layer in self.layers:
                # a layer that has grown before memory ran out is not grown again
                layer.grow(capacity)
            self.capacity = capacity

    def discard(self) -> None:
        """Drop what was captured over the buffers: it refers to them, and would keep their memory for a while."""
        self.captured.clear()
        self._mover = None

    @torch.inference_mode()
    def clear(self) -> None:
        """Forget the sequence; the buffers stay where they are."""
        self.length, self._num_moved = 0, 0
        for layer in self.layers:
            if layer.is_initialized:
                # a masked row that holds NaN would still spread under a dense mask (0 * NaN)
                layer.keys.zero_()
                layer.values.zero_()

    def commit(self, path: Sequence[int], rows: Tensor | None = None) -> bool:
        """Keep the rows of ``path`` (node indices, root first) and drop the other speculative rows.

        When memory runs out on the way, the same call again goes on where it stopped.

        Args:
            path: Strictly increasing, 0 first.
            rows: The same as ``(len(path),)`` int64 on the device, where the caller has it already.

        Returns:
            Whether rows had to be moved: a path that is a prefix of the numbering lies in place already.
        """
        moved = not is_prefix(path)
        if moved:
            keys = self.layers[0].keys
            rows = torch.tensor(path, device=keys.device) if rows is None else rows
            if availability.takes_triton(keys) and (self._mover is not None or self._are_alike()):
                self._mover = self._mover or RowMover(self._buffers())
                self._mover(rows, self.length)
            else:
                self._move(path, rows)
        self.length += len(path)
        return moved

    def _buffers(self) -> list[Tensor]:
        return [buffer for layer in self.layers for buffer in (layer.keys, layer.values)]

    def _are_alike(self) -> bool:
        """Whether one launch can serve all layers: some models mix head sizes, or lie on several devices."""
        return len({(buffer.shape, buffer.stride(), buffer.dtype, buffer.device) for buffer in self._buffers()}) == 1

    def _move(self, path: Sequence[int], rows: Tensor) -> None:
        first = next(index for index, node in enumerate(path) if node != index)
        start, end = self.length + first, self.length + len(path)
        rows = rows[first:] + self.length
        for buffer in self._buffers()[self._num_moved :]:
            # the gather copies all rows before any is stored: path [0, 2, 3] would else overwrite row 2
            buffer[:, :, start:end] = buffer[:, :, rows]
            self._num_moved += 1
        self._num_moved = 0


def is_prefix(path: Sequence[int]) -> bool:
    """Tell whether a strictly increasing path is 0, 1, 2, ...: its rows lie in place already."""
    return path[-1] == len(path) - 1
