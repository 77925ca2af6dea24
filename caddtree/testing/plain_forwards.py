"""What a target says at the nodes of a tree, by plain forwards over their own texts, and why a verifier differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from caddtree.core.draft_tree import DraftTree
from caddtree.testing.claims import require
from caddtree.testing.inputs import next_logits

_TOLERANCE = 1e-3
"""Of the largest logit: a wrong mask or position is off by far more, other kernels and orders of sums by far less."""


def path_to(tree: DraftTree, node: int) -> list[int]:
    """Return the nodes from the root to ``node``."""
    path, parents = [node], tree.parents.tolist()
    while path[0] != 0:
        path.insert(0, parents[path[0]])
    return path


@torch.inference_mode()
def node_logits(model: Any, text: Sequence[int], tree: DraftTree) -> Tensor:
    """Return ``(nodes, vocabulary)`` on the host: at every node a full forward over the text and its path."""
    tokens = tree.tokens.tolist()
    paths = ([tokens[node] for node in path_to(tree, leaf)] for leaf in range(tree.num_nodes))
    return torch.stack([next_logits(model, [*text, *path]).cpu() for path in paths])


def check_node_logits(found: Tensor, model: Any, text: Sequence[int], tree: DraftTree) -> None:
    """Refuse logits that are not those of a plain forward over each node's own path, and say what they are.

    Args:
        found: ``(rows, vocabulary)``; rows behind the nodes are padding.
        model: The Hugging Face model.
        text: Committed tokens before the root.
        tree: What was verified.
    """
    expected = node_logits(model, text, tree)
    rows = found[: tree.num_nodes].detach().float().cpu()
    require(
        rows.shape == expected.shape,
        f"the acceptance rule must be given (nodes, vocabulary) logits, one row per node and padding behind them, "
        f"found {tuple(found.shape)} for {tree.num_nodes} nodes and {expected.shape[1]} tokens",
    )
    error = (rows - expected).abs().amax(dim=1)
    wrong = torch.nonzero(~(error <= _TOLERANCE * expected.abs().max())).flatten().tolist()
    if not wrong:
        return
    cause = next((words for words, other in _faulty(model, text, tree) if _is_close(rows, other)), None)
    said = f"they are those of a forward in which {cause}" if cause else "no common fault of mask or positions fits"
    require(
        False,
        f"the logits at nodes {wrong[:8]} of {tree.num_nodes} (parents {tree.parents.tolist()[:12]}) differ from plain "
        f"forwards over their own paths by {float(error.max()):.3g}; {said}. A node attends to the context, its "
        f"ancestors and itself (tree.visibility_mask()), at position context_length + depth.",
    )


def _is_close(rows: Tensor, other: Tensor) -> bool:
    return bool(((rows - other).abs() <= 10 * _TOLERANCE * other.abs().max()).all())


def _faulty(model: Any, text: Sequence[int], tree: DraftTree) -> Iterator[tuple[str, Tensor]]:
    """Yield the logits of forwards with one common fault each."""
    right, depths, parents = tree.visibility_mask(), tree.depths, tree.parents
    numbers = torch.arange(tree.num_nodes)
    siblings = parents[:, None] == parents[None]
    masks = {
        "siblings see each other": right | siblings,
        "a node sees all nodes before it (a causal mask)": torch.ones_like(right).tril(),
        "all nodes see each other": torch.ones_like(right),
        "nodes do not see their ancestors": torch.eye(tree.num_nodes, dtype=torch.bool),
        "nodes do not see the root": right & (numbers[None] > 0) | torch.eye(tree.num_nodes, dtype=torch.bool),
    }
    positions = {
        "the positions of draft nodes are one too high": depths + (depths > 0),
        "the positions of draft nodes are one too low": depths - (depths > 0).long(),
        "all positions are one too high": depths + 1,
        "all positions are one too low": depths - 1,
        "positions count nodes instead of depth": numbers,
        "all nodes have the root's position": torch.zeros_like(depths),
    }
    try:
        for words, visible in masks.items():
            yield words, _masked_forward(model, text, tree, visible, depths)
        for words, offsets in positions.items():
            yield words, _masked_forward(model, text, tree, right, offsets)
    except Exception:
        # this only looks for words; a family that takes no mask of four dimensions goes without
        return


@torch.inference_mode()
def _masked_forward(model: Any, text: Sequence[int], tree: DraftTree, visible: Tensor, offsets: Tensor) -> Tensor:
    """Return ``(nodes, vocabulary)`` logits of one forward over text and tree under any mask and positions."""
    length, num_nodes = len(text), tree.num_nodes
    device = model.get_input_embeddings().weight.device
    mask = torch.zeros(length + num_nodes, length + num_nodes, dtype=torch.bool)
    mask[:length, :length] = torch.ones(length, length, dtype=torch.bool).tril()
    mask[length:, :length] = True
    mask[length:, length:] = visible
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    logits: Tensor = model(
        torch.tensor([[*text, *tree.tokens.tolist()]], device=device),
        attention_mask=additive[None, None].to(device),
        position_ids=torch.cat((torch.arange(length), length + offsets))[None].to(device),
        use_cache=False,
    ).logits[0, length:]
    return logits.float().cpu()
