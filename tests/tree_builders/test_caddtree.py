"""The choice of the tree and its size: L-12, FIELD_NOTES properties 1 and 9."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caddtree.core.errors import CompatibilityError, CostModelError, InputError
from caddtree.core.frontier import heaviest_prefixes
from caddtree.tree_builders.caddtree import CaDDTree
from tests.tree_builders.oracles import (
    TableCost,
    all_trees,
    narrow,
    probability,
    random_log_probs,
    round_context,
    tied_log_probs,
)


def theta(tree, seconds):
    return (1 + tree.expected_acceptance) / seconds[tree.num_drafts]


def convex(seed, size, *, flat=0):
    """Return seconds of which every increment is at least as large as the one before."""
    generator = np.random.default_rng(seed)
    increments = np.sort(generator.exponential(0.02, size))
    increments[:flat] = 0.0
    return 1.0 + np.concatenate(([0.0], np.cumsum(increments)))


def staircase(size, *, width=16, step=0.15):
    """Return seconds that rise only when another tile of rows begins."""
    return 1.0 + step * (np.arange(size + 1) // width)


def tables(seed, size):
    """Return one table of every kind that a machine may show."""
    noise = np.random.default_rng(seed).uniform(0.9, 1.1, size + 1)
    nodes = np.arange(size + 1)
    return {
        "convex": convex(seed, size),
        "concave": 1.0 + np.sqrt(nodes) / 3,
        "staircase": staircase(size, width=3),
        "noisy": (1.0 + 0.05 * nodes) * noise,
        "falling": 2.0 - nodes / (size + 1),
        "flat": np.ones(size + 1),
        "steep": 1.0 + 5.0 * nodes,
    }


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (1, 10), (10, 1)])
@pytest.mark.parametrize("kind", tables(0, 1))
@pytest.mark.parametrize("seed", range(3))
def test_l_12_no_tree_of_all_promises_more_tokens_per_second(shape, kind, seed):
    """Against every prefix-closed set of up to 10 nodes: the largest theta, and of equals the smallest size."""
    log_probs = random_log_probs(seed, *shape, scale=1.0)
    seconds = tables(seed, 10)[kind]
    best_of_size: dict[int, float] = {}
    for tree in all_trees(log_probs):
        if len(tree) <= 10:
            value = (1 + sum(probability(log_probs, prefix) for prefix in tree)) / seconds[len(tree)]
            best_of_size[len(tree)] = max(best_of_size.get(len(tree), 0.0), value)
    best = max(best_of_size.values())

    tree = CaDDTree(max_node_budget=10).build(narrow(log_probs, 1), round_context(cost_model=TableCost(seconds)))

    assert theta(tree, seconds) == pytest.approx(best, rel=1e-12)
    assert tree.num_drafts == min(size for size, value in best_of_size.items() if value >= best * (1 - 1e-13))


@settings(max_examples=200, deadline=None)
@given(log_probs=tied_log_probs(), seed=st.integers(0, 999), kind=st.sampled_from(sorted(tables(0, 1))))
def test_property_9_scan_equals_brute_force_over_all_sizes(log_probs, seed, kind):
    """Ties of weights, certain and impossible tokens included: the first size of the largest theta."""
    seconds = tables(seed, 120)[kind]
    phi = heaviest_prefixes(narrow(log_probs, 3), 120).expected_acceptance()
    scores = (1 + phi) / seconds[: len(phi)]

    tree = CaDDTree(max_node_budget=120).build(narrow(log_probs, 3), round_context(cost_model=TableCost(seconds)))

    assert tree.num_drafts == int(np.flatnonzero(scores == scores.max())[0])


@pytest.mark.parametrize("search", ["scan", "first_stop"])
@pytest.mark.parametrize("objective", ["ratio", "price"])
@pytest.mark.parametrize("scale", [1.0, 4.0, 9.0])
@pytest.mark.parametrize("seed", range(4))
def test_property_9_ranking_in_portions_never_changes_the_choice(search, objective, scale, seed):
    """Budgets far beyond the first portion of nodes choose what a loop over all sizes chooses."""
    log_probs = random_log_probs(seed, 15, 300, scale=scale)
    phi = heaviest_prefixes(narrow(log_probs, 300), 700).expected_acceptance()
    dip = staircase(700, width=100, step=0.3)
    dip[600:] = 1.0
    for seconds in [*tables(seed, 700).values(), convex(seed, 700, flat=200), dip]:
        ratio = (1 + phi) / seconds
        is_ratio = objective == "ratio" or ratio.max() >= 1.5
        score = ratio if is_ratio else (1 + phi) - 1.5 * seconds
        if search == "scan":
            expected = int(np.argmax(score))
        else:
            price = ratio if objective == "ratio" else np.maximum(ratio, 1.5)
            expected = 0
            while expected < 700 and phi[expected + 1] - phi[expected] > price[expected] * (
                seconds[expected + 1] - seconds[expected]
            ):
                expected += 1

        builder = CaDDTree(max_node_budget=700, search=search, objective=objective)
        context = round_context(cost_model=TableCost(seconds), tokens_per_second=1.5)
        chosen = builder.build(narrow(log_probs, 16), context).num_drafts

        # sums of tokens round: the two ways may settle an exact tie differently
        assert chosen == expected or score[chosen] == pytest.approx(score[expected], rel=1e-12)


@settings(max_examples=150, deadline=None)
@given(log_probs=tied_log_probs(), seed=st.integers(0, 999), flat=st.integers(0, 40))
def test_first_stop_equals_scan_under_convex_costs(log_probs, seed, flat):
    """The paper's greedy rule finds the same throughput where theta is unimodal."""
    seconds = convex(seed, 120, flat=flat)
    context = round_context(cost_model=TableCost(seconds, before=0.3))

    trees = [
        CaDDTree(max_node_budget=120, search=search).build(narrow(log_probs, 4), context)
        for search in ("scan", "first_stop")
    ]

    assert theta(trees[0], seconds) == pytest.approx(theta(trees[1], seconds), rel=1e-12)


def test_the_search_option_matters_where_costs_are_a_staircase():
    """The option flipped: the first step stops the greedy rule at the end of its tile, the scan looks beyond."""
    log_probs = random_log_probs(0, 15, 200, scale=9.0)
    context = round_context(cost_model=TableCost(staircase(256, step=0.05)))

    greedy = CaDDTree(search="first_stop").build(narrow(log_probs, 16), context).num_drafts
    scanned = CaDDTree(search="scan").build(narrow(log_probs, 16), context).num_drafts

    assert greedy == 15
    assert scanned > greedy
    assert scanned % 16 == 15


def test_the_product_form_takes_free_and_negative_increments():
    """While another node costs nothing or saves time, the greedy rule goes on; a division would not."""
    log_probs = random_log_probs(3, 8, 30)
    seconds = np.concatenate((np.full(20, 2.0), np.linspace(2.0, 1.5, 20), np.full(60, 50.0)))
    context = round_context(cost_model=TableCost(seconds))

    tree = CaDDTree(max_node_budget=90, search="first_stop").build(narrow(log_probs, 16), context)

    assert tree.num_drafts == 39


@pytest.mark.parametrize("search", ["scan", "first_stop"])
@pytest.mark.parametrize("objective", ["ratio", "price"])
def test_a_node_that_only_breaks_even_is_not_drafted(search, objective):
    """Of equally good sizes the smallest is taken: here the node brings exactly what it costs."""
    log_probs = np.array([[-0.75]], np.float32)
    seconds = np.array([1.0, 1.0 + np.exp(-0.75)])
    context = round_context(cost_model=TableCost(seconds), tokens_per_second=1.0)

    builder = CaDDTree(max_node_budget=1, search=search, objective=objective)
    assert builder.build(narrow(log_probs, 1), context).num_drafts == 0
    seconds[1] -= 1e-9
    assert builder.build(narrow(log_probs, 1), context).num_drafts == 1


@pytest.mark.parametrize("search", ["scan", "first_stop"])
def test_nodes_that_cannot_pay_are_not_ranked(search):
    """A large budget costs nothing where few nodes pay: the marginals are not even widened."""
    log_probs = random_log_probs(0, 15, 200, scale=9.0)
    marginals = narrow(log_probs, 16)
    context = round_context(cost_model=TableCost(1.0 + 0.05 * np.arange(1025)))
    widths = []

    def wider(width):
        widths.append(width)
        return marginals.wider(width)

    builder = CaDDTree(max_node_budget=1024, search=search)
    watched = builder.build(attrs.evolve(marginals, wider=wider), context)

    assert 0 < watched.num_drafts < 64
    assert widths == []


def test_the_objective_option_matters():
    """The option flipped: a long-run speed above this round's own buys fewer nodes, and the ratio looks at neither."""
    log_probs = random_log_probs(0, 15, 200, scale=7.0)
    seconds = 1.0 + 0.02 * np.arange(257)

    def nodes(objective, speed):
        context = round_context(cost_model=TableCost(seconds), tokens_per_second=speed)
        return CaDDTree(objective=objective).build(narrow(log_probs, 16), context).num_drafts

    phi = heaviest_prefixes(narrow(log_probs, 200), 256).expected_acceptance()
    own = float(((1 + phi) / seconds).max())
    for speed in (0.1 * own, 0.9 * own):
        assert nodes("price", speed) == nodes("ratio", speed) == int(np.argmax((1 + phi) / seconds))
    for speed in (1.5 * own, 30 * own):
        assert nodes("price", speed) == int(np.argmax((1 + phi) - speed * seconds)) < nodes("ratio", speed)


def test_the_price_of_the_first_round_is_its_ratio():
    """Without a long-run speed both objectives choose alike."""
    context = round_context(cost_model=TableCost(1.0 + 0.02 * np.arange(257)))
    marginals = narrow(random_log_probs(0, 15, 200, scale=7.0), 16)

    trees = [CaDDTree(objective=objective).build(marginals, context) for objective in ("ratio", "price")]

    assert trees[0].tokens.tolist() == trees[1].tokens.tolist()


def test_the_budget_bounds_the_scan():
    """The option flipped: where every node is free the budget decides."""
    context = round_context(cost_model=TableCost(np.ones(300)))
    marginals = narrow(random_log_probs(0, 15, 200, scale=3.0), 16)

    assert CaDDTree().build(marginals, context).num_drafts == 256
    assert CaDDTree(max_node_budget=100).build(marginals, context).num_drafts == 100


def test_no_draft_node_is_a_legal_answer():
    """Where a node costs more than it can bring, the tree is the root."""
    context = round_context(cost_model=TableCost(1.0 + 9.0 * np.arange(300)))

    tree = CaDDTree().build(narrow(random_log_probs(0, 5, 50), 16), context)

    assert tree.tokens.tolist() == [context.root_token]


def test_seconds_before_the_choice_count():
    """A dear drafter makes larger trees worth their cost: its seconds are part of the round."""
    marginals = narrow(random_log_probs(0, 15, 200, scale=7.0), 16)
    seconds = 1.0 + 0.02 * np.arange(300)

    cheap, dear = (
        CaDDTree().build(marginals, round_context(cost_model=TableCost(before + seconds, before=before))).num_drafts
        for before in (0.0, 5.0)
    )

    assert dear > cheap


@pytest.mark.parametrize(
    ("counts", "allowed"),
    [((7, 15, 31, 63), {7, 15, 31, 63}), ((0, 90, 5), {0, 5, 90}), ((23,), {23}), ((500,), {500})],
)
def test_candidate_counts_restrict_the_choice(counts, allowed):
    """Only counts of the runtime are chosen, the best of them; beyond the budget the smallest is left."""
    log_probs = random_log_probs(0, 15, 200, scale=7.0)
    phi = heaviest_prefixes(narrow(log_probs, 200), 500).expected_acceptance()
    for seconds in tables(1, 500).values():
        context = round_context(cost_model=TableCost(seconds), candidate_counts=counts)

        tree = CaDDTree(max_node_budget=100).build(narrow(log_probs, 16), context)

        within = sorted(allowed)
        assert tree.num_drafts == within[int(np.argmax([(1 + phi[n]) / seconds[n] for n in within]))]


def test_a_padded_size_beyond_the_block_pays_for_its_padding():
    """Six prefixes in buckets of 4 and 16: the larger is priced as 16, and only the first that holds them all."""
    log_probs = np.log(np.array([[0.6, 0.4], [0.6, 0.4]], np.float32))
    seconds = np.ones(65)
    seconds[64] = 0.1
    counts = (4, 16, 64)

    free = CaDDTree().build(narrow(log_probs, 2), round_context(cost_model=TableCost(seconds), candidate_counts=counts))
    seconds[16] = 9.0
    dear = CaDDTree().build(narrow(log_probs, 2), round_context(cost_model=TableCost(seconds), candidate_counts=counts))

    assert (free.num_drafts, dear.num_drafts) == (6, 4)


@attrs.frozen(eq=False)
class SwitchCost(TableCost):
    switch_seconds: float = 0.0


@pytest.mark.parametrize(
    ("previous_rows", "switch", "chosen"), [(None, 9.0, 16), (5, 9.0, 4), (5, 1e-3, 16), (17, 9.0, 16)]
)
def test_a_switch_of_rows_is_paid_for(previous_rows, switch, chosen):
    """The rows of the round before cost what they cost; others a switch more. A first round has nothing to keep to."""
    seconds = np.ones(65)
    model = SwitchCost(seconds, switch_seconds=switch)
    buckets = (1, 5, 17)
    context = round_context(
        cost_model=model, candidate_counts=(0, 4, 16), row_buckets=buckets, previous_rows=previous_rows
    )

    assert CaDDTree().build(narrow(random_log_probs(0, 15, 200, scale=3.0), 16), context).num_drafts == chosen


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 0.0])
def test_ft_18_a_cost_that_cannot_be_seconds_is_refused(bad):
    """The model, the value, the node count and the context are named."""
    seconds = np.ones(257)
    seconds[31] = bad
    context = round_context(cost_model=TableCost(seconds))

    with pytest.raises(CostModelError, match=rf"TableCost gave {bad:g} seconds for 31 draft nodes at context 100"):
        CaDDTree().build(narrow(random_log_probs(0, 4, 20), 16), context)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5])
def test_ft_18_a_drafting_cost_that_cannot_be_seconds_is_refused(bad):
    """The seconds before the choice are checked as well."""
    context = round_context(cost_model=TableCost(np.full(257, 9.0), before=bad))

    with pytest.raises(CostModelError, match=rf"TableCost gave {bad:g} seconds before the choice at context 100"):
        CaDDTree().build(narrow(random_log_probs(0, 4, 20), 16), context)


def test_a_cost_model_that_forgets_sizes_is_refused():
    """One number for all sizes is no answer."""

    class Lazy(TableCost):
        def after_choice_seconds(self, num_draft_nodes, context_length):
            return np.ones(1)

    with pytest.raises(CostModelError, match=r"Lazy gave costs of shape \(1,\) for 257 tree sizes"):
        CaDDTree().build(narrow(random_log_probs(0, 4, 20), 16), round_context(cost_model=Lazy(np.ones(1))))


def test_a_round_without_a_cost_model_is_refused():
    """The missing part is named."""
    with pytest.raises(CompatibilityError, match="tree_builder caddtree needs a cost_model"):
        CaDDTree().build(narrow(random_log_probs(0, 4, 20), 16), round_context())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_node_budget": 0}, "max_node_budget must be at least 1, found 0. Set the largest number"),
        ({"max_node_budget": 8.0}, "max_node_budget must be an integer, found 8.0"),
        ({"search": "greedy"}, "search must be one of scan, first_stop, found 'greedy'"),
        ({"search": 3}, "search must be a word, found 3; allowed are scan, first_stop"),
        ({"objective": "speed"}, "objective must be one of ratio, price, found 'speed'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    """Type before range, with the value found and what is allowed."""
    with pytest.raises(InputError, match=message):
        CaDDTree(**options)
