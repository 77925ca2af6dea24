"""Acceptance by depth, counted by hand."""

from __future__ import annotations

import pytest

from caddtree.core.records import Generation, Round, StageSeconds
from caddtree.experiments.acceptance import Acceptance, acceptance


def generation(*rounds):
    """A generation whose rounds are (accepted nodes, depth of the tree)."""
    made = [
        Round(
            index=index,
            context_length=9,
            num_draft_nodes=2 * depth,
            tree_depth=depth,
            tokens=(0,) * (accepted + 1),
            path=tuple(range(accepted + 1)),
            expected_acceptance=0.0,
            seconds=StageSeconds(0.1, 0.1, 0.1, 0.1),
            predicted_seconds=None,
        )
        for index, (accepted, depth) in enumerate(rounds)
    ]
    return Generation("", (), "length", 9, 0.0, tuple(made))


def test_shares_of_depths_are_counted_over_all_generations():
    """Four rounds with drafts, of 0, 1, 3 and 2 accepted nodes; the round without drafts is in no figure."""
    found = acceptance([generation((0, 3), (1, 3)), generation((3, 3), (0, 0), (2, 2))])

    assert found == Acceptance(4, 2.5, (0.75, 0.5, 0.25))


def test_a_depth_is_judged_among_the_rounds_that_reached_the_one_before():
    """0.75, then two of three, then one of two; a depth that nobody reached gives nothing to the next."""
    assert Acceptance(4, 2.5, (0.75, 0.5, 0.25, 0.0, 0.0)).given_reached == pytest.approx((0.75, 2 / 3, 1 / 2, 0, 0))


def test_without_drafts_there_is_no_acceptance():
    """Plain decoding, or nothing at all."""
    assert acceptance([generation((0, 0))]) == acceptance([]) == Acceptance(0, 0.0, ())


def test_without_drafts_no_depth_was_reached():
    """An empty row of a table, no error."""
    assert acceptance([]).given_reached == ()
