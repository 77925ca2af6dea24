"""A tree of likely prefixes only: few nodes where the drafter is sure of nothing."""

import math

import attrs
import numpy as np
from attrs.validators import ge, gt, instance_of, le
from caddtree.core.context import RoundContext
from caddtree.core.draft_tree import DraftTree
from caddtree.core.frontier import heaviest_prefixes, tree_from_selection
from caddtree.core.marginals import Marginals
from caddtree.plugins.hooks import KindRegistry, hookimpl


@attrs.frozen
class Threshold:
    """Draft every prefix that is at least ``min_probability`` likely, up to a budget."""

    min_probability: float = attrs.field(default=0.05, validator=[instance_of((int, float)), gt(0), le(1)])
    """Product of the drafter's probabilities along a path that a node must reach."""
    node_budget: int = attrs.field(default=64, validator=[instance_of(int), ge(1)])
    """Draft nodes of a round at most, the root not counted."""

    needs_cost_model = False

    def build(self, marginals: Marginals, context: RoundContext) -> DraftTree:
        """Return the tree of the prefixes above the threshold, the root alone where there is none."""
        most = min(self.node_budget, max(context.candidate_counts or (self.node_budget,)))
        frontier = heaviest_prefixes(marginals.clip(context.max_depth), most, context.stop_tokens)
        # heaviest first, and a parent is never lighter than its child: those above the threshold are a tree
        count = int(np.count_nonzero(frontier.log_weights >= math.log(self.min_probability)))
        return tree_from_selection(frontier, count, context)


@hookimpl
def register_tree_builders(registry: KindRegistry) -> None:
    """Register the tree of likely prefixes."""
    registry.add("threshold", Threshold)
