"""Reliability counts, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from caddtree.core.draft_tree import DraftTree
from caddtree.experiments.reliability import ReliabilityCount


def tree(parents, probabilities):
    """A tree from parents and conditional probabilities."""
    weights = [0.0]
    for parent, probability in zip(parents[1:], probabilities, strict=True):
        weights.append(weights[parent] + np.log(probability))
    return DraftTree.from_parents(range(len(parents)), parents, weights)


def test_children_of_walked_nodes_count_and_no_others():
    """0 -> 1 -> 2 accepted, 3 beside 1, 4 below 3 (never walked), 5 below 2 (refused)."""
    count = ReliabilityCount()
    count.add(tree([-1, 0, 1, 0, 3, 2], [0.62, 0.92, 0.22, 0.5, 0.32]), (0, 1, 2))
    found = count.result()

    expected = {12: (1, 1, 0.62), 18: (1, 1, 0.92), 4: (1, 0, 0.22), 6: (1, 0, 0.32)}
    for index in range(20):
        seen, right, total = expected.get(index, (0, 0, 0.0))
        assert (found.count[index], found.right[index]) == (seen, right)
        assert found.probability_sum[index] == pytest.approx(total)


def test_rounds_add_up_and_a_root_is_nobodys_child():
    """The last node of one tree is on the path: it must not be taken for the parent of the next tree's root."""
    count = ReliabilityCount()
    for _ in range(3):
        count.add(tree([-1, 0], [0.97]), (0, 1))
    count.add(DraftTree.root_only(4), (0,))
    found = count.result()

    assert (sum(found.count), sum(found.right), found.count[19]) == (3, 3, 3)


def test_certainty_falls_into_the_last_bin():
    """1.0, and what rounding makes of it."""
    count = ReliabilityCount()
    count.add(tree([-1, 0], [1.0]), (0,))
    assert count.result().count[19] == 1


def test_without_drafts_there_is_nothing_to_rely_on():
    """Plain decoding."""
    count = ReliabilityCount()
    count.add(DraftTree.root_only(4), (0,))
    assert count.result() is None
