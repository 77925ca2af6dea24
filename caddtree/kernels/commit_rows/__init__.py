"""Moving the KV rows of an accepted path to where committed rows lie, in the buffers of all layers at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caddtree.kernels import availability
from caddtree.kernels.commit_rows import reference

__all__ = ["RowMover", "commit_rows"]


def commit_rows(buffers: Sequence[Tensor], path: Tensor, context_length: int | Tensor) -> None:
    """Move rows in ``buffers`` once; who moves every round keeps a :class:`RowMover`, whose doing this is."""
    RowMover(buffers)(path, context_length)


class RowMover:
    """Moves the rows of accepted paths within the same buffers, round after round.

    A device is told once where the buffers lie: a mover belongs to these tensors, and buffers that were replaced, as
    those of a growing cache are, need a new one.

    Args:
        buffers: Keys and values of all layers, each ``(1, kv_heads, capacity, head_dim)``, alike in shape, strides,
            type and device.

    Raises:
        ValueError: If one buffer differs from the first or is not of that form.
    """

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self._buffers = tuple(buffers)
        _check(self._buffers)
        self._table = None
        if self._buffers and availability.takes_triton(self._buffers[0]):
            from caddtree.kernels.commit_rows import triton_kernel

            self._table = triton_kernel.buffer_table(self._buffers)

    def __call__(self, path: Tensor, context_length: int | Tensor) -> None:
        """Move row ``context_length + path[i]`` to ``context_length + i`` for every ``i``, in place.

        Args:
            path: ``(path_len,)`` int64 on the buffers' device, node indices, strictly increasing; -1 is padding.
            context_length: Committed rows, an int or ``(1,)`` int32 or int64.
        """
        if self._table is None:
            reference.commit_rows(self._buffers, path, context_length)
            return
        from caddtree.kernels.commit_rows import triton_kernel

        triton_kernel.move_rows(self._table, path, context_length)


def _check(buffers: Sequence[Tensor]) -> None:
    for place, buffer in enumerate(buffers):
        if buffer.ndim != 4 or buffer.shape[0] != 1 or buffer.stride(3) != 1:
            raise ValueError(
                f"buffer {place} must be (1, kv_heads, capacity, head_dim) with whole rows in memory, "
                f"found shape {tuple(buffer.shape)} and strides {buffer.stride()}"
            )
        if _form(buffer) != _form(buffers[0]):
            raise ValueError(f"buffers must be alike, found {_form(buffer)} at {place} and {_form(buffers[0])} at 0")


def _form(buffer: Tensor) -> tuple[object, ...]:
    return tuple(buffer.shape), buffer.stride(), buffer.dtype, buffer.device
