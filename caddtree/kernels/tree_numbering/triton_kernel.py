"""The same in one launch of independent programs, each for a warp's worth of nodes.

The ranked prefixes say of every node how many nodes of the arg-max chain come before it, so its row is a formula. A
program follows the ancestors of its nodes through them alone: nothing that one program writes is read by another.
"""

# Triton's decorator and its functions carry no types
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from caddtree.kernels import prefix_ranking
from caddtree.kernels.launch import Launch
from caddtree.kernels.tree_numbering import reference
from caddtree.kernels.tree_numbering.reference import NumberedTree, num_words, packet_size

# Triton reads a global only if it is declared constant
_RANKED_HEADER = tl.constexpr(prefix_ranking.HEADER)
_HEADER = tl.constexpr(reference.HEADER)
_ROWS = 32


def number_tree(
    packed: Tensor, count: int | Tensor, root_token: int | Tensor, num_rows: int, context_length: int | Tensor | None
) -> NumberedTree:
    """Return what the reference does. The host waits for nothing and may be captured."""
    plan = launch_plan(
        num_rows,
        is_count_on_device=isinstance(count, Tensor),
        is_token_on_device=isinstance(root_token, Tensor),
        is_context_on_device=isinstance(context_length, Tensor),
    )
    packet = torch.empty(packet_size(num_rows), dtype=torch.int64, device=packed.device)
    extras = torch.empty((2, num_rows), dtype=torch.int32, device=packed.device)
    # Triton launches on the current device
    with torch.cuda.device_of(packed):  # type: ignore[no-untyped-call]
        _number_kernel[plan.grid](
            packed,
            count,
            root_token,
            0 if context_length is None else context_length,
            packet,
            extras,
            prefix_ranking.num_packed_nodes(packed),
            num_rows,
            num_words(num_rows),
            num_warps=plan.num_warps,
            **plan.constexprs,
        )
    return NumberedTree(packet, extras, num_rows)


@functools.lru_cache(maxsize=256)
def launch_plan(
    num_rows: int, *, is_count_on_device: bool, is_token_on_device: bool, is_context_on_device: bool
) -> Launch:
    """Return the launch for so many rows."""
    constexprs = {
        "IS_COUNT_ON_DEVICE": is_count_on_device,
        "IS_TOKEN_ON_DEVICE": is_token_on_device,
        "IS_CONTEXT_ON_DEVICE": is_context_on_device,
        "ROWS": _ROWS,
        "WORDS": triton.next_power_of_2(num_words(num_rows)),
    }
    return Launch((triton.cdiv(num_rows, _ROWS),), constexprs, num_warps=1)


# sizes change from round to round: one compiled kernel for all of them
@triton.jit(do_not_specialize=["count", "root_token", "context_length", "max_nodes", "num_rows", "num_words"])
def _number_kernel(
    packed,  # (HEADER + FIELDS * max_nodes,) int32
    count,  # int, or (1,) where IS_COUNT_ON_DEVICE
    root_token,  # int, or (1,) where IS_TOKEN_ON_DEVICE
    context_length,  # int, or (1,) where IS_CONTEXT_ON_DEVICE
    packet,  # (packet_size(num_rows),) int64
    extras,  # (2, num_rows) int32
    max_nodes,
    num_rows,
    num_words,
    IS_COUNT_ON_DEVICE: tl.constexpr,
    IS_TOKEN_ON_DEVICE: tl.constexpr,
    IS_CONTEXT_ON_DEVICE: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Write the rows of ROWS nodes, or of padding, whose numbers follow one another in weight order."""
    num_drafts = tl.minimum(_scalar(count, IS_COUNT_ON_DEVICE).to(tl.int32), tl.load(packed))
    num_drafts = tl.minimum(num_drafts, num_rows - 1)
    # so that a node's number is its index; the root is in no list
    parents = packed + _RANKED_HEADER - 1
    spine = parents + 5 * max_nodes
    num_spine = tl.abs(tl.load(spine + num_drafts, mask=num_drafts > 0, other=0))

    node = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_draft = (node > 0) & (node <= num_drafts)
    row = tl.where(is_draft, _row_of(node, spine, num_spine), node)
    parent = tl.load(parents + node, mask=is_draft, other=-1)
    parent_row = tl.where(is_draft, _row_of(parent, spine, num_spine), -1)
    depth = tl.load(parents + max_nodes + node, mask=is_draft, other=0)
    token = tl.load(parents + 3 * max_nodes + node, mask=is_draft, other=0).to(tl.int64)
    token = tl.where(node == 0, _scalar(root_token, IS_TOKEN_ON_DEVICE).to(tl.int64), token)
    weight_bits = tl.load(parents + 4 * max_nodes + node, mask=is_draft, other=0)
    is_row = node < num_rows
    rows = packet + _HEADER + row
    tl.store(rows, token, mask=is_row)
    tl.store(rows + num_rows, parent_row.to(tl.int64), mask=is_row)
    tl.store(rows + 2 * num_rows, depth.to(tl.int64), mask=is_row)
    tl.store(extras + row, tl.where(node <= num_drafts, node, -1), mask=is_row)
    tl.store(extras + num_rows + row, weight_bits, mask=is_row)

    word = tl.arange(0, WORDS)[:, None]
    bits = _bit(row, word)  # [WORDS, ROWS]
    ancestor = parent
    while tl.max(ancestor) >= 0:
        bits |= tl.where(ancestor >= 0, _bit(_row_of(ancestor, spine, num_spine), word), 0)
        ancestor = tl.load(parents + ancestor, mask=ancestor > 0, other=-1)
    words = packet + _HEADER + 3 * num_rows + row.to(tl.int64)[None, :] * num_words + word
    tl.store(words, bits, mask=is_row[None, :] & (word < num_words))

    if tl.program_id(0) == 0:
        tl.store(packet, _scalar(context_length, IS_CONTEXT_ON_DEVICE).to(tl.int64))
        tl.store(packet + 1, (num_drafts + 1).to(tl.int64))


@triton.jit
def _scalar(value, IS_ON_DEVICE: tl.constexpr):
    if IS_ON_DEVICE:
        return tl.load(value)
    else:
        return value


@triton.jit
def _row_of(node, spine, num_spine):
    """Return the rows of nodes: first the spine, then the others, moved back by what is still to come of it."""
    place = tl.load(spine + node, mask=node > 0, other=0)
    return tl.where(place >= 0, place, node + num_spine + place)


@triton.jit
def _bit(row, word):
    """Return the words in which only the bit of the row is set, ``[WORDS, ROWS]`` int64."""
    bit = tl.full([1], 1, tl.int64) << (row % 64).to(tl.int64)
    return tl.where(word == (row // 64)[None, :], bit[None, :], 0)
