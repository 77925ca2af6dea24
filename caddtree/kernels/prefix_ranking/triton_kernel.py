"""The same in one warp of one program: the waiting prefixes are kept in registers, and every pop is two minima.

Whenever a prefix is taken, only its next sibling takes its place, so the prefixes that wait are at most one per parent.
*Slot* p holds the one whose parent is node p, and node p's own weight beside it. The next node is the slot with
the least (cost, depth, parent), a cost being minus a log-weight, whose bits as an integer order as the numbers do. So
nothing that the program writes is ever read back, and no step depends on another thread's memory.

Best-first is exact as it stands and takes ``max_nodes`` short steps; level by level would take a sort per depth,
through memory that threads share. A step is about 130 instructions at 128 nodes (sm_90), 180 at 256 and 480 at 1024.
"""

# Triton's decorator and its functions carry no types
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from caddtree.kernels.launch import Launch
from caddtree.kernels.prefix_ranking import reference

# Triton reads a global only if it is declared constant
_HEADER = tl.constexpr(reference.HEADER)
_FIELDS = tl.constexpr(reference.FIELDS)
_LARGEST_LOG_PROB = tl.constexpr(reference.LARGEST_LOG_PROB)
_EMPTY = tl.constexpr(0x7FFFFFFF)
"""Cost bits of a slot in which nothing waits: above those of infinity."""
_DEPTH_SHIFT = tl.constexpr(20)
_PARENT_SHIFT = tl.constexpr(10)
"""A place is ``depth << 20 | parent << 10 | rank``: places order as ties are broken."""
_ROOTS_CHILD = tl.constexpr(1 << 20)
_MASK = tl.constexpr(1023)
_TILE = 512
"""Numbers examined at once: 16 registers of each thread."""
_WARP = 32


def rank_prefixes(tokens: Tensor, log_probs: Tensor, max_nodes: int, stop_tokens: Tensor | None) -> Tensor:
    """Return what the reference does. The host waits for nothing and may be captured."""
    depth, width = log_probs.shape
    assert width == 1 or tokens.stride(1) == log_probs.stride(1) == 1, "strided rows"
    num_stops = 0 if stop_tokens is None else len(stop_tokens)
    plan = launch_plan(depth, width, max_nodes, num_stops)
    packed = torch.empty(reference.packed_size(max_nodes), dtype=torch.int32, device=log_probs.device)
    # Triton launches on the current device
    with torch.cuda.device_of(log_probs):  # type: ignore[no-untyped-call]
        _rank_kernel[plan.grid](
            tokens,
            log_probs,
            stop_tokens if num_stops else None,
            packed,
            tokens.stride(0),
            log_probs.stride(0),
            depth,
            width,
            num_stops,
            max_nodes,
            num_warps=plan.num_warps,
            **plan.constexprs,
        )
    return packed


@functools.lru_cache(maxsize=256)
def launch_plan(depth: int, width: int, max_nodes: int, num_stops: int) -> Launch:
    """Return the launch for a block of this depth and width."""
    columns = triton.next_power_of_2(max(width, 1))
    constexprs = {
        # a warp of them at least: a minimum is then one instruction across the warp
        "SLOTS": max(triton.next_power_of_2(max_nodes), _WARP),
        "ROWS": min(triton.next_power_of_2(max(depth, 1)), max(_TILE // columns, 1)),
        "COLUMNS": columns,
        "STOPS": max(triton.next_power_of_2(num_stops), _WARP) if num_stops else 0,
    }
    return Launch((1,), constexprs, num_warps=1)


# sizes change from request to request: one compiled kernel for all of them
@triton.jit(do_not_specialize=["depth", "width", "num_stops", "max_nodes"])
def _rank_kernel(
    tokens,  # (depth, width) int64
    log_probs,  # (depth, width) float32
    stop_tokens,  # (num_stops,) int64, None if STOPS is 0
    packed,  # (HEADER + FIELDS * max_nodes,) int32
    token_stride,
    log_prob_stride,
    depth,
    width,
    num_stops,
    max_nodes,
    SLOTS: tl.constexpr,  # power of two, at least max_nodes: the last node needs no slot
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STOPS: tl.constexpr,
):
    """Write the whole of ``packed``."""
    num_usable, is_usable, is_ordered = _examine(log_probs, log_prob_stride, depth, width, ROWS, COLUMNS)
    num_usable = tl.where(is_ordered, num_usable, 0)
    slots = tl.arange(0, SLOTS)
    if STOPS:
        stop = tl.arange(0, STOPS)
        # every token is at least 0
        stops = tl.load(stop_tokens + stop, mask=stop < num_stops, other=-1)

    best = _cost_bits(0.0, tl.load(log_probs, mask=num_usable > 0, other=float("-inf")))
    heads = tl.where(slots == 0, best, _EMPTY)  # [SLOTS] cost bits of what waits
    places = tl.where(slots == 0, _ROOTS_CHILD, 0)  # [SLOTS]
    costs = tl.zeros([SLOTS], tl.float32)  # [SLOTS] of the node whose children wait there
    count = 0
    binds = 0
    spine_end = 0  # number of the last node on the spine
    num_spine = 0
    node = packed + _HEADER
    while (best < _EMPTY) & (count < max_nodes):
        place = tl.min(tl.where(heads == best, places, _EMPTY))
        node_depth = place >> _DEPTH_SHIFT
        parent = (place >> _PARENT_SHIFT) & _MASK
        rank = place & _MASK
        row = (node_depth - 1).to(tl.int64)
        candidate = log_probs + row * log_prob_stride + rank
        sibling = tl.load(candidate + 1, mask=rank + 1 < width, other=float("-inf"))
        child = tl.load(log_probs + (row + 1) * log_prob_stride, mask=node_depth < num_usable, other=float("-inf"))
        token = tl.load(tokens + row * token_stride + rank)
        cost = best.to(tl.float32, bitcast=True)
        count += 1
        is_spine = (rank == 0) & (parent == spine_end)
        spine_end = tl.where(is_spine, count, spine_end)
        num_spine += is_spine.to(tl.int32)
        spine = tl.where(is_spine, num_spine, -num_spine)
        _store_node(node, max_nodes, parent, node_depth, rank, token, cost, spine)
        node += 1
        binds |= ((rank + 1 == width) & (count < max_nodes)).to(tl.int32)
        if STOPS:
            is_stop = tl.max((stops == token).to(tl.int32)) > 0
            child = tl.where(is_stop, float("-inf"), child)

        is_taken = slots == parent
        heads = tl.where(is_taken, _cost_bits(costs, sibling), heads)
        places = tl.where(is_taken, place + 1, places)
        is_new = slots == count
        heads = tl.where(is_new, _cost_bits(cost, child), heads)
        places = tl.where(is_new, ((node_depth + 1) << _DEPTH_SHIFT) | (count << _PARENT_SHIFT), places)
        costs = tl.where(is_new, cost, costs)
        best = tl.min(heads)

    tl.store(packed, count)
    tl.store(packed + 1, is_usable)
    tl.store(packed + 2, tl.where(width < max_nodes, binds, 0))
    tl.store(packed + 3, is_ordered.to(tl.int32))
    is_behind = (slots >= count) & (slots < max_nodes)
    for field in tl.static_range(_FIELDS):
        tl.store(packed + _HEADER + field * max_nodes + slots, 0, mask=is_behind)


@triton.jit
def _store_node(node, max_nodes, parent, depth, rank, token, cost, spine):
    tl.store(node, parent)
    tl.store(node + max_nodes, depth)
    tl.store(node + 2 * max_nodes, rank)
    tl.store(node + 3 * max_nodes, token.to(tl.int32))
    # a difference, not a change of sign: the weight of a certain prefix is +0
    tl.store(node + 4 * max_nodes, (0.0 - cost).to(tl.int32, bitcast=True))
    tl.store(node + 5 * max_nodes, spine)


@triton.jit
def _cost_bits(cost, log_prob):
    """Return the cost one candidate deeper as an integer, or EMPTY where there is no candidate."""
    # -0 where the candidate is certain: +0 stays +0, so a cost has no sign and its bits order as the numbers do
    deeper = cost + tl.maximum(-log_prob, 0.0)
    return deeper.to(tl.int32, bitcast=True) | tl.where(log_prob > float("-inf"), 0, _EMPTY)


@triton.jit
def _examine(log_probs, stride, depth, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return how many rows are usable, whether all numbers are, and whether the usable rows are ordered."""
    column = tl.arange(0, COLUMNS)
    num_usable = depth
    first_disordered = depth
    is_usable = 1
    for start in range(0, depth, ROWS):
        row = start + tl.arange(0, ROWS)
        values_at = log_probs + row.to(tl.int64)[:, None] * stride + column[None, :]  # [ROWS, COLUMNS]
        is_row = (row < depth)[:, None]
        values = tl.load(values_at, mask=is_row & (column < width)[None, :], other=float("-inf"))
        following = tl.load(values_at + 1, mask=is_row & (column + 1 < width)[None, :], other=float("-inf"))
        # a NaN compares false
        is_number = (values <= _LARGEST_LOG_PROB).to(tl.int32)
        has_candidate = tl.max((values > float("-inf")).to(tl.int32), axis=1)
        row_ends_block = (tl.min(is_number, axis=1) & has_candidate) == 0
        num_usable = tl.minimum(num_usable, tl.min(tl.where(row_ends_block, row, depth)))
        is_usable &= tl.min(tl.min(is_number, axis=1))
        rises = tl.minimum(following, 0.0) > tl.minimum(values, 0.0)
        first_disordered = tl.minimum(first_disordered, tl.min(tl.min(tl.where(rises, row[:, None], depth), axis=1)))
    return num_usable, is_usable, first_disordered >= num_usable
