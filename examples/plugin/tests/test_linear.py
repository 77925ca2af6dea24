"""The straight line keeps the contract of a cost model."""

from caddtree.testing import CostModelContract

from caddtree_example.linear import Linear


class TestLinear(CostModelContract):
    strategy = Linear
    options = {"draft_seconds": 0.002, "base_seconds": 0.01, "node_seconds": 0.0005}
    invalid_options = [
        {"draft_seconds": -0.001},
        {"base_seconds": 0.0},
        {"node_seconds": -0.001},
        {"node_seconds": float("inf")},
    ]
