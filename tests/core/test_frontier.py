"""The frontier against a heap and against enumeration: FIELD_NOTES property 1, FT-22."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caddtree.core import frontier as frontier_module
from caddtree.core.errors import InputError
from caddtree.core.frontier import Frontier, argmax_chain, heaviest_prefixes, tree_from_selection
from caddtree.core.marginals import Marginals
from tests.tree_builders.oracles import (
    all_trees,
    heap_prefixes,
    narrow,
    probability,
    random_log_probs,
    round_context,
    tied_log_probs,
)


def as_rows(frontier: Frontier) -> list[tuple[int, int, int, np.float32]]:
    return list(
        zip(
            frontier.parents.tolist(),
            frontier.depths.tolist(),
            frontier.ranks.tolist(),
            frontier.log_weights,
            strict=True,
        )
    )


def prefixes(frontier: Frontier) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for parent, rank in zip(frontier.parents.tolist(), frontier.ranks.tolist(), strict=True):
        found.append((*found[parent], rank))
    return found[1:]


@settings(max_examples=300, deadline=None)
@given(log_probs=tied_log_probs(), max_nodes=st.integers(0, 80), width=st.integers(1, 12))
@example(log_probs=np.full((4, 9), -2.0, np.float32), max_nodes=9, width=3)
@example(log_probs=np.zeros((5, 3), np.float32), max_nodes=20, width=1)
def test_property_1_equals_the_heap_with_exact_ties_at_every_width(log_probs, max_nodes, width):
    """Parents, ranks, order and weights are the heap's, bit for bit, however narrow the marginals begin."""

    frontier = heaviest_prefixes(narrow(log_probs, width), max_nodes)

    assert as_rows(frontier) == heap_prefixes(log_probs, max_nodes)
    assert (frontier.tokens == 1000 - 3 * frontier.ranks).all()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("max_nodes", [1, 64, 1000])
def test_property_1_equals_the_heap_on_large_blocks(seed, max_nodes):
    """Fifteen positions of 700 candidates, from flat to peaked, give the heap's nodes in the heap's order."""
    log_probs = random_log_probs(seed, 15, 700, scale=1.0 + seed)

    frontier = heaviest_prefixes(narrow(log_probs, 16), max_nodes)

    assert as_rows(frontier) == heap_prefixes(log_probs, max_nodes)


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (1, 9), (9, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_property_1_the_first_n_nodes_are_the_best_tree_of_n(shape, seed):
    """No prefix-closed set of n nodes, of all there are, has a larger expected acceptance."""
    log_probs = random_log_probs(seed, *shape, scale=1.0)
    best: dict[int, float] = {}
    for tree in all_trees(log_probs):
        expected = sum(probability(log_probs, prefix) for prefix in tree)
        best[len(tree)] = max(best.get(len(tree), 0.0), expected)

    frontier = heaviest_prefixes(narrow(log_probs, 1), max(best))
    phi = frontier.expected_acceptance()

    assert len(frontier) == max(best)
    for count, expected in best.items():
        assert phi[count] == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("max_nodes", [1, 2, 17, 64, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_initial_width_changes_nothing(max_nodes, dtype):
    """Logits give one frontier from widths 1, 2, 3, 16 and the whole vocabulary, ties of 16 bits included."""
    logits = (torch.randn(7, 500, generator=torch.Generator().manual_seed(3)) * 2).to(dtype)
    whole = heaviest_prefixes(Marginals.from_logits(logits, 500), max_nodes)

    for width in (1, 2, 3, 16):
        frontier = heaviest_prefixes(Marginals.from_logits(logits, width), max_nodes)
        assert as_rows(frontier) == as_rows(whole)
        assert frontier.tokens.tolist() == whole.tokens.tolist()


def test_a_width_that_does_not_bind_is_kept():
    """Peaked marginals are not widened: their frontier ends far above the last candidates."""
    log_probs = random_log_probs(0, 6, 200, scale=9.0)

    frontier = heaviest_prefixes(narrow(log_probs, 16), 20)

    assert frontier.ranks.max() < 15
    assert frontier.marginals.width == 16


def test_a_width_is_not_widened_for_the_sibling_of_the_last_node():
    """A last node of the last rank does not ask for more: its next sibling would come after it."""
    log_probs = np.full((1, 50), -3.0, np.float32)

    assert heaviest_prefixes(narrow(log_probs, 8), 8).marginals.width == 8
    assert heaviest_prefixes(narrow(log_probs, 8), 9).marginals.width == 9
    two = np.array([[-0.1, -5.0, -6.0, -7.0], [-0.1, -9.0, -10.0, -11.0]], np.float32)
    assert prefixes(heaviest_prefixes(narrow(two, 3), 5))[-1] == (2,)
    assert heaviest_prefixes(narrow(two, 3), 5).marginals.width == 3
    assert heaviest_prefixes(narrow(two, 3), 6).marginals.width == 4


def test_the_result_names_marginals_as_wide_as_needed():
    """The widened marginals come back, so that a second, larger request need not select again."""
    log_probs = random_log_probs(1, 4, 300, scale=1.0)

    frontier = heaviest_prefixes(narrow(log_probs, 4), 100)

    assert frontier.marginals.width > frontier.ranks.max()


def test_ft_22_equal_probabilities_give_the_lowest_tokens_of_the_first_depth():
    """With all probabilities equal the tie rule fills depth 1 by token id before anything deeper."""
    frontier = heaviest_prefixes(Marginals.from_logits(torch.zeros(5, 900)), 70)

    assert frontier.depths.tolist() == [1] * 70
    assert frontier.tokens.tolist() == list(range(70))


def test_ft_22_more_nodes_than_prefixes():
    """A block with fewer prefixes than asked gives them all, each once."""
    frontier = heaviest_prefixes(Marginals.from_logits(torch.randn(3, 2)), 1000)

    assert len(frontier) == 2 + 4 + 8
    assert len(set(prefixes(frontier))) == 14


@pytest.mark.parametrize("row", [0, 1, 3])
def test_ft_22_a_row_of_minus_infinity_ends_the_block(row):
    """A position without candidates has no nodes, nor has any position behind it."""
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    logits[row] = -torch.inf

    frontier = heaviest_prefixes(Marginals.from_logits(logits, 4), 200)

    assert frontier.depths.max(initial=0) == row


def test_ft_22_tokens_of_probability_zero_are_never_nodes():
    """Candidates of -inf fill a row up, but no node carries one."""
    log_probs = np.array([[-0.5, -1.0, -np.inf], [-0.1, -np.inf, -np.inf]], np.float32)

    frontier = heaviest_prefixes(narrow(log_probs, 2), 50)

    assert sorted(prefixes(frontier)) == [(0,), (0, 0), (1,), (1, 0)]
    assert np.isfinite(frontier.log_weights).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.5])
def test_ft_21_a_row_that_is_no_distribution_ends_the_block(bad):
    """Rows from the first unusable number on are not used."""
    log_probs = random_log_probs(2, 5, 8)
    log_probs[2, 0] = bad

    assert heaviest_prefixes(narrow(log_probs, 8), 60).depths.max() == 2
    log_probs[0, 0] = bad
    assert len(heaviest_prefixes(narrow(log_probs, 8), 60)) == 0


def test_a_certain_token_never_outweighs_its_parent():
    """A log-probability that rounding left above 0 counts as 0, and the chain stays in order."""
    log_probs = np.array([[-0.5, -1.0], [3e-7, -9.0], [1e-7, -9.0]], np.float32)

    frontier = heaviest_prefixes(narrow(log_probs, 2), 3)

    assert prefixes(frontier) == [(0,), (0, 0), (0, 0, 0)]
    assert frontier.log_weights.tolist() == [-0.5] * 3


def test_rows_out_of_order_are_refused():
    """A drafter whose candidates are not ordered would break the search: the row and the values are named."""
    log_probs = np.array([[-0.5, -1.0], [-2.0, -1.0]], np.float32)

    with pytest.raises(InputError, match=r"best first, found log-probability -1 behind -2 in row 1"):
        heaviest_prefixes(narrow(log_probs, 2), 3)


def test_weights_are_float32_sums_from_the_root_and_phi_is_float64():
    """A weight is rounded after every depth, as a device would; the expected acceptance is not rounded so."""
    log_probs = random_log_probs(5, 12, 3)
    frontier = heaviest_prefixes(narrow(log_probs, 3), 40)
    expected = [probability(log_probs, prefix) for prefix in prefixes(frontier)]

    assert frontier.log_weights.dtype == np.float32
    assert frontier.expected_acceptance().dtype == np.float64
    assert frontier.expected_acceptance().tolist() == [0.0, *np.cumsum(expected)]


@settings(max_examples=100, deadline=None)
@given(log_probs=tied_log_probs(max_depth=15))
def test_the_argmax_chain_is_the_frontier_of_one_candidate_per_depth(log_probs):
    """The short way gives the same nodes and the same weights, bit for bit."""
    short, long = argmax_chain(narrow(log_probs, 3)), heaviest_prefixes(narrow(log_probs[:, :1], 1), 15)

    assert as_rows(short) == as_rows(long)
    assert short.tokens.tolist() == long.tokens.tolist()
    assert short.log_weights.dtype == np.float32


@pytest.mark.parametrize("depth", [0, 3])
def test_nothing_to_rank_gives_an_empty_frontier(depth):
    """No positions, no candidates or no nodes asked: the frontier is empty and its tree is the root."""
    empty = Marginals(torch.zeros(depth, 0, dtype=torch.int64), torch.zeros(depth, 0))

    for frontier in (heaviest_prefixes(empty, 5), heaviest_prefixes(narrow(random_log_probs(0, 2, 3), 3), 0)):
        assert len(frontier) == 0
        assert frontier.expected_acceptance().tolist() == [0.0]
        assert tree_from_selection(frontier, 5, round_context(root_token=3)).tokens.tolist() == [3]


@settings(max_examples=200, deadline=None)
@given(log_probs=tied_log_probs(), count=st.integers(0, 40))
def test_trees_are_numbered_with_the_argmax_chain_first(log_probs, count):
    """The chain takes the first numbers, the rest follow in weight order, and the nodes are the first ``count``."""
    frontier = heaviest_prefixes(narrow(log_probs, 4), 40)
    chosen = prefixes(frontier)[:count]
    chain = [prefix for prefix in chosen if not any(prefix)]
    numbered = [(), *chain, *[prefix for prefix in chosen if any(prefix)]]

    tree = tree_from_selection(frontier, count, round_context(root_token=7))

    assert tree.parents.tolist() == [-1, *[numbered.index(prefix[:-1]) for prefix in numbered[1:]]]
    assert tree.tokens.tolist() == [7, *[1000 - 3 * prefix[-1] for prefix in numbered[1:]]]
    assert tree.depths.tolist() == [len(prefix) for prefix in numbered]
    assert [chain.index(prefix) for prefix in chain] == [len(prefix) - 1 for prefix in chain]
    assert tree.expected_acceptance == pytest.approx(sum(probability(log_probs, prefix) for prefix in chosen))
    tree.check(max_depth=6, vocabulary_size=1001)


STOPS = frozenset({0, 3, 5})


def exhaustive_with_stops(log_probs, stop_tokens, max_nodes):
    """Every prefix of ranks that does not go on behind a stop token, heaviest first."""
    found = []

    def grow(prefix, weight):
        depth = len(prefix)
        if depth == len(log_probs) or (prefix and prefix[-1] in stop_tokens):
            return
        for token, log_prob in enumerate(log_probs[depth]):
            total = np.float32(weight + log_prob)
            found.append((-total, depth + 1, (*prefix, token)))
            grow((*prefix, token), total)

    grow((), np.float32(0.0))
    return [prefix for _, _, prefix in sorted(found)][:max_nodes]


@pytest.mark.parametrize("heap_nodes", [0, 1000])
@pytest.mark.parametrize("max_nodes", [1, 5, 17, 60, 200])
@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_drafted_behind_the_end_of_the_text(monkeypatch, heap_nodes, max_nodes, seed):
    """Both forms equal the exhaustive search without descendants of stop tokens; the tree is legal."""
    monkeypatch.setattr(frontier_module, "_HEAP_NODES", heap_nodes)
    log_probs = random_log_probs(seed, 4, 6)
    token_of_rank = narrow(log_probs, 6).tokens[0].tolist()
    frontier = heaviest_prefixes(narrow(log_probs, 6), max_nodes, frozenset(token_of_rank[rank] for rank in STOPS))

    assert prefixes(frontier) == exhaustive_with_stops(log_probs, STOPS, max_nodes)
    tree_from_selection(frontier, max_nodes, round_context(root_token=9)).check(max_depth=4, vocabulary_size=2000)


@pytest.mark.parametrize("width", [2, 16])
@pytest.mark.parametrize("max_nodes", [1, 2, 7, 33, 64])
@pytest.mark.parametrize("stop_tokens", [frozenset(), STOPS])
def test_the_heap_equals_the_levels(monkeypatch, max_nodes, width, stop_tokens):
    """Bit for bit, ties included: blocks of random logits, of equal logits, and of few distinct ones."""
    generator = torch.Generator().manual_seed(max_nodes)
    blocks = [torch.randn(9, 40, generator=generator) * 3, torch.zeros(5, 40)]
    blocks.append(torch.randint(0, 3, (7, 40), generator=generator).float())
    for logits in blocks:
        found = []
        for heap_nodes in (0, 1000):
            monkeypatch.setattr(frontier_module, "_HEAP_NODES", heap_nodes)
            frontier = heaviest_prefixes(Marginals.from_logits(logits, width), max_nodes, stop_tokens)
            found.append([getattr(frontier, name).tolist() for name in FIELDS])
        assert found[0] == found[1]


FIELDS = ("parents", "depths", "ranks", "tokens", "log_weights")


def test_the_argmax_chain_ends_with_the_text():
    """With the first stop token, which it keeps."""
    log_probs = random_log_probs(0, 5, 4)
    tokens = torch.tensor([[7], [8], [3], [9], [3]]).expand(5, 4)
    chain = argmax_chain(Marginals(tokens, torch.from_numpy(log_probs)), STOPS)

    assert chain.tokens.tolist() == [7, 8, 3]
