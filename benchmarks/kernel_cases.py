"""The settings in which ``kernel_resources.py`` compiles each Triton kernel.

One function per folder of ``caddtree/kernels``, under the folder's name: it takes the folder's ``triton_kernel`` module
and yields cases. The main settings are those of Qwen3-4B and Qwen3-8B with DFlash drafters, which are alike in
everything that a kernel here sees; tensors are shaped, strided and aligned as in a round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import attrs
import torch
from torch import Tensor
from triton.runtime.driver import driver

from caddtree.core import tree_packet
from caddtree.core.marginals import DEFAULT_WIDTH
from caddtree.kernels.candidates import LARGEST_KERNEL_WIDTH
from caddtree.kernels.prefix_ranking import packed_size
from caddtree.runtime.buckets import DEFAULT_BUCKETS

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, NUM_LAYERS = 32, 8, 128, 36
VOCABULARY, BLOCK_SIZE, CAPACITY = 151_936, 16, 4096
MOST_MAIN_ROWS = 256
"""Larger trees are possible; with these models they do not pay."""
MULTIPROCESSORS = {80: 108, 90: 132, 100: 148, "gfx942": 304}
"""Of an A100, an H100, a B200 and an MI300X."""
SHORT = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@attrs.frozen
class Case:
    """One call of a kernel's launcher with inputs on the CPU, whose values do not matter."""

    setting: str
    rows: int
    launch: Callable[[], object]
    # a setting that the models above use: spilling there is a fault, elsewhere a remark
    is_main: bool = True


def accept_walk(kernel: Any) -> Iterator[Case]:
    """Yield the walk through trees of every size; the number of nodes is known on the device, or aside on the host."""
    for rows in DEFAULT_BUCKETS:
        tree = packet_rows(rows)
        choices, best = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
        for count, max_path, is_main in ((tree.num_nodes, 64, True), (rows, BLOCK_SIZE, False)):
            walk = partial(kernel.accept_walk, choices, best, tree.tokens, tree.parents, count, max_path)
            setting = f"path {max_path}, count on {'device' if count is tree.num_nodes else 'host'}"
            yield Case(setting, rows, walk, is_main and rows <= MOST_MAIN_ROWS)


def candidates(kernel: Any) -> Iterator[Case]:
    """Yield the selection from a block's logits: the first width, and how it widens."""
    for dtype in SHORT:
        logits = torch.empty(BLOCK_SIZE - 1, VOCABULARY, dtype=dtype)
        for width in (1, DEFAULT_WIDTH, 32, LARGEST_KERNEL_WIDTH):
            select = partial(kernel.best_candidates, logits, width)
            # widths between these two are rare, and compiling them takes long
            is_main = dtype is torch.bfloat16 and width in (DEFAULT_WIDTH, LARGEST_KERNEL_WIDTH)
            yield Case(f"{SHORT[dtype]}, width {width}", BLOCK_SIZE - 1, select, is_main)


def commit_rows(kernel: Any) -> Iterator[Case]:
    """Yield accepted paths of every length in the buffers of all layers; ``rows`` are those of the path."""
    buffers = [torch.empty(1, NUM_KV_HEADS, CAPACITY, HEAD_DIM, dtype=torch.bfloat16) for _ in range(2 * NUM_LAYERS)]
    table = kernel.buffer_table(buffers)
    on_device = torch.empty(1, dtype=torch.int64)
    for length in range(2, BLOCK_SIZE + 1):
        path = torch.empty(length, dtype=torch.int64)
        yield Case("bf16", length, partial(kernel.move_rows, table, path, 1000))
        yield Case("bf16, length on device", length, partial(kernel.move_rows, table, path, on_device), is_main=False)


def prefix_ranking(kernel: Any) -> Iterator[Case]:
    """Yield the ranking of a block's candidates for trees of every size."""
    stops = torch.empty(2, dtype=torch.int64)
    for width in (DEFAULT_WIDTH, LARGEST_KERNEL_WIDTH, 1024):
        tokens, log_probs = torch.empty(BLOCK_SIZE - 1, width, dtype=torch.int64), torch.empty(BLOCK_SIZE - 1, width)
        for rows in DEFAULT_BUCKETS[1:]:
            for stop_tokens in (stops, None):
                rank = partial(kernel.rank_prefixes, tokens, log_probs, rows - 1, stop_tokens)
                is_main = width <= LARGEST_KERNEL_WIDTH and rows <= MOST_MAIN_ROWS and stop_tokens is stops
                yield Case(f"width {width}{'' if stop_tokens is stops else ', no stops'}", rows, rank, is_main)


def target_choice(kernel: Any) -> Iterator[Case]:
    """Yield the target's choices at the nodes of trees of every size, greedy and sampled."""
    for dtype in SHORT:
        for rows in DEFAULT_BUCKETS:
            tree = packet_rows(rows)
            choose = partial(kernel.target_choices, torch.empty(rows, VOCABULARY, dtype=dtype), seed=2**63)
            sampled = partial(choose, temperature=0.7, depths=tree.depths)
            is_main = dtype is torch.bfloat16 and rows <= MOST_MAIN_ROWS
            yield Case(f"{SHORT[dtype]}, greedy", rows, choose, is_main)
            yield Case(f"{SHORT[dtype]}, sampled", rows, partial(sampled, root_position=tree.context_length), is_main)
            # as plain decoding would
            alone = partial(choose, temperature=0.7, root_position=1000)
            yield Case(f"{SHORT[dtype]}, sampled at roots", rows, alone, is_main=False)


def tree_attention(kernel: Any) -> Iterator[Case]:
    """Yield one layer's attention over trees of every size, then other types, head dimensions and options."""
    for capacity in (512, CAPACITY, 40_960):
        for rows in DEFAULT_BUCKETS:
            attend = partial(attention, kernel, rows, capacity=capacity)
            yield Case(f"bf16, dim {HEAD_DIM}", rows, attend, rows <= MOST_MAIN_ROWS)
    few = (1, 8, 16, 64, 1024)
    for dtype in SHORT:
        for head_dim in (64, 96, 128, 256):
            for rows in few:
                attend = partial(attention, kernel, rows, dtype=dtype, head_dim=head_dim)
                yield Case(f"{SHORT[dtype]}, dim {head_dim}", rows, attend, is_main=False)
    sinks = torch.empty(NUM_HEADS, dtype=torch.bfloat16)
    for head_dim, options in ((128, {"window": 1024}), (64, {"window": 128, "sinks": sinks}), (256, {"softcap": 50.0})):
        for rows in few:
            attend = partial(attention, kernel, rows, head_dim=head_dim, **options)
            yield Case(f"bf16, dim {head_dim}, {' and '.join(options)}", rows, attend, is_main=False)


def tree_numbering(kernel: Any) -> Iterator[Case]:
    """Yield the numbering of trees of every size, from as many prefixes as they need or from the most."""
    count = torch.empty(1, dtype=torch.int64)
    for rows in DEFAULT_BUCKETS:
        for num_ranked, setting in ((rows - 1, "as many ranked"), (MOST_MAIN_ROWS - 1, f"{MOST_MAIN_ROWS - 1} ranked")):
            if num_ranked < max(rows - 1, 1):
                continue
            packed = torch.empty(packed_size(num_ranked), dtype=torch.int32)
            number = partial(kernel.number_tree, packed, rows - 1, 1000, rows, 1000)
            yield Case(setting, rows, number, rows <= MOST_MAIN_ROWS)
            captured = partial(kernel.number_tree, packed, count, count, rows, count)
            yield Case(f"{setting}, numbers on device", rows, captured, is_main=False)


CASES: dict[str, Callable[[Any], Iterator[Case]]] = {
    "accept_walk": accept_walk,
    "candidates": candidates,
    "commit_rows": commit_rows,
    "prefix_ranking": prefix_ranking,
    "target_choice": target_choice,
    "tree_attention": tree_attention,
    "tree_numbering": tree_numbering,
}


def attention(
    kernel: Any,
    rows: int,
    *,
    capacity: int = CAPACITY,
    dtype: torch.dtype = torch.bfloat16,
    head_dim: int = HEAD_DIM,
    **options: Any,
) -> Tensor:
    """Return one layer's attention over a tree, planned for the device that is compiled for."""
    tree = packet_rows(rows)
    # heads lie beside one another, as projections leave them
    query = torch.empty(1, rows, NUM_HEADS, head_dim, dtype=dtype).transpose(1, 2)
    keys, values = (torch.empty(1, NUM_KV_HEADS, capacity, head_dim, dtype=dtype) for _ in range(2))
    if "window" in options:
        options["depths"] = tree.depths[None]
    # the launcher asks the device of the query, which is a CPU here
    arch = driver.active.get_current_target().arch
    with mock.patch.object(kernel, "_num_sms", return_value=MULTIPROCESSORS[arch]):
        out: Tensor = kernel.tree_attention(
            query, keys, values, tree.visibility[None], tree.context_length, scale=head_dim**-0.5, **options
        )
    return out


def packet_rows(rows: int) -> tree_packet.PacketRows:
    """Return the parts of a tree's packet, where they lie in it."""
    return tree_packet.unpack(torch.empty(tree_packet.packet_size(rows), dtype=torch.int64), rows)
