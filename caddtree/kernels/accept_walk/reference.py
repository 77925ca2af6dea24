"""The walk through a verified tree in plain torch: the definition."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_HEADER = 3
"""Entries before the path: its length, whether all logits were finite, the first row that was not."""


def accept_walk(
    choices: Tensor, best: Tensor, tokens: Tensor, parents: Tensor, num_nodes: int | Tensor, max_path: int
) -> Tensor:
    """Return the packed walk, ``(3 + 2 * max_path,)`` int64, as the door promises it."""
    nodes = torch.arange(len(parents), device=parents.device)
    is_node = nodes < num_nodes
    is_child = is_node & (parents >= 0) & (parents < nodes)
    above = torch.where(is_child, parents, 0)
    follows = is_child & (tokens == choices[above])

    path = nodes.new_full((max_path,), -1)
    node = nodes.new_zeros(())
    for step in range(max_path):
        path[step] = node
        next_nodes = follows & (above == node) & (node >= 0)
        # no host sync: after the last node the walk stays at -1
        node = torch.where(next_nodes.any(), next_nodes.int().argmax(), -1)

    is_bad = is_node & ~torch.isfinite(best)
    first_bad = torch.where(is_bad.any(), is_bad.int().argmax(), -1)
    header = torch.stack([(path >= 0).sum(), (first_bad < 0).long(), first_bad])
    return torch.cat([header, path, torch.where(path >= 0, choices[path.clamp(min=0)], -1)])
