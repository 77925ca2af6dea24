"""What every draft tree must be, check by check; each stands alone, so that one fault fails one check."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from caddtree.core.context import RoundContext
from caddtree.core.draft_tree import DraftTree
from caddtree.core.marginals import Marginals
from caddtree.testing.claims import require

_TOLERANCE = 1e-4
"""Of a log-weight, absolute plus relative: sums of float32 differ by their order."""


def check_arrays(tree: DraftTree) -> None:
    """Refuse arrays of the wrong type, shape or place."""
    dtypes = {"tokens": torch.int64, "parents": torch.int64, "depths": torch.int64, "log_weights": torch.float32}
    require(isinstance(tree, DraftTree), f"build must return a DraftTree, found {type(tree).__name__}")
    for name, dtype in dtypes.items():
        array = getattr(tree, name)
        is_array = isinstance(array, torch.Tensor) and array.dtype == dtype and array.device.type == "cpu"
        found = f"{array.dtype} on {array.device}" if isinstance(array, torch.Tensor) else type(array).__name__
        require(is_array, f"{name} of a draft tree must be a {dtype} tensor on the host, found {found}")
        require(
            array.ndim == 1 and len(array) == len(tree.tokens) >= 1,
            f"{name} of a draft tree must be (nodes,), one entry per node, root included, found "
            f"{tuple(array.shape)} beside {tuple(tree.tokens.shape)} tokens",
        )


def check_root(tree: DraftTree, context: RoundContext) -> None:
    """Refuse a node 0 that is not the root of the round."""
    found = (int(tree.tokens[0]), int(tree.parents[0]), int(tree.depths[0]), float(tree.log_weights[0]))
    require(
        found == (context.root_token, -1, 0, 0.0),
        f"node 0 must be the root: token {context.root_token} (context.root_token), parent -1, depth 0, log-weight 0; "
        f"found token {found[0]}, parent {found[1]}, depth {found[2]}, log-weight {found[3]:g}",
    )


def check_order(tree: DraftTree) -> None:
    """Refuse a parent behind its child."""
    for node, parent in enumerate(tree.parents.tolist()[1:], start=1):
        require(
            0 <= parent < node,
            f"a parent must come before its child, found node {node} with parent {parent} of {tree.num_nodes} nodes. "
            f"Number the nodes by depth, or in the order in which they were chosen.",
        )


def check_depths(tree: DraftTree) -> None:
    """Refuse a depth that is not the parent's plus one."""
    parents, depths = _parents(tree), tree.depths.numpy()
    wrong = np.flatnonzero(depths[1:] != depths[parents] + 1) + 1
    require(
        len(wrong) == 0,
        "a node must be one deeper than its parent, found "
        + ", ".join(f"node {node} at depth {depths[node]}" for node in wrong[:3]),
    )


def check_siblings(tree: DraftTree) -> None:
    """Refuse two children of one node with the same token."""
    seen: dict[tuple[int, int], int] = {}
    for node, key in enumerate(zip(tree.parents.tolist(), tree.tokens.tolist(), strict=True)):
        require(
            key not in seen,
            f"siblings must differ, found nodes {seen.get(key)} and {node}, both token {key[1]} below node {key[0]}. "
            f"Draft each continuation once.",
        )
        seen[key] = node


def check_depth_limit(tree: DraftTree, context: RoundContext) -> None:
    """Refuse a tree that is deeper than the round can use."""
    require(
        tree.depth <= context.max_depth,
        f"the tree may be at most {context.max_depth} deep (context.max_depth: {context.remaining_tokens} tokens may "
        f"still be emitted, position {context.context_length} of {context.position_limit}), found depth {tree.depth}. "
        f"Start with marginals.clip(context.max_depth).",
    )


def check_counts(tree: DraftTree, context: RoundContext) -> None:
    """Refuse more draft nodes than the runtime allows in this round."""
    counts = context.candidate_counts
    require(
        counts is None or tree.num_drafts <= max(counts),
        f"the runtime allows {counts} draft nodes (context.candidate_counts), found {tree.num_drafts}. Never exceed "
        f"the largest: after memory ran out, and while costs are measured, this is how trees are kept small.",
    )


def check_candidates(tree: DraftTree, marginals: Marginals) -> None:
    """Refuse a draft node that is no candidate of its position, or one of probability 0."""
    rows = _rows(marginals)
    for node, (token, depth) in enumerate(zip(tree.tokens.tolist(), tree.depths.tolist(), strict=True)):
        if node == 0:
            continue
        require(
            1 <= depth <= len(rows),
            f"node {node} is at depth {depth}, but the block has {len(rows)} positions",
        )
        require(
            token in rows[depth - 1],
            f"node {node} has token {token}, which is no candidate at depth {depth}: "
            f"row {depth - 1} of the marginals offers {_few(rows[depth - 1])}. A candidate whose log-probability is "
            f"-inf is padding and its token means nothing; the vocabulary may be smaller than a width.",
        )


def check_path_products(tree: DraftTree, marginals: Marginals) -> None:
    """Refuse a log-weight that is not the sum of the log-probabilities along the node's path."""
    rows, weights, parents = _rows(marginals), tree.log_weights.double().tolist(), _parents(tree)
    for node, parent in enumerate(parents.tolist(), start=1):
        row = int(tree.depths[node]) - 1
        log_prob = rows[row].get(int(tree.tokens[node])) if 0 <= row < len(rows) else None
        if log_prob is None:
            continue  # no candidate: another check says so
        expected = weights[parent] + log_prob
        require(
            abs(weights[node] - expected) <= _TOLERANCE * (1 + abs(expected)),
            f"a log-weight must be the sum of log-probabilities from the root, found {weights[node]:.6g} at node "
            f"{node}, where its parent's {weights[parent]:.6g} and its own {log_prob:.6g} make {expected:.6g}. A "
            f"builder that calibrates weights says so by `calibrates_weights = True` in its contract class.",
        )


def check_weights_fall(tree: DraftTree) -> None:
    """Refuse children that together outweigh their parent: weights are probabilities of prefixes."""
    weights, parents = tree.log_weights.double().exp().numpy(), _parents(tree)
    together = np.zeros(len(weights))
    np.add.at(together, parents, weights[1:])
    wrong = np.flatnonzero(~(together <= weights * (1 + 1e-3) + 1e-6))
    require(
        len(wrong) == 0,
        "the children of a node must not outweigh it: log-weights are logs of probabilities, found "
        + ", ".join(f"{together[node]:.4g} below node {node} of weight {weights[node]:.4g}" for node in wrong[:3]),
    )


def as_plain(tree: DraftTree) -> tuple[list[int], list[int], list[int], list[float]]:
    """Return a tree as lists, comparable with ``==``."""
    return tree.tokens.tolist(), tree.parents.tolist(), tree.depths.tolist(), tree.log_weights.tolist()


def _parents(tree: DraftTree) -> NDArray[np.int64]:
    """Return the parents of the draft nodes, as indices whatever stands there."""
    parents: NDArray[np.int64] = np.clip(tree.parents.numpy()[1:], 0, tree.num_nodes - 1)
    return parents


def _rows(marginals: Marginals) -> list[dict[int, float]]:
    """Return the log-probability of every real candidate, position by position."""
    # wider than any vocabulary of the kit: all there is
    widest = marginals.widen(1_000_000)
    return [
        {token: log_prob for token, log_prob in zip(tokens, log_probs, strict=True) if log_prob > -np.inf}
        for tokens, log_probs in zip(widest.tokens.tolist(), widest.log_probs.tolist(), strict=True)
    ]


def _few(row: dict[int, float]) -> str:
    tokens = [str(token) for token in row]
    return ", ".join(tokens[:8]) + (", ..." if len(tokens) > 8 else "") if tokens else "nothing"
