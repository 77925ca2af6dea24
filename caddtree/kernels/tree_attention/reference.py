"""Attention of a draft tree over a KV buffer in plain torch: the definition."""

from __future__ import annotations

import torch
from torch import Tensor


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
) -> Tensor:
    """Return ``softmax(query @ keys^T * scale) @ values`` over the rows that each node sees, in float32 or better.

    Arguments and result are those of :func:`caddtree.kernels.tree_attention.tree_attention`.
    """
    group = query.shape[1] // keys.shape[1]
    dtype = torch.promote_types(query.dtype, torch.float32)
    seen = visible_rows(visibility, context_lengths, keys.shape[2], depths=depths, window=window)
    # a weight of zero does not silence a NaN
    used = seen.any(1)[:, None, :, None]
    keys, values = (rows.masked_fill(~used, 0).to(dtype).repeat_interleave(group, dim=1) for rows in (keys, values))
    scores = query.to(dtype) @ keys.mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen[:, None], -torch.inf)
    if sinks is not None:
        column = sinks.to(dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = scores.softmax(dim=-1)[..., : keys.shape[2]]
    return (weights @ values).to(query.dtype).transpose(1, 2).contiguous()


def visible_rows(
    visibility: Tensor,
    context_lengths: Tensor,
    capacity: int,
    *,
    depths: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Return ``(batch, nodes, capacity)`` bool: which rows of the KV buffer each node sees."""
    batch, num_nodes, _ = visibility.shape
    shifts = torch.arange(64, device=visibility.device)
    bits = (visibility[..., None] >> shifts & 1).bool().flatten(2)[..., :num_nodes]
    rows = torch.arange(capacity, device=visibility.device)[None]
    context = context_lengths.long()[:, None]
    node = (rows - context).clamp(0, num_nodes - 1)
    is_node = (rows >= context) & (rows < context + num_nodes)
    node_bits = bits.gather(2, node[:, None].expand(batch, num_nodes, capacity))
    seen = (rows < context)[:, None] | (is_node[:, None] & node_bits)
    if window is None:
        return seen
    assert depths is not None, "a window counts positions, which need depths"
    row_depth = torch.where(rows < context, rows - context, depths.long().gather(1, node))
    return seen & (depths[:, :, None] - row_depth[:, None] < window)
