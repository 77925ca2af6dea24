"""The attention kernel by itself, against SDPA under a dense mask and against FlexAttention.

Clock: one captured graph that runs the same call over several sets of keys and values, one behind the other; the sets
together are four times the size of the last cache, so that each is read from memory, as in a forward whose weights pass
through the cache between two layers. Given is the time of the graph over the number of calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from caddtree.kernels.tree_attention import reference, tree_attention

from .device import Device, copies_beyond_cache
from .floors import Ceilings
from .trees import random_tree

_REPEATS = 30
LARGEST_ERROR = {torch.bfloat16: 3e-2, torch.float32: 1e-3}
"""Of an output against the float32 reference, absolute; outputs are averages of normal numbers."""


@attrs.frozen
class AttentionShape:
    """One layer's attention over a tree."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    num_nodes: int

    def floor_seconds(self, ceilings: Ceilings, element_size: int) -> tuple[float, float]:
        """Return the seconds that its bytes and its products need."""
        num_rows = self.context_length + self.num_nodes
        elements = 2 * self.num_kv_heads * num_rows + 2 * self.num_heads * self.num_nodes
        num_bytes = elements * self.head_dim * element_size
        num_flops = 4 * self.num_heads * self.num_nodes * num_rows * self.head_dim
        return num_bytes / ceilings.bytes_per_second, num_flops / ceilings.flops_per_second


@attrs.frozen(eq=False)
class Problem:
    """Inputs of one call, keys and values several times over."""

    shape: AttentionShape
    query: Tensor  # (1, heads, nodes, head_dim)
    keys: list[Tensor]  # each (1, kv_heads, context + nodes, head_dim)
    values: list[Tensor]
    visible: Tensor  # (nodes, nodes) bool
    bits: Tensor  # (1, nodes, words) int64
    context_length: Tensor  # (1,) int64

    @property
    def scale(self) -> float:
        """Factor of the scores."""
        return 1.0 / math.sqrt(self.shape.head_dim)

    def calls(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Callable[[], Tensor]]:
        """Return one call for every set of keys and values."""
        return [partial(attend, self.query, keys, values) for keys, values in zip(self.keys, self.values, strict=True)]


def make_problem(shape: AttentionShape, device: Device) -> Problem:
    """Return random inputs; the query is a view as models make it."""
    place: dict[str, Any] = {"dtype": device.dtype, "device": device.torch_device}
    torch.manual_seed(0)
    query = torch.randn(1, shape.num_nodes, shape.num_heads, shape.head_dim, **place).transpose(1, 2)
    rows = (1, shape.num_kv_heads, shape.context_length + shape.num_nodes, shape.head_dim)
    one = torch.randn(*rows, **place)
    count = copies_beyond_cache(device, 2 * one.nbytes)
    tree = random_tree(shape.num_nodes, 2)
    return Problem(
        shape,
        query,
        [one, *(torch.randn(*rows, **place) for _ in range(count - 1))],
        [torch.randn(*rows, **place) for _ in range(count)],
        tree.visibility_mask().to(device.torch_device),
        tree.packed_visibility()[None].to(device.torch_device),
        torch.tensor([shape.context_length], device=device.torch_device),
    )


def by_kernel(problem: Problem) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the kernel; its result is ``(1, nodes, heads, head_dim)``."""

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return tree_attention(query, keys, values, problem.bits, problem.context_length, scale=problem.scale)

    return attend


def by_sdpa(problem: Problem) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return torch's own attention under a dense mask of all rows."""
    num_nodes = problem.shape.num_nodes
    context = problem.visible.new_ones(num_nodes, problem.shape.context_length)
    mask = torch.cat([context, problem.visible], dim=1)[None, None]

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        found = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=problem.scale, enable_gqa=True
        )
        return found.transpose(1, 2)

    return attend


def by_flex(problem: Problem, device: Device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return FlexAttention, compiled for these very shapes."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    visible, context, num_nodes = problem.visible, problem.shape.context_length, problem.shape.num_nodes

    def sees(_batch: Tensor, _head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (column < context) | visible[row, (column - context).clamp(0, num_nodes - 1)]

    block_mask = create_block_mask(
        sees, B=None, H=None, Q_LEN=num_nodes, KV_LEN=context + num_nodes, device=str(device.torch_device)
    )
    compiled = device.compile(flex_attention)

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        found: Tensor = compiled(query, keys, values, block_mask=block_mask, scale=problem.scale, enable_gqa=True)
        return found.transpose(1, 2)

    return attend


@torch.no_grad()
def measure(
    problem: Problem, attend: Callable[[Tensor, Tensor, Tensor], Tensor], device: Device, ceilings: Ceilings
) -> dict[str, Any]:
    """Return seconds, floor, share of it and the error of one way to attend."""
    expected = reference.tree_attention(
        problem.query.float(),
        problem.keys[0].float(),
        problem.values[0].float(),
        problem.bits,
        problem.context_length,
        scale=problem.scale,
    )
    calls = problem.calls(attend)
    error = float((calls[0]().float() - expected).abs().max())
    # a NaN compares false
    if not error <= LARGEST_ERROR[device.dtype]:
        raise ArithmeticError(f"differs from the reference by {error:.2g}, allowed are {LARGEST_ERROR[device.dtype]}")
    timing = device.graph_seconds(calls, repeats=1 if device.is_toy else _REPEATS)
    bytes_seconds, flops_seconds = problem.shape.floor_seconds(ceilings, problem.query.element_size())
    floor = max(bytes_seconds, flops_seconds)
    return {
        "call_seconds": timing.to_dict(),
        "bytes_seconds": bytes_seconds,
        "flops_seconds": flops_seconds,
        "share": floor / timing.median,
        "largest_error": error,
        "sets": len(calls),
    }


def shapes_of(
    num_heads: int, num_kv_heads: int, head_dim: int, contexts: Sequence[int], nodes: Sequence[int]
) -> list[AttentionShape]:
    """Return all combinations of contexts and trees."""
    return [
        AttentionShape(num_heads, num_kv_heads, head_dim, context, count) for context in contexts for count in nodes
    ]
