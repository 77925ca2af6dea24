"""The same in one launch for all buffers, whose addresses are read from a table on the device.

Rows are moved as integers, in the largest units that fit them: what they hold plays no part, and a NaN keeps its bits.
"""

# Triton's decorator and its functions carry no types
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import attrs
import torch
import triton
import triton.language as tl
from torch import Tensor

from caddtree.kernels.launch import Launch

_UNITS = {8: tl.int64, 4: tl.int32, 2: tl.int16, 1: tl.int8}
_TILE = 1024
"""Units that one program holds: 32 in each of a warp's threads, at most 64 registers."""


@attrs.frozen(eq=False)
class BufferTable:
    """Where buffers of one form lie, measured in units of ``unit_bytes``."""

    addresses: Tensor  # (buffers,) int64
    num_heads: int
    row_units: int
    head_stride: int
    row_stride: int
    unit_bytes: int


def buffer_table(buffers: Sequence[Tensor]) -> BufferTable:
    """Return the table of buffers that are alike and stay where they are."""
    first = buffers[0]
    addresses = [buffer.data_ptr() for buffer in buffers]
    _, head_stride, row_stride, _ = (stride * first.element_size() for stride in first.stride())
    row_bytes = first.shape[3] * first.element_size()
    # every row of every buffer must begin and end with a whole unit
    unit_bytes = math.gcd(max(_UNITS), row_bytes, head_stride, row_stride, *addresses)
    return BufferTable(
        # host sync: once for the life of the buffers
        torch.tensor(addresses, dtype=torch.int64, device=first.device),
        first.shape[1],
        row_bytes // unit_bytes,
        head_stride // unit_bytes,
        row_stride // unit_bytes,
        unit_bytes,
    )


def move_rows(table: BufferTable, path: Tensor, context_length: int | Tensor) -> None:
    """Do what the reference does. The host waits for nothing and may be captured."""
    plan = launch_plan(
        len(table.addresses),
        table.num_heads,
        table.row_units,
        table.unit_bytes,
        len(path),
        is_context_on_device=isinstance(context_length, Tensor),
    )
    # Triton launches on the current device
    with torch.cuda.device_of(path):  # type: ignore[no-untyped-call]
        _commit_kernel[plan.grid](
            table.addresses,
            path,
            context_length,
            len(path),
            table.row_units,
            table.head_stride,
            table.row_stride,
            num_warps=plan.num_warps,
            **plan.constexprs,
        )


@functools.lru_cache(maxsize=256)
def launch_plan(
    num_buffers: int, num_heads: int, row_units: int, unit_bytes: int, path_length: int, *, is_context_on_device: bool
) -> Launch:
    """Return the launch for a path of this length, padding included."""
    places = triton.next_power_of_2(max(path_length, 1))
    units = min(triton.next_power_of_2(row_units), max(_TILE // places, 1))
    constexprs = {
        "IS_CONTEXT_ON_DEVICE": is_context_on_device,
        "UNIT": _UNITS[unit_bytes],
        "PLACES": places,
        "UNITS": units,
    }
    return Launch((num_buffers, num_heads, triton.cdiv(row_units, units)), constexprs, num_warps=1)


# lengths change from round to round: one compiled kernel for all that are padded alike
@triton.jit(do_not_specialize=["context_length", "path_length"])
def _commit_kernel(
    addresses,  # (buffers,) int64
    path,  # (path_length,) int64
    context_length,  # int, or (1,) where IS_CONTEXT_ON_DEVICE
    path_length,
    row_units,
    head_stride,
    row_stride,
    IS_CONTEXT_ON_DEVICE: tl.constexpr,
    UNIT: tl.constexpr,
    PLACES: tl.constexpr,  # power of two, at least path_length
    UNITS: tl.constexpr,
):
    """Move the rows of one head of one buffer, or a tile of UNITS of each."""
    if IS_CONTEXT_ON_DEVICE:
        first = tl.load(context_length).to(tl.int64)
    else:
        first = context_length.to(tl.int64)
    place = tl.arange(0, PLACES)
    node = tl.load(path + place, mask=place < path_length, other=-1)
    unit = tl.program_id(2) * UNITS + tl.arange(0, UNITS)
    # a row that lies in place already stays untouched
    is_moved = ((node >= 0) & (node != place))[:, None] & (unit < row_units)[None, :]

    buffer = tl.load(addresses + tl.program_id(0)).to(tl.pointer_type(UNIT))
    row_zero = buffer + tl.program_id(1).to(tl.int64) * head_stride + first * row_stride + unit[None, :]
    rows = tl.load(row_zero + node[:, None] * row_stride, mask=is_moved, other=0)  # [PLACES, UNITS]
    # all rows are read before any is written: path [0, 2, 3] would else overwrite row 2
    tl.debug_barrier()
    tl.store(row_zero + place.to(tl.int64)[:, None] * row_stride, rows, mask=is_moved)
