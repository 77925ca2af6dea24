"""The same in one launch of one program, which holds the whole tree."""

# Triton's decorator and its functions carry no types
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from caddtree.kernels.accept_walk.reference import NUM_HEADER
from caddtree.kernels.launch import Launch

# Triton reads a global only if it is declared constant
_HEADER = tl.constexpr(NUM_HEADER)


@functools.cache
def launch_plan(rows: int, max_path: int, *, is_count_on_device: bool) -> Launch:
    """Return how the kernel is launched for these sizes."""
    padded_rows = max(triton.next_power_of_2(rows), 32)
    sizes = {
        "ROWS": padded_rows,
        "PATH": triton.next_power_of_2(max_path),
        "IS_COUNT_ON_DEVICE": is_count_on_device,
    }
    # up to 256 nodes fit one warp, whose minima need no barrier: every step of the walk waits for one
    return Launch((1,), sizes, max(padded_rows // 256, 1))


def accept_walk(
    choices: Tensor, best: Tensor, tokens: Tensor, parents: Tensor, num_nodes: int | Tensor, max_path: int
) -> Tensor:
    """Return what the reference does; there are at most 1,024 rows."""
    plan = launch_plan(len(choices), max_path, is_count_on_device=isinstance(num_nodes, Tensor))
    packed = torch.empty(NUM_HEADER + 2 * max_path, dtype=torch.int64, device=choices.device)
    # Triton launches on the current device
    with torch.cuda.device_of(choices):  # type: ignore[no-untyped-call]
        _accept_walk_kernel[plan.grid](
            choices.contiguous(), best.contiguous(), tokens.contiguous(), parents.contiguous(),
            num_nodes, packed, len(choices), max_path,
            **plan.constexprs, num_warps=plan.num_warps,
        )  # fmt: skip
    return packed


@triton.jit(do_not_specialize=["num_nodes", "rows", "max_path"])
def _accept_walk_kernel(
    choices_ptr,  # (rows,) int64
    best_ptr,  # (rows,) float32
    tokens_ptr,  # (rows,) int64
    parents_ptr,  # (rows,) int64
    num_nodes,  # integer, or pointer to (1,) int64
    packed_ptr,  # (3 + 2 * max_path,) int64, written
    rows,
    max_path,
    ROWS: tl.constexpr,
    PATH: tl.constexpr,
    IS_COUNT_ON_DEVICE: tl.constexpr,
):
    if IS_COUNT_ON_DEVICE:
        count = tl.load(num_nodes).to(tl.int32)
    else:
        count = num_nodes
    nodes = tl.arange(0, ROWS)  # [ROWS]
    is_node = nodes < tl.minimum(count, rows)
    best = tl.load(best_ptr + nodes, mask=is_node, other=0.0)
    # a NaN compares false
    first_bad = tl.min(tl.where(tl.abs(best) < float("inf"), ROWS, nodes), axis=0)
    first_bad = tl.where(first_bad == ROWS, -1, first_bad)

    parents = tl.load(parents_ptr + nodes, mask=is_node, other=-1)
    is_child = (parents >= 0) & (parents < nodes)
    tokens = tl.load(tokens_ptr + nodes, mask=is_child, other=-1)
    follows = is_child & (tokens == tl.load(choices_ptr + parents, mask=is_child, other=-1))
    # the node each node is reached from, -1 where the target chose otherwise
    above = tl.where(follows, parents, -1).to(tl.int32)  # [ROWS]

    places = tl.arange(0, PATH)  # [PATH]
    path = tl.full([PATH], -1, tl.int32)
    length = 0
    node = 0
    while (node < ROWS) & (length < max_path):
        path = tl.where(places == length, node, path)
        length += 1
        node = tl.min(tl.where(above == node, nodes, ROWS), axis=0)

    tl.store(packed_ptr, length)
    tl.store(packed_ptr + 1, tl.where(first_bad < 0, 1, 0))
    tl.store(packed_ptr + 2, first_bad)
    is_kept = places < max_path
    chosen = tl.load(choices_ptr + path, mask=path >= 0, other=-1)
    tl.store(packed_ptr + _HEADER + places, path, mask=is_kept)
    tl.store(packed_ptr + _HEADER + max_path + places, chosen, mask=is_kept)
