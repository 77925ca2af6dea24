"""The arg-max path of the marginals: what DFlash verifies without a tree."""

from __future__ import annotations

import attrs

from caddtree.core.context import RoundContext
from caddtree.core.draft_tree import DraftTree
from caddtree.core.frontier import argmax_chain, tree_from_selection
from caddtree.core.marginals import Marginals
from caddtree.plugins.hooks import hookimpl
from caddtree.tree_builders.options import allowed_counts, at_least


@attrs.frozen
class Chain:
    """Draft the likeliest token of every position, one path without branches.

    Source: DFlash, arXiv:2602.06036.
    """

    length: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(at_least(1, hint="Leave it out to draft the whole block.")),
    )
    """Draft nodes at most; None drafts the whole block."""

    @property
    def needs_cost_model(self) -> bool:
        """Never: the length is fixed."""
        return False

    def build(self, marginals: Marginals, context: RoundContext) -> DraftTree:
        """Return the arg-max path, no deeper than the round allows."""
        depth = min(context.max_depth, marginals.depth if self.length is None else self.length)
        if context.candidate_counts is not None:
            depth = min(depth, allowed_counts(context.candidate_counts, depth)[-1])
        return tree_from_selection(argmax_chain(marginals.clip(depth), context.stop_tokens), depth, context)


@hookimpl
def register_tree_builders(registry):  # type: ignore[no-untyped-def]
    """Register the chain."""
    registry.add("chain", Chain)
