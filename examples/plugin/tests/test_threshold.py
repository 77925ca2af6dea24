"""The tree of likely prefixes keeps the contract of a tree builder, and its own promise."""

import math

from caddtree.testing import TreeBuilderContract, random_marginals, round_context

from caddtree_example.threshold import Threshold


class TestThreshold(TreeBuilderContract):
    strategy = Threshold
    options = {"min_probability": 0.02, "node_budget": 24}
    invalid_options = [{"min_probability": 0.0}, {"min_probability": 1.5}, {"node_budget": 0}]


def test_every_node_is_likely_enough_and_none_is_left_out():
    """Within the budget a higher threshold gives the part of the tree that is above it."""
    marginals, context = random_marginals(), round_context()
    wide, narrow = (Threshold(share, 1000).build(marginals, context).log_weights.tolist() for share in (0.001, 0.05))

    assert narrow == [weight for weight in wide if weight >= math.log(0.05)]
    assert 1 < len(narrow) < len(wide)
