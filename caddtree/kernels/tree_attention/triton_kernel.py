"""The same in two launches: partial attention over splits of the keys, then one merge of the partials.

A tree has few query rows and a long committed prefix, so the work is cut along the keys, as in Flash-Decoding. One
launch covers every split: equal shares of the prefix, which need no mask, and the tree's own rows, the tail, which
need the packed visibility bits. The grid follows from shapes alone; the context length is read on the device, so that
one captured launch serves all lengths.
"""

# Triton's decorator and its functions carry no types
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import functools
import math
from typing import Any

import attrs
import torch
import triton
import triton.language as tl
from torch import Tensor

# Triton reads a global only if it is declared constant
_LOG2_E = tl.constexpr(math.log2(math.e))
_MOST_ROW_BYTES = 1024
_MOST_SPLITS = 128
_MOST_COMBINED = 8192
"""Elements of the tile in which the merge holds partials: 64 float32 registers in each of 128 threads."""
_SMS_WITHOUT_DEVICE = 8
"""Stands in for the number of multiprocessors where kernels are interpreted or only compiled."""
_CONTEXT_STEP = 256
"""Capacities are planned for in steps: a buffer that grows by a row does not need a new plan."""


@attrs.frozen
class Tiles:
    """How one program of the split kernel works."""

    block_m: int  # query rows
    block_n: int  # key rows per turn of the loop; at most 64, so that its bits lie in one packed word
    num_warps: int
    num_stages: int
    programs_per_sm: int  # that fit a multiprocessor at once, by registers and shared memory


@attrs.frozen
class LaunchPlan:
    """Everything about the two launches that follows from shapes; the values of tensors play no part."""

    num_splits: int  # of the context
    tail_share: int  # nodes per split of the tail
    grid: tuple[int, int, int]  # row tiles, batch * KV heads, context splits + tail splits
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
    num_partial_rows: int  # over all splits
    combine_grid: tuple[int]
    combine_constexprs: dict[str, Any]
    combine_num_warps: int


def tree_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    visibility: Tensor,
    context_lengths: Tensor,
    *,
    scale: float,
    depths: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """Return what the reference does, up to rounding; see there. The host waits for nothing and may be captured."""
    batch, num_heads, num_nodes, head_dim = query.shape
    capacity = keys.shape[2]
    assert head_dim * query.element_size() <= _MOST_ROW_BYTES, f"a head dimension of {head_dim} is too large"
    assert window is None or depths is not None, "a window counts positions, which need depths"
    assert query.stride(3) == keys.stride(3) == values.stride(3) == visibility.stride(2) == 1, "strided last dimension"
    plan = launch_plan(
        batch=batch,
        num_heads=num_heads,
        num_kv_heads=keys.shape[1],
        num_nodes=num_nodes,
        head_dim=head_dim,
        element_size=query.element_size(),
        max_context=-(-capacity // _CONTEXT_STEP) * _CONTEXT_STEP,
        num_sms=_num_sms(query.get_device()),
        window=window,
        has_softcap=softcap is not None,
        has_sinks=sinks is not None,
        num_splits=num_splits,
        is_hip=_is_hip(),
    )
    out = torch.empty((batch, num_nodes, num_heads, head_dim), dtype=query.dtype, device=query.device)
    # one allocation: all accumulators, then all maxima, then all sums
    partials = torch.empty(plan.num_partial_rows * (head_dim + 2), dtype=torch.float32, device=query.device)
    # layers of one model may lie on several devices, and Triton launches on the current one
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
        _split_kernel[plan.grid](
            query,
            keys,
            values,
            visibility,
            context_lengths,
            depths if window is not None else None,
            partials,
            *query.stride()[:3],
            *keys.stride()[:3],
            *values.stride()[:3],
            *visibility.stride()[:2],
            0 if depths is None else depths.stride(0),
            num_nodes,
            plan.num_splits,
            plan.tail_share,
            scale,
            softcap or 0.0,
            window or 0,
            num_warps=plan.num_warps,
            num_stages=plan.num_stages,
            **plan.constexprs,
        )
        _combine_kernel[plan.combine_grid](
            partials,
            sinks,
            out,
            plan.num_partial_rows,
            num_nodes,
            plan.grid[2],
            num_warps=plan.combine_num_warps,
            **plan.combine_constexprs,
        )
    return out


# the same few shapes come back in every layer of every round
@functools.lru_cache(maxsize=4096)
def launch_plan(
    *,
    batch: int,
    num_heads: int,
    num_kv_heads: int,
    num_nodes: int,
    head_dim: int,
    element_size: int,
    max_context: int,
    num_sms: int,
    window: int | None = None,
    has_softcap: bool = False,
    has_sinks: bool = False,
    num_splits: int | None = None,
    is_hip: bool = False,
) -> LaunchPlan:
    """Return grid, constants and launch options for given sizes.

    Args:
        batch: Sequences.
        num_heads: Query heads, a multiple of ``num_kv_heads``.
        num_kv_heads: Heads of keys and values.
        num_nodes: Rows of a tree.
        head_dim: At most 512 in half precision, 256 in float32.
        element_size: Bytes of one number in queries, keys and values.
        max_context: No sequence has more committed rows.
        num_sms: Multiprocessors of the device.
        window: Sliding window in positions, or None.
        has_softcap: Whether scores are capped.
        has_sinks: Whether heads have sinks.
        num_splits: Shares of the context; None chooses.
        is_hip: Whether the device is one of AMD's.
    """
    group = num_heads // num_kv_heads
    rows = group * num_nodes
    tiles = choose_tiles(rows, head_dim, element_size, is_hip=is_hip)
    num_row_tiles = -(-rows // tiles.block_m)
    num_tiles, num_slots = num_row_tiles * batch * num_kv_heads, num_sms * tiles.programs_per_sm
    if num_splits is None:
        seen = max_context if window is None else min(max_context, window)
        num_splits = choose_splits(num_tiles, num_slots, seen, block_m=tiles.block_m, block_n=tiles.block_n)
    # a tail is split where it is long and its tiles leave multiprocessors idle
    num_tail_splits = max(1, min(num_nodes // 256, num_slots // num_tiles))
    num_all_splits = num_splits + num_tail_splits
    block_d = max(16, _next_power_of_two(head_dim))
    block_s = min(_next_power_of_two(num_all_splits), max(1, _MOST_COMBINED // block_d))
    return LaunchPlan(
        num_splits=num_splits,
        tail_share=-(-num_nodes // (num_tail_splits * tiles.block_n)) * tiles.block_n,
        grid=(num_row_tiles, batch * num_kv_heads, num_all_splits),
        constexprs={
            "NUM_KV_HEADS": num_kv_heads,
            "GROUP": group,
            "HEAD_DIM": head_dim,
            "BLOCK_M": tiles.block_m,
            "BLOCK_N": tiles.block_n,
            "BLOCK_D": block_d,
            "MASKED_STAGES": _masked_stages(tiles, element_size, window is not None, is_hip),
            "HAS_WINDOW": window is not None,
            "HAS_SOFTCAP": has_softcap,
        },
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        num_partial_rows=num_all_splits * batch * num_kv_heads * rows,
        combine_grid=(batch * num_kv_heads * rows,),
        combine_constexprs={
            "NUM_KV_HEADS": num_kv_heads,
            "GROUP": group,
            "HEAD_DIM": head_dim,
            "BLOCK_D": block_d,
            "BLOCK_S": block_s,
            "HAS_SINKS": has_sinks,
        },
        combine_num_warps=min(4, max(1, block_s * block_d // 1024)),
    )


def choose_tiles(rows_per_kv_head: int, head_dim: int, element_size: int, *, is_hip: bool = False) -> Tiles:
    """Return tile sizes and launch options for so many query rows of one KV head.

    Sizes are the largest that spill no vector registers at head dimension 128 on sm_80, sm_90, sm_100 and gfx942,
    within 99 KiB of shared memory (133 where Hopper and Blackwell keep queries there, 64 on gfx942).
    """
    tiles = _float32_tiles(rows_per_kv_head, head_dim) if element_size > 2 else _half_tiles(rows_per_kv_head, head_dim)
    # the same two blocks of keys and values lie in shared memory: AMD's pipeline counts the registers as a stage
    return attrs.evolve(tiles, num_stages=min(tiles.num_stages, 2)) if is_hip else tiles


def _half_tiles(rows: int, head_dim: int) -> Tiles:
    if head_dim > 256:
        return Tiles(block_m=16, block_n=32, num_warps=4, num_stages=2, programs_per_sm=2)
    # few rows are bound by memory: the next block has to be on its way while one is worked on, hence three stages
    block_n = 64 if head_dim <= 128 else 32
    if rows <= 16:
        return Tiles(block_m=16, block_n=block_n, num_warps=4, num_stages=3, programs_per_sm=2)
    if rows <= 32:
        return Tiles(block_m=32, block_n=block_n, num_warps=4, num_stages=3, programs_per_sm=2)
    if head_dim > 128:
        return Tiles(block_m=64, block_n=block_n, num_warps=8, num_stages=3, programs_per_sm=1)
    if rows <= 64:
        return Tiles(block_m=64, block_n=block_n, num_warps=4, num_stages=3, programs_per_sm=2)
    # many rows read every key once per tile, from the L2 cache: with 64 rows that would be what bounds an H100
    return Tiles(block_m=128, block_n=block_n, num_warps=8, num_stages=3, programs_per_sm=2 if head_dim <= 64 else 1)


def _float32_tiles(rows: int, head_dim: int) -> Tiles:
    # no tensor cores: whole operands pass through registers, and 32 x 32 blocks spill
    if rows > 16 and head_dim <= 256:
        return Tiles(block_m=32, block_n=16, num_warps=8, num_stages=2, programs_per_sm=2)
    return Tiles(block_m=16, block_n=32 if head_dim <= 128 else 16, num_warps=8, num_stages=2, programs_per_sm=2)


def _masked_stages(tiles: Tiles, element_size: int, has_window: bool, is_hip: bool) -> int:
    # without a window few rows meet only one masked block: a pipeline would cost registers and win nothing; AMD's
    # compiler spills with one, and NVIDIA's without one in float32
    is_short = not has_window and tiles.block_m <= 32 and element_size <= 2
    return 1 if is_short or is_hip else tiles.num_stages


def choose_splits(num_tiles: int, num_slots: int, max_context: int, *, block_m: int, block_n: int) -> int:
    """Return into how many shares to cut the context, the fewest of the fastest.

    Programs run in rounds of ``num_slots``, and each costs its share of the keys and its partials, which are written
    and read again: as many bytes as two keys and values per query row.

    Args:
        num_tiles: Programs for every share: row tiles times KV heads times sequences.
        num_slots: Programs that the device runs at once.
        max_context: Committed rows, at most.
        block_m: Query rows of a program.
        block_n: Key rows that a program takes at once.
    """
    # below that, partials and the start of a program cost half of what the keys do
    least_share = max(128, 4 * block_m)
    most = max(1, min(max_context // least_share, _MOST_SPLITS))

    def cost(num_splits: int) -> int:
        share = -(-max_context // (num_splits * block_n)) * block_n
        return -(-num_tiles * num_splits // num_slots) * (share + least_share // 2)

    return min(range(1, most + 1), key=cost)


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


@functools.cache
def _num_sms(device_index: int) -> int:
    if device_index < 0:
        return _SMS_WITHOUT_DEVICE
    return int(torch.cuda.get_device_properties(device_index).multi_processor_count)


def _is_hip() -> bool:
    # interpreted kernels have no driver
    return isinstance(_split_kernel, triton.JITFunction) and _is_hip_driver(triton.runtime.driver.active)


@functools.cache
def _is_hip_driver(driver: Any) -> bool:
    return bool(driver.get_current_target().backend == "hip")


# sizes that change from call to call, and strides of what is read word by word, deserve no kernel of their own
@triton.jit(
    do_not_specialize=[
        "bits_batch_stride",
        "bits_node_stride",
        "depth_batch_stride",
        "num_nodes",
        "num_splits",
        "tail_share",
        "window",
    ]
)
def _split_kernel(
    query,
    keys,
    values,
    visibility,
    context_lengths,
    depths,
    partials,
    query_batch_stride,
    query_head_stride,
    query_node_stride,
    key_batch_stride,
    key_head_stride,
    key_row_stride,
    value_batch_stride,
    value_head_stride,
    value_row_stride,
    bits_batch_stride,
    bits_node_stride,
    depth_batch_stride,
    num_nodes,
    num_splits,
    tail_share,
    scale,
    softcap,
    window,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MASKED_STAGES: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
):
    """Write the partial attention of one row tile over one split of one sequence's keys."""
    tile, sequence_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence = (sequence_head // NUM_KV_HEADS).to(tl.int64)
    kv_head = (sequence_head % NUM_KV_HEADS).to(tl.int64)
    context = tl.load(context_lengths + sequence).to(tl.int32)

    # rows are node-major: a tile then holds consecutive nodes, and since ancestors come first, no node of the tile
    # sees beyond its last one; head-major tiles would all have to read the whole tail
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    # rows behind the last repeat it and are not stored: masks on every load would cost more
    clamped = tl.minimum(row, num_nodes * GROUP - 1)
    node = (clamped // GROUP).to(tl.int64)  # [BLOCK_M]
    query += sequence * query_batch_stride + kv_head * GROUP * query_head_stride
    query_offset = node * query_node_stride + (clamped % GROUP).to(tl.int64) * query_head_stride
    query_tile = _load_rows(query, query_offset, HEAD_DIM, BLOCK_D)  # [BLOCK_M, BLOCK_D]

    last_node = tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // GROUP, num_nodes - 1)
    start, full_end, end = _columns(split, context, last_node, num_splits, tail_share, window, BLOCK_N, HAS_WINDOW)
    # columns count from the first row of the buffer in the context, from the root's row in the tail
    is_tail = split >= num_splits
    first_row = tl.where(is_tail, context, 0).to(tl.int64)
    keys += sequence * key_batch_stride + kv_head * key_head_stride + first_row * key_row_stride
    values += sequence * value_batch_stride + kv_head * value_head_stride + first_row * value_row_stride
    if HAS_SOFTCAP:
        input_scale, output_scale = scale / softcap, softcap * _LOG2_E
    else:
        input_scale, output_scale = 1.0, scale * _LOG2_E

    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    for block in tl.range(start, full_end, BLOCK_N):
        key_row = (block + tl.arange(0, BLOCK_N)).to(tl.int64)
        key_tile = _load_rows(keys, key_row * key_row_stride, HEAD_DIM, BLOCK_D)  # [BLOCK_N, BLOCK_D]
        value_tile = _load_rows(values, key_row * value_row_stride, HEAD_DIM, BLOCK_D)
        scores = _scores(query_tile, key_tile, input_scale, HAS_SOFTCAP)
        total, row_max, row_sum = _accumulate(total, row_max, row_sum, scores, value_tile, output_scale)

    bits = visibility + sequence * bits_batch_stride + node * bits_node_stride
    last_unseen = 0
    if HAS_WINDOW:
        depths += sequence * depth_batch_stride
        # depths count positions from the root's, so committed rows have negative ones
        last_unseen = tl.load(depths + node).to(tl.int32) - window  # [BLOCK_M]
    for block in tl.range(full_end, end, BLOCK_N, num_stages=MASKED_STAGES):
        # rows beyond the last may hold anything, NaN too, and 0 * NaN would spread: the last is read again instead
        key_row = tl.minimum(block + tl.arange(0, BLOCK_N), end - 1).to(tl.int64)
        key_tile = _load_rows(keys, key_row * key_row_stride, HEAD_DIM, BLOCK_D)
        value_tile = _load_rows(values, key_row * value_row_stride, HEAD_DIM, BLOCK_D)
        scores = _scores(query_tile, key_tile, input_scale, HAS_SOFTCAP)
        seen = _seen(bits, depths, block, end, context, is_tail, last_unseen, BLOCK_N, HAS_WINDOW)
        scores = tl.where(seen, scores, float("-inf"))
        total, row_max, row_sum = _accumulate(total, row_max, row_sum, scores, value_tile, output_scale)

    # partials are [splits, batch * KV heads, rows]: all accumulators, then all maxima, then all sums
    num_rows = num_nodes * GROUP
    num_partials = tl.num_programs(2).to(tl.int64) * tl.num_programs(1) * num_rows
    partial = (split.to(tl.int64) * tl.num_programs(1) + sequence_head) * num_rows + row
    maxima = partials + num_partials * HEAD_DIM
    tl.store(maxima + partial, row_max, mask=row < num_rows)
    tl.store(maxima + num_partials + partial, row_sum, mask=row < num_rows)
    # a row that saw nothing here is told by its maximum; its accumulator is never read
    is_stored = (row < num_rows) & (row_max > float("-inf"))
    dim = tl.arange(0, BLOCK_D)
    total_at = partials + (partial * HEAD_DIM)[:, None] + dim[None, :]
    tl.store(total_at, total, mask=is_stored[:, None] & (dim < HEAD_DIM)[None, :])


@triton.jit
def _columns(
    split,
    context,
    last_node,
    num_splits,
    tail_share,
    window,
    BLOCK_N: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """Return the first column of a split, the first that needs a mask, and the first behind the split."""
    first = 0
    if HAS_WINDOW:
        # the root has the smallest position and so the window that begins first
        first = tl.maximum(context - window + 1, 0)
    if split < num_splits:
        share = tl.cdiv(tl.cdiv(context - first, num_splits), BLOCK_N) * BLOCK_N
        start = first + split * share
        end = tl.minimum(start + share, context)
    else:
        start = (split - num_splits) * tail_share
        end = tl.minimum(start + tail_share, last_node + 1)
    full_end = start
    if not HAS_WINDOW and split < num_splits:
        full_end = start + tl.maximum(end - start, 0) // BLOCK_N * BLOCK_N
    return start, full_end, end


@triton.jit
def _load_rows(base, offset, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return the rows that begin at the given int64 offsets, with zeros behind the head dimension."""
    dim = tl.arange(0, BLOCK_D)
    if HEAD_DIM == BLOCK_D:
        return tl.load(base + offset[:, None] + dim[None, :])
    else:
        return tl.load(base + offset[:, None] + dim[None, :], mask=(dim < HEAD_DIM)[None, :], other=0.0)


@triton.jit
def _seen(
    bits,
    depths,
    block,
    end,
    context,
    is_tail,
    last_unseen,
    BLOCK_N: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """Return ``[BLOCK_M, BLOCK_N]``, which columns from ``block`` on each row sees."""
    column = tl.arange(0, BLOCK_N)
    # the context has no bits to load: -1 sets them all
    word = tl.load(bits + block // 64, mask=is_tail, other=-1) >> (block % 64)  # [BLOCK_M]
    num_left = tl.minimum(end - block, 63).to(tl.int64)
    word &= tl.where(end - block < 64, (tl.full([], 1, tl.int64) << num_left) - 1, -1)
    # 64-bit operations on the whole tile would cost registers
    half = tl.where((column < 32)[None, :], word.to(tl.int32)[:, None], (word >> 32).to(tl.int32)[:, None])
    seen = (half & (1 << (column % 32))[None, :]) != 0
    if HAS_WINDOW:
        depth = tl.load(depths + block + column, mask=is_tail & (block + column < end), other=0).to(tl.int32)
        depth = tl.where(is_tail, depth, block + column - context)
        seen &= depth[None, :] > last_unseen[:, None]
    return seen


@triton.jit
def _scores(query_tile, key_tile, input_scale, HAS_SOFTCAP: tl.constexpr):
    """Return the products of all rows and keys, capped to -1 .. 1 if a cap is asked for."""
    # ieee: float32 stays float32, TF32 would flip tokens; no effect on half precision
    scores = tl.dot(query_tile, tl.trans(key_tile), input_precision="ieee")  # [BLOCK_M, BLOCK_N]
    if HAS_SOFTCAP:
        # tanh; an exponential that overflows leaves 1
        scores = 1.0 - 2.0 / (1.0 + tl.exp2(scores * (2.0 * input_scale * _LOG2_E)))
    return scores


@triton.jit
def _accumulate(total, row_max, row_sum, scores, value_tile, scale):
    """Return total, maximum and sum with one more block; all in powers of two, ``scale`` includes log2(e)."""
    new_max = tl.maximum(row_max, tl.max(scores, 1) * scale)
    # a row that has seen nothing yet would compute inf - inf
    safe_max = tl.where(new_max == float("-inf"), 0.0, new_max)
    weights = tl.exp2(scores * scale - safe_max[:, None])  # [BLOCK_M, BLOCK_N]
    shrink = tl.exp2(row_max - safe_max)
    row_sum = row_sum * shrink + tl.sum(weights, 1)
    total = tl.dot(weights.to(value_tile.dtype), value_tile, total * shrink[:, None], input_precision="ieee")
    return total, new_max, row_sum


@triton.jit(do_not_specialize=["num_partials", "num_nodes", "num_splits"])
def _combine_kernel(
    partials,
    sinks,
    out,
    num_partials,
    num_nodes,
    num_splits,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    """Write the attention of one row: its partials of all splits, merged."""
    row = tl.program_id(0).to(tl.int64)
    num_rows = num_nodes * GROUP
    sequence_head = row // num_rows
    node = row % num_rows // GROUP
    head = sequence_head % NUM_KV_HEADS * GROUP + row % GROUP
    dim = tl.arange(0, BLOCK_D)
    dim_exists = dim < HEAD_DIM
    maxima = partials + num_partials.to(tl.int64) * HEAD_DIM
    sums = maxima + num_partials

    total = tl.zeros([BLOCK_D], tl.float32)
    row_max, row_sum = float("-inf"), 0.0
    if HAS_SINKS:
        # one more key with a value of zero
        row_max, row_sum = tl.load(sinks + head).to(tl.float32) * _LOG2_E, 1.0
    for first in tl.range(0, num_splits, BLOCK_S):
        split = first + tl.arange(0, BLOCK_S)
        partial = split.to(tl.int64) * tl.num_programs(0) + row
        split_max = tl.load(maxima + partial, mask=split < num_splits, other=float("-inf"))  # [BLOCK_S]
        is_seen = split_max > float("-inf")
        split_sum = tl.load(sums + partial, mask=is_seen, other=0.0)
        tile = tl.load(
            partials + (partial * HEAD_DIM)[:, None] + dim[None, :],
            mask=is_seen[:, None] & dim_exists[None, :],
            other=0.0,
        )  # [BLOCK_S, BLOCK_D]
        new_max = tl.maximum(row_max, tl.max(split_max, 0))
        safe_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        weights = tl.exp2(split_max - safe_max)
        shrink = tl.exp2(row_max - safe_max)
        row_sum = row_sum * shrink + tl.sum(weights * split_sum, 0)
        total = total * shrink + tl.sum(weights[:, None] * tile, 0)
        row_max = new_max
    sequence = sequence_head // NUM_KV_HEADS
    out += ((sequence * num_nodes + node) * NUM_KV_HEADS * GROUP + head) * HEAD_DIM
    tl.store(out + dim, (total / row_sum).to(out.dtype.element_ty), mask=dim_exists)
