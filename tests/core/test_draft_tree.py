"""The draft tree: visibility, packed bits, and what ``check`` refuses."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caddtree.core.draft_tree import DraftTree, visibility_mask
from caddtree.core.errors import TreeError


@st.composite
def parent_lists(draw: st.DrawFn) -> list[int]:
    size = draw(st.integers(0, 150))
    return [-1, *[draw(st.integers(0, node)) for node in range(size)]]


def naive_mask(parents: list[int]) -> torch.Tensor:
    mask = torch.zeros(len(parents), len(parents), dtype=torch.bool)
    for node in range(len(parents)):
        seen = node
        while seen != -1:
            mask[node, seen] = True
            seen = parents[seen]
    return mask


@settings(max_examples=60, deadline=None)
@given(parents=parent_lists())
def test_a_node_sees_itself_and_its_ancestors(parents):
    """The mask equals a walk from every node up to the root."""
    mask = visibility_mask(torch.tensor(parents))

    assert mask.dtype == torch.bool
    assert torch.equal(mask, naive_mask(parents))


@settings(max_examples=60, deadline=None)
@given(parents=parent_lists())
def test_packed_bits_are_the_mask(parents):
    """Bit ``j % 64`` of word ``j // 64`` is node j; bits beyond the last node are 0."""
    tree = DraftTree.from_parents([5] * len(parents), parents)

    packed = tree.packed_visibility()

    assert packed.dtype == torch.int64
    assert packed.shape == (len(parents), -(-len(parents) // 64))
    bits = (packed[:, :, None] >> torch.arange(64)) & 1
    assert torch.equal(bits.flatten(1)[:, : len(parents)].bool(), naive_mask(parents))
    assert not bits.flatten(1)[:, len(parents) :].any()


def test_siblings_do_not_see_each_other():
    """Two children of the root see the root and themselves only."""
    mask = DraftTree.from_parents([1, 2, 3], [-1, 0, 0]).visibility_mask()

    assert mask.tolist() == [[True, False, False], [True, True, False], [True, False, True]]


def test_the_root_alone_is_a_tree():
    """A round without draft nodes has one node, depth 0, no expected acceptance and one bit."""
    tree = DraftTree.root_only(42)

    assert (tree.num_nodes, tree.num_drafts, tree.depth, tree.expected_acceptance) == (1, 0, 0, 0.0)
    assert tree.packed_visibility().tolist() == [[1]]
    tree.check(max_depth=0, vocabulary_size=43)


def test_from_parents_derives_depths_and_keeps_weights():
    """Depths follow from parents; the expected acceptance is the sum of the draft nodes' weights."""
    tree = DraftTree.from_parents([9, 1, 2, 3], [-1, 0, 1, 0], np.log([1.0, 0.5, 0.25, 0.125]))

    assert tree.depths.tolist() == [0, 1, 2, 1]
    assert tree.depth == 2
    assert tree.expected_acceptance == pytest.approx(0.875, rel=1e-6)


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([-1, 1], "node 1 must follow its parent, found parent 1"),
        ([-1, -1], "node 1 .* found parent -1"),
        ([0], "node 0"),
    ],
)
def test_from_parents_refuses_a_parent_behind_its_child(parents, message):
    """The node and the parent found are named."""
    with pytest.raises(TreeError, match=message):
        DraftTree.from_parents([1] * len(parents), parents)


def test_from_parents_refuses_unequal_lengths():
    """All three lengths are named."""
    with pytest.raises(TreeError, match="found 3, 2 and 2"):
        DraftTree.from_parents([1, 2, 3], [-1, 0])


SOUND = DraftTree.from_parents([3, 1, 2, 4, 1], [-1, 0, 0, 1, 2])


@pytest.mark.parametrize(
    ("field", "node", "value", "message"),
    [
        ("parents", 0, 0, "node 0 of a draft tree must be the root"),
        ("depths", 0, 1, "node 0 of a draft tree must be the root"),
        ("parents", 1, 3, "node 1 must follow its parent, found parent 3"),
        ("parents", 2, -1, "node 2 must follow its parent, found parent -1"),
        ("depths", 3, 1, "node 3 must be one deeper than its parent, found depth 1"),
        ("tokens", 4, 10, "must lie in 0..9, found 10"),
        ("tokens", 1, -1, "must lie in 0..9, found -1"),
        ("tokens", 2, 1, "two children of one node carry the same token"),
    ],
)
def test_check_refuses_every_mutant(field, node, value, message):
    """One wrong number in a sound tree is found, and named."""
    SOUND.check(max_depth=2, vocabulary_size=10)
    values = getattr(SOUND, field).clone()
    values[node] = value

    with pytest.raises(TreeError, match=message):
        attrs.evolve(SOUND, **{field: values}).check(max_depth=2, vocabulary_size=10)


def test_check_refuses_a_tree_that_is_too_deep():
    """The allowed and the found depth are named."""
    with pytest.raises(TreeError, match="at most 1 deep, found 2"):
        SOUND.check(max_depth=1, vocabulary_size=10)


def test_check_lets_cousins_share_a_token():
    """The same token under two parents, and the root's own token as a draft, are legal."""
    DraftTree.from_parents([1, 1, 2, 1, 1], [-1, 0, 0, 1, 2]).check(max_depth=2, vocabulary_size=3)


def test_a_tree_made_from_a_placed_one_has_no_packet():
    """Its nodes are others: the packet of the first would be verified in its place."""
    tree = DraftTree.from_parents([3, 4, 5], [-1, 0, 0])
    placed = tree.placed(torch.zeros(20, dtype=torch.int64), 4)
    trimmed = attrs.evolve(placed, tokens=placed.tokens[:2], parents=placed.parents[:2], depths=placed.depths[:2])

    assert (placed.packet_rows, len(placed.packet)) == (4, 20)
    assert tree.packet is None
    assert (trimmed.packet, trimmed.packet_rows) == (None, 0)
