"""Attention of a draft tree over the committed rows of a KV buffer and the tree's own."""

from __future__ import annotations

import torch
from torch import Tensor

from caddtree.kernels import availability
from caddtree.kernels.tree_attention import reference

__all__ = ["tree_attention"]


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
    """Return the attention of every node over the committed rows and its ancestors.

    The last dimension of each tensor must be contiguous, other strides are free. The host reads nothing: one captured
    or compiled call serves every context length that the buffer holds. Devices compute in float32, from half
    precision on tensor cores; a float64 query takes the reference.

    Args:
        query: ``(batch, heads, nodes, head_dim)`` floating; on a device ``head_dim`` is at most 512, or 256
            in float32.
        keys: ``(batch, kv_heads, capacity, head_dim)`` of the query's dtype; rows ``0 .. context_lengths[b] - 1`` are
            committed, row ``context_lengths[b] + i`` is node ``i``. What lies behind is never used and may be NaN.
        values: As ``keys``.
        visibility: ``(batch, nodes, words)`` int64, packed; node ``j`` is bit ``j % 64`` of word ``j // 64``. A node
            sees itself and no node that comes after it.
        context_lengths: ``(batch,)`` int32 or int64, from 0, on the device.
        scale: Positive factor of the scores.
        depths: ``(batch, nodes)`` int32 or int64, 0 for the root; needed with ``window`` only.
        window: A node sees what lies less than so many positions behind its own, where the position of a node is
            ``context_lengths[b] + depths[b, i]`` and that of a committed row its index. None: all.
        softcap: Scores become ``softcap * tanh(scores / softcap)``. None: they stay.
        sinks: ``(heads,)`` floating, one logit per head that only adds to the denominator of the softmax.
        num_splits: Shares in which a device kernel works on the context; None chooses by shapes.

    Returns:
        ``(batch, nodes, heads, head_dim)`` contiguous, of the query's dtype.

    Source: ancestor-only attention is DDTree's, arXiv:2604.12989; the kernel's splits are Flash-Decoding's.
    """
    run = torch.ops.caddtree.tree_attention.default if torch.compiler.is_compiling() else _run
    out: Tensor = run(
        query,
        keys,
        values,
        visibility,
        context_lengths,
        depths,
        sinks,
        scale=scale,
        window=window,
        softcap=softcap,
        num_splits=num_splits,
    )
    return out


# an operator of torch takes tensors by position only
def _run(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    visibility: Tensor,
    context_lengths: Tensor,
    depths: Tensor | None,
    sinks: Tensor | None,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    num_splits: int | None,
) -> Tensor:
    if query.dtype == torch.float64 or not availability.takes_triton(query):
        return reference.tree_attention(
            query,
            keys,
            values,
            visibility,
            context_lengths,
            scale=scale,
            depths=depths,
            window=window,
            softcap=softcap,
            sinks=sinks,
        )
    # importing the package needs no Triton
    from caddtree.kernels.tree_attention import triton_kernel

    return triton_kernel.tree_attention(
        query,
        keys,
        values,
        visibility,
        context_lengths,
        scale=scale,
        depths=depths,
        window=window,
        softcap=softcap,
        sinks=sinks,
        num_splits=num_splits,
    )


# one opaque step for torch.compile: nothing in it is traced, guarded or specialised
_operator = torch.library.custom_op("caddtree::tree_attention", _run, mutates_args=())


@_operator.register_fake
def _fake(query: Tensor, *_: object, **__: object) -> Tensor:
    """Return a result's shape: ``(batch, nodes, heads, head_dim)``."""
    batch, num_heads, num_nodes, head_dim = query.shape
    return query.new_empty((batch, num_nodes, num_heads, head_dim))
