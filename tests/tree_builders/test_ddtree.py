"""The tree of a fixed budget (FIELD_NOTES property 1)."""

from __future__ import annotations

import pytest

from caddtree.core.errors import InputError
from caddtree.tree_builders.ddtree import DDTree
from tests.tree_builders.oracles import all_trees, narrow, probability, random_log_probs, round_context


@pytest.mark.parametrize("budget", range(1, 13))
def test_property_1_no_tree_of_the_budget_expects_more(budget):
    """Against every prefix-closed set of that many nodes."""
    log_probs = random_log_probs(budget, 2, 3, scale=1.0)
    best = max(
        sum(probability(log_probs, prefix) for prefix in tree) for tree in all_trees(log_probs) if len(tree) == budget
    )

    tree = DDTree(node_budget=budget).build(narrow(log_probs, 1), round_context())

    assert tree.num_drafts == budget
    assert tree.expected_acceptance == pytest.approx(best, rel=1e-12)


def test_the_budget_bounds_the_draft_nodes():
    """The option flipped: other budgets, other trees; the default is 64."""
    marginals = narrow(random_log_probs(0, 10, 100), 16)

    assert DDTree().build(marginals, round_context()).num_drafts == 64
    assert DDTree(node_budget=5).build(marginals, round_context()).num_drafts == 5


@pytest.mark.parametrize(("budget", "count"), [(3, 7), (7, 7), (20, 15), (31, 31), (99, 31)])
def test_candidate_counts_give_the_largest_within_the_budget_else_the_smallest(budget, count):
    """The runtime's grid wins over the budget."""
    marginals = narrow(random_log_probs(0, 10, 100), 16)

    tree = DDTree(node_budget=budget).build(marginals, round_context(candidate_counts=(15, 31, 7)))

    assert tree.num_drafts == count


def test_a_block_with_fewer_prefixes_gives_them_all():
    """2 + 4 + 8 prefixes are a tree of 14, whatever the budget."""
    tree = DDTree(node_budget=64).build(narrow(random_log_probs(0, 3, 2), 2), round_context())

    assert tree.num_drafts == 14


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0, "node_budget must be at least 1, found 0. Set the number of draft nodes"),
        (1.5, "node_budget must be an integer, found 1.5"),
        (False, "node_budget must be an integer, found False"),
        (None, "node_budget must be an integer, found None"),
    ],
)
def test_a_wrong_budget_is_refused(budget, message):
    """Type before range, with the value found and what to set."""
    with pytest.raises(InputError, match=message):
        DDTree(node_budget=budget)
