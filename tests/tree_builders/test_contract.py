"""What every builder promises, whatever it is given: FT-21, FT-22, depth and position limits."""

from __future__ import annotations

import numpy as np
import pluggy
import pytest
import torch

from caddtree.core.marginals import Marginals
from caddtree.core.protocols import TreeBuilder
from caddtree.plugins import hooks
from caddtree.tree_builders import caddtree, chain, ddtree
from tests.tree_builders.oracles import TableCost, narrow, random_log_probs, round_context

BUILDERS = [chain.Chain(), ddtree.DDTree(node_budget=40), caddtree.CaDDTree(max_node_budget=90)]
# cheap enough that every node pays
FREE = TableCost(np.full(2000, 1.0))


@pytest.fixture(params=BUILDERS, ids=lambda builder: type(builder).__name__)
def builder(request):
    return request.param


def test_it_is_a_tree_builder_that_says_whether_it_needs_costs(builder):
    """The protocol holds, and only CaDDTree asks for a cost model."""
    assert isinstance(builder, TreeBuilder)
    assert builder.needs_cost_model == isinstance(builder, caddtree.CaDDTree)


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 12, 400])
@pytest.mark.parametrize("reason", ["remaining_tokens", "position_limit"])
def test_the_tree_is_never_deeper_than_the_round_allows(builder, limit, reason):
    """Remaining tokens and the position limit both clip the block; nothing left is the root alone."""
    log_probs = random_log_probs(0, 12, 60, scale=30.0)
    bound = {"remaining_tokens": limit + 1} if reason == "remaining_tokens" else {"position_limit": 101 + limit}
    context = round_context(cost_model=FREE, **bound)

    tree = builder.build(narrow(log_probs, 16), context)

    assert context.max_depth == limit
    assert tree.depth == min(limit, 12)
    assert int(tree.tokens[0]) == context.root_token
    tree.check(max_depth=limit, vocabulary_size=1001)


def test_the_widest_clip_equals_marginals_of_that_depth(builder):
    """Clipping at the round's depth gives the tree of the shorter block, not a cut of the deeper tree."""
    log_probs = random_log_probs(1, 9, 40, scale=4.0)

    clipped = builder.build(narrow(log_probs, 16), round_context(cost_model=FREE, remaining_tokens=4))
    shorter = builder.build(narrow(log_probs[:3], 16), round_context(cost_model=FREE))

    assert clipped.tokens.tolist() == shorter.tokens.tolist()
    assert clipped.parents.tolist() == shorter.parents.tolist()


@pytest.mark.parametrize("logits", ["equal", "ties", "vocabulary of 3", "empty row", "first row empty"])
def test_ft_22_degenerate_rows_give_one_legal_tree(builder, logits):
    """Equal, tied, few or no candidates: twice the same tree, within the budget, without equal siblings."""
    rows = {
        "equal": torch.zeros(6, 500),
        "ties": torch.arange(500).remainder(3).float().expand(6, 500).clone(),
        "vocabulary of 3": torch.randn(6, 3),
        "empty row": torch.randn(6, 500).index_fill(0, torch.tensor([3]), -torch.inf),
        "first row empty": torch.randn(6, 500).index_fill(0, torch.tensor([0]), -torch.inf),
    }[logits]
    context = round_context(cost_model=FREE)

    trees = [builder.build(Marginals.from_logits(rows, width), context) for width in (1, 16, 500)]

    for tree in trees:
        tree.check(max_depth={"empty row": 3, "first row empty": 0}.get(logits, 6), vocabulary_size=500)
        assert tree.num_drafts <= 90
        assert tree.tokens.tolist() == trees[0].tokens.tolist()
        assert tree.parents.tolist() == trees[0].parents.tolist()
        assert torch.equal(tree.log_weights, trees[0].log_weights)


@pytest.mark.parametrize(("bad_row", "depth"), [(0, 0), (3, 3)])
def test_ft_21_rows_from_the_first_nan_on_are_not_drafted(builder, bad_row, depth):
    """NaN at a position ends the block there; at the first it leaves the root."""
    log_probs = random_log_probs(0, 6, 30, scale=8.0)
    log_probs[bad_row] = np.nan

    assert builder.build(narrow(log_probs, 16), round_context(cost_model=FREE)).depth == depth


def test_no_positions_give_the_root_alone(builder):
    """A block of depth 0 is a legal draft."""
    marginals = narrow(random_log_probs(0, 1, 5), 5).clip(0)

    assert builder.build(marginals, round_context(cost_model=FREE)).num_nodes == 1


def test_the_built_in_builders_register_through_the_hooks():
    """Names and classes as recipes use them, through the hook that plugins use."""
    found = {}

    class Registry:
        def add(self, name, strategy_class):
            found[name] = strategy_class

    manager = pluggy.PluginManager(hooks.PROJECT_NAME)
    manager.add_hookspecs(hooks)
    for module in (chain, ddtree, caddtree):
        manager.register(module)
    manager.hook.register_tree_builders(registry=Registry())

    assert found == {"chain": chain.Chain, "ddtree": ddtree.DDTree, "caddtree": caddtree.CaDDTree}
