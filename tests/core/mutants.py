"""Faults of verification, to be planted with monkeypatch: every check of losslessness must see them. L-06."""

from __future__ import annotations

import attrs

from caddtree.core import acceptance
from caddtree.core.draft_tree import DraftTree
from caddtree.core.kv_cache import TreeCache
from caddtree.core.target import Target


def siblings_shine_through(monkeypatch):
    real = DraftTree.visibility_mask
    monkeypatch.setattr(
        DraftTree, "visibility_mask", lambda tree: real(tree) | (tree.parents[:, None] == tree.parents[None])
    )


def positions_off_by_one(monkeypatch):
    real = Target.forward_tree
    shifted = lambda tree: attrs.evolve(tree, depths=tree.depths + (tree.depths > 0))  # noqa: E731
    monkeypatch.setattr(Target, "forward_tree", lambda self, state, tree: real(self, state, shifted(tree)))


def siblings_in_the_wrong_order(monkeypatch):
    """The target sees the children of a node in reverse, the walk as they were drafted."""

    def reversed_siblings(tree):
        tokens = tree.tokens.clone()
        for parent in set(tree.parents.tolist()) - {-1}:
            children = (tree.parents == parent).nonzero().flatten()
            tokens[children] = tokens[children.flip(0)]
        return attrs.evolve(tree, tokens=tokens)

    real = Target.forward_tree
    monkeypatch.setattr(Target, "forward_tree", lambda self, state, tree: real(self, state, reversed_siblings(tree)))


def rows_not_compacted(monkeypatch):
    def lazy(self, path, rows=None):
        self.length += len(path)

    monkeypatch.setattr(TreeCache, "commit", lazy)


def any_child_will_do(monkeypatch):
    def first(tokens, parents, node, token):
        return next((child for child in range(node + 1, len(tokens)) if parents[child] == node), 0)

    monkeypatch.setattr(acceptance, "_child", first)


def cousins_are_children(monkeypatch):
    def same_token(tokens, parents, node, token):
        return next((child for child in range(node + 1, len(tokens)) if tokens[child] == token), 0)

    monkeypatch.setattr(acceptance, "_child", same_token)


LOGITS = [siblings_shine_through, positions_off_by_one, siblings_in_the_wrong_order]
"""Those that change what the target says at a node."""
ALL = [*LOGITS, rows_not_compacted, any_child_will_do, cousins_are_children]
