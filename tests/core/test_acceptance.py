"""The walk: against an oracle that follows the choices, and mutants that break it. L-06, L-08."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caddtree.core import acceptance
from caddtree.core.acceptance import MatchChoice, Walk
from caddtree.core.errors import NumericalError
from caddtree.core.sampler import Sampler, gumbel_noise
from tests.core.test_target import random_tree


def oracle_walk(tree, choices):
    """Follow the choices through a dictionary of paths."""
    tokens, parents = tree.tokens.tolist(), tree.parents.tolist()
    children = {(parents[node], tokens[node]): node for node in range(1, len(tokens))}
    node, path, chosen = 0, [0], [choices[0]]
    while (node, choices[node]) in children:
        node = children[node, choices[node]]
        path.append(node)
        chosen.append(choices[node])
    return Walk(tuple(path), tuple(chosen))


def test_l08_ten_thousand_random_trees_walk_like_the_oracle():
    """L-08: a vocabulary of 4 makes long paths likely."""
    rng = random.Random(0)
    lengths = set()
    for _ in range(10_000):
        tree = random_tree(rng, rng.randint(1, 12), vocabulary=12)
        logits = torch.randn(tree.num_nodes, 12)
        # half of the nodes prefer a token that they have as a child
        for node in range(1, tree.num_nodes):
            if rng.random() < 0.7:
                logits[int(tree.parents[node]), int(tree.tokens[node])] += 8 * rng.random()
        walk = MatchChoice(Sampler()).walk(tree, logits, 5)
        lengths.add(len(walk.path))

        assert walk == oracle_walk(tree, logits.argmax(-1).tolist())
    assert max(lengths) >= 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.sampled_from([0.5, 1.0, 2.0]))
def test_sampled_walks_use_the_noise_of_the_nodes_position(seed, num_nodes, temperature):
    """At temperature > 0 the choice at depth d is keyed by context + d for every node."""
    rng = random.Random(seed)
    tree = random_tree(rng, num_nodes, vocabulary=30)
    logits = torch.randn(tree.num_nodes, 30, generator=torch.Generator().manual_seed(seed)) * 2
    noise = gumbel_noise(seed, range(11, 12 + tree.depth), 30)
    choices = (logits / temperature + noise[tree.depths]).argmax(-1).tolist()

    assert MatchChoice(Sampler(temperature=temperature, seed=seed)).walk(tree, logits, 11) == oracle_walk(tree, choices)


def first_sibling(tokens, parents, node, token):
    """Mutant: takes any child."""
    return next((child for child in range(node + 1, len(tokens)) if parents[child] == node), 0)


def any_parent(tokens, parents, node, token):
    """Mutant: forgets the parent."""
    return next((child for child in range(node + 1, len(tokens)) if tokens[child] == token), 0)


def skips_first(tokens, parents, node, token):
    """Mutant: off by one."""
    return next(
        (child for child in range(node + 2, len(tokens)) if parents[child] == node and tokens[child] == token), 0
    )


@pytest.mark.parametrize("mutant", [first_sibling, any_parent, skips_first])
def test_l06_mutants_of_the_walk_are_killed(mutant, monkeypatch):
    """L-06: each mutant disagrees with the oracle on some tree."""
    rng = random.Random(2)
    monkeypatch.setattr(acceptance, "_child", mutant)
    differences = 0
    for _ in range(300):
        tree = random_tree(rng, 8, vocabulary=4)
        logits = torch.randn(tree.num_nodes, 4)
        try:
            differences += MatchChoice(Sampler()).walk(tree, logits, 0) != oracle_walk(tree, logits.argmax(-1).tolist())
        except IndexError:
            differences += 1
    assert differences > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_ft20_a_bad_number_in_any_row_is_found(value):
    """FT-20: also in a row that the walk would never visit."""
    tree = random_tree(random.Random(0), 6)
    for row in range(6):
        logits = torch.randn(6, 61)
        logits[row, 60] = value
        with pytest.raises(NumericalError, match=f"row {row} of 6"):
            MatchChoice(Sampler()).walk(tree, logits, 9)


def test_a_cut_walk_keeps_the_last_kept_token_as_its_bonus():
    """Two tokens of a three-node path: two nodes are committed."""
    assert Walk((0, 1, 4), (7, 8, 9)).cut(2) == Walk((0, 1), (7, 8))
    assert Walk((0, 1, 4), (7, 8, 9)).cut(3) == Walk((0, 1, 4), (7, 8, 9))
