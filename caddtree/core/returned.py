"""What strategies return is checked where it is returned, so that no other component is blamed for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from caddtree.core.acceptance import Walk
from caddtree.core.context import RoundContext
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import TreeError
from caddtree.core.marginals import Marginals


def check_draft(marginals: object) -> None:
    """Refuse what is no marginals; their numbers are looked at where that costs no wait for the device.

    Raises:
        TypeError: Names what was found.
    """
    if marginals is None:
        return
    if not isinstance(marginals, Marginals):
        raise TypeError(f"draft must return Marginals or None, found {type(marginals).__name__}")
    _check_tensor("marginals.tokens", marginals.tokens, torch.int64)
    _check_tensor("marginals.log_probs", marginals.log_probs, torch.float32)


def check_marginals(marginals: Marginals, vocabulary_size: int) -> None:
    """Refuse candidates of which no sound tree can be made; waits for the device, so it is asked after a failure.

    Raises:
        ValueError: If a candidate is no token, or a position has one twice.
    """
    for depth, (row, log_probs) in enumerate(zip(marginals.tokens.tolist(), marginals.log_probs.tolist(), strict=True)):
        tokens = [token for token, log_prob in zip(row, log_probs, strict=True) if log_prob > -torch.inf]
        for token in tokens:
            if not 0 <= token < vocabulary_size:
                raise ValueError(f"marginals.tokens[{depth}] must lie in 0..{vocabulary_size - 1}, found {token}")
        if len(set(tokens)) < len(tokens):
            raise ValueError(f"marginals.tokens[{depth}] holds a token twice; each may be drafted once")


def check_ends_text(answer: object) -> None:
    """Refuse what is neither yes nor no: a rule that forgets its return would never end a text.

    Raises:
        TypeError: Names what was found.
    """
    if not isinstance(answer, bool | np.bool_):
        raise TypeError(f"ends_text must return True or False, found {type(answer).__name__}")


def check_tree(tree: object, context: RoundContext, vocabulary_size: int) -> None:
    """Refuse a tree that a verification pass could not carry, or that does not continue the text.

    Raises:
        TypeError: If it is no tree of int64 tokens, parents and depths and float32 weights.
        TreeError: If its structure, its root or a weight is wrong.
    """
    if not isinstance(tree, DraftTree):
        raise TypeError(f"build must return a DraftTree, found {type(tree).__name__}")
    for name in ("tokens", "parents", "depths", "log_weights"):
        tensor = getattr(tree, name)
        _check_tensor(f"tree.{name}", tensor, torch.float32 if name == "log_weights" else torch.int64)
        if tensor.shape != (tree.num_nodes,):
            raise TreeError(f"tree.{name} must have one value per node, found {tuple(tensor.shape)}")
    tree.check(max_depth=context.max_depth, vocabulary_size=vocabulary_size)
    root = int(tree.tokens[0])  # host sync: trees are on the host
    if root != context.root_token:
        # the target would answer another text, and nothing behind this line would notice
        raise TreeError(f"the root of the tree must be context.root_token, {context.root_token}, found {root}")
    if bool(tree.log_weights.isnan().any()):  # host sync: trees are on the host
        raise TreeError("tree.log_weights holds NaN; a weight is the sum of the log-probabilities from the root")


def check_walk(walk: object, tree: DraftTree, vocabulary_size: int) -> None:
    """Refuse what is no walk down the tree.

    Raises:
        TypeError: If it is no :class:`Walk`.
        TreeError: If its path does not lead down from the root, or a token is none.
    """
    if not isinstance(walk, Walk):
        raise TypeError(f"verify must return a Walk, found {type(walk).__name__}")
    parents = tree.parents.tolist()  # host sync: trees are on the host
    above = -1
    for node in walk.path:
        if not 0 <= node < len(parents) or parents[node] != above:
            raise TreeError(f"the path must lead from the root to a child each time, found {walk.path}")
        above = node
    if not walk.path or len(walk.tokens) != len(walk.path):
        raise TreeError(f"a walk needs one token per node, found {len(walk.tokens)} for the path {walk.path}")
    if not all(0 <= token < vocabulary_size for token in walk.tokens):
        raise TreeError(f"tokens must lie in 0..{vocabulary_size - 1}, found {walk.tokens}")


def _check_tensor(name: str, tensor: object, dtype: torch.dtype) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a {dtype} tensor, found {type(tensor).__name__}")
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be a {dtype} tensor, found {tensor.dtype}")
