"""The heaviest prefixes up to a fixed number of draft nodes."""

from __future__ import annotations

import attrs

from caddtree.core.context import RoundContext
from caddtree.core.draft_tree import DraftTree
from caddtree.core.frontier import heaviest_prefixes, tree_from_selection
from caddtree.core.marginals import Marginals
from caddtree.plugins.hooks import hookimpl
from caddtree.tree_builders.options import allowed_counts, at_least


@attrs.frozen
class DDTree:
    """Draft the ``node_budget`` heaviest prefixes in every round.

    Where the runtime runs certain node counts only, the largest within the budget is taken, else the smallest.

    Source: DDTree, arXiv:2604.12989.
    """

    node_budget: int = attrs.field(default=64, validator=at_least(1, hint="Set the number of draft nodes, e.g. 64."))
    """Draft nodes of a round, the root not counted."""

    @property
    def needs_cost_model(self) -> bool:
        """Never: the budget is fixed."""
        return False

    def build(self, marginals: Marginals, context: RoundContext) -> DraftTree:
        """Return the tree of the heaviest prefixes, smaller where the block has fewer."""
        count = self.node_budget
        if context.candidate_counts is not None:
            count = allowed_counts(context.candidate_counts, self.node_budget)[-1]
            drafting = [candidate for candidate in context.candidate_counts if candidate > 0]
            if context.row_buckets is not None and drafting and min(drafting) > self.node_budget:
                # smaller than every bucket: the budget stays a budget, and its rows are padded
                count = self.node_budget
        frontier = heaviest_prefixes(marginals.clip(context.max_depth), count, context.stop_tokens)
        return tree_from_selection(frontier, count, context)


@hookimpl
def register_tree_builders(registry):  # type: ignore[no-untyped-def]
    """Register the tree of a fixed budget."""
    registry.add("ddtree", DDTree)
