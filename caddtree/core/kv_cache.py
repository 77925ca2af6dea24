"""The target's KV cache: preallocated rows, speculative rows behind the committed ones, commit in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


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
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers in the shape of the first rows."""
        rows = self.owner.capacity
        # zeros, not empty: a NaN in a masked row of a whole-buffer attention would still spread (0 * NaN)
        self.keys = key_states.new_zeros((*key_states.shape[:2], rows, key_states.shape[-1]))
        self.values = value_states.new_zeros((*value_states.shape[:2], rows, value_states.shape[-1]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write rows behind the committed ones; return everything written so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.owner.length
        end = start + key_states.shape[-2]
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def grow(self, capacity: int) -> None:
        """Move the committed rows into larger buffers."""
        if not self.is_initialized:
            return
        length = self.owner.length
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros((*old.shape[:2], capacity, old.shape[-1]))
            new[:, :, :length] = old[:, :, :length]
            setattr(self, name, new)

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
        super().__init__(layers=[_TreeLayer(self) for _ in range(num_layers)])

    def reserve(self, num_rows: int) -> None:
        """Make room for ``num_rows`` rows behind the committed ones; buffers at least double when they grow."""
        needed = self.length + num_rows
        if needed > self.capacity:
            self.capacity = max(needed, 2 * self.capacity)
            for layer in self.layers:
                layer.grow(self.capacity)

    def commit(self, path: Sequence[int]) -> bool:
        """Keep the rows of ``path`` (node indices, root first) and drop the other speculative rows.

        Returns:
            Whether rows had to be moved: a path that is a prefix of the numbering lies in place already.
        """
        moved = any(node != index for index, node in enumerate(path))
        if moved:
            first = next(index for index, node in enumerate(path) if node != index)
            start = self.length + first
            end = self.length + len(path)
            rows = torch.tensor(path[first:], device=self.layers[0].keys.device) + self.length
            for layer in self.layers:
                # the gather copies all rows before any is stored: path [0, 2, 3] would else overwrite row 2
                layer.keys[:, :, start:end] = layer.keys[:, :, rows]
                layer.values[:, :, start:end] = layer.values[:, :, rows]
        self.length += len(path)
        return moved
