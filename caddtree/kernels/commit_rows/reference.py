"""Moving KV rows by plain indexing, one buffer after the other: the definition."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def commit_rows(buffers: Sequence[Tensor], path: Tensor, context_length: int | Tensor) -> None:
    """Move row ``context_length + path[i]`` to ``context_length + i`` in every buffer, where ``path[i]`` is not -1."""
    # host sync: how many rows there are decides shapes
    places = (path >= 0).nonzero().ravel()
    sources, targets = context_length + path[places], context_length + places
    for buffer in buffers:
        # the gather copies all rows before any is stored: path [0, 2, 3] would else overwrite row 2
        buffer[:, :, targets] = buffer[:, :, sources]
