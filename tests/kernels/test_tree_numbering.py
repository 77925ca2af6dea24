"""Numbered trees by the kernel against its reference, the host and the packet of a round. FIELD_NOTES bug 1."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch

from caddtree.core.frontier import heaviest_prefixes, tree_from_selection
from caddtree.core.marginals import Marginals
from caddtree.core.tree_packet import pack_tree
from caddtree.kernels import availability
from caddtree.kernels.prefix_ranking import rank_prefixes
from caddtree.kernels.tree_numbering import number_tree, reference, triton_kernel
from tests.tree_builders.oracles import random_log_probs, round_context

ROOT, CONTEXT = 7, 100


def ranked(log_probs, max_nodes, stops=()):
    """Return a packed list and the host's frontier of the same block."""
    log_probs = torch.from_numpy(np.asarray(log_probs, np.float32))
    tokens = torch.arange(log_probs.numel()).view(log_probs.shape) * 3 + 500
    stop_tokens = torch.tensor([500 + 3 * place for place in stops], dtype=torch.int64)
    frontier = heaviest_prefixes(Marginals(tokens, log_probs), max_nodes, frozenset(stop_tokens.tolist()))
    return rank_prefixes(tokens, log_probs, max_nodes, stop_tokens), frontier


def by_kernel(packed, count, num_rows, root_token=ROOT, context_length=CONTEXT):
    """Return the kernel's result, from memory that was full of something else."""
    empty = torch.empty
    with mock.patch.object(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(0x5EADBEEF)):
        return triton_kernel.number_tree(packed, count, root_token, num_rows, context_length)


def assert_same(found, expected):
    for name in ("packet", "tokens", "parents", "depths", "visibility", "order", "log_weights"):
        left, right = getattr(found, name), getattr(expected, name)
        assert left.dtype == right.dtype, name
        assert left.tolist() == right.tolist(), name


def assert_equals_host(packed, frontier, count, num_rows):
    found = by_kernel(packed, count, num_rows)
    assert_same(found, reference.number_tree(packed, count, ROOT, num_rows, CONTEXT))

    expected = tree_from_selection(frontier, count, round_context(root_token=ROOT, context_length=CONTEXT))
    nodes = expected.num_nodes
    for name in ("tokens", "parents", "depths", "log_weights"):
        assert getattr(found, name)[:nodes].tolist() == getattr(expected, name).tolist(), name
    words = expected.packed_visibility()
    assert found.visibility[:nodes, : words.shape[1]].tolist() == words.tolist()
    assert not found.visibility[:nodes, words.shape[1] :].any()
    assert found.packet.tolist() == pack_tree(expected, CONTEXT, num_rows).tolist()
    return found


@pytest.mark.parametrize("padding", [0, 1, 7])
@pytest.mark.parametrize("stops", [(), (12,), (0,), (1, 24)])
def test_every_count_equals_the_host(stops, padding):
    """Also where the arg-max chain ends with a stop token and the first of a depth lies on another branch."""
    packed, frontier = ranked(random_log_probs(3, 6, 12), 20, stops)
    for count in range(21):
        assert_equals_host(packed, frontier, count, count + 1 + padding)


@pytest.mark.parametrize("count", [62, 63, 64, 65, 127, 128, 130])
def test_trees_of_several_words_equal_the_host(count):
    """Bit 63 is a sign, and a word may begin with the first row of padding."""
    packed, frontier = ranked(random_log_probs(5, 15, 16), 130)

    assert_equals_host(packed, frontier, count, count + 1)
    assert_equals_host(packed, frontier, count, 131)


@pytest.mark.parametrize(
    ("log_probs", "depth"),
    [
        (np.full((63, 1), -0.1), 63),
        # the second branch of the root comes between the nodes of the chain
        ([[-0.1, -3.5], *[[-0.1, -30.0]] * 62], 63),
        ([[-0.02, -3.5], *[[-0.02, -30.0]] * 79], 80),
        (np.full((1, 40), -1.0), 1),
        (np.zeros((4, 3)), 4),
    ],
)
def test_chains_stars_and_ties_equal_the_host(log_probs, depth):
    """Deep chains, also deeper than the ranking kernel goes, alone and with branches; one depth; equal weights."""
    packed, frontier = ranked(log_probs, 95)
    found = assert_equals_host(packed, frontier, len(frontier), len(frontier) + 5)

    assert found.depths.max() == depth


def test_the_largest_tree_equals_the_host():
    """1024 draft nodes in 1025 rows of 17 words."""
    packed, frontier = ranked(random_log_probs(8, 12, 60), 1024)
    found = assert_equals_host(packed, frontier, 1024, 1025)

    assert found.visibility.shape == (1025, 17)


def test_the_order_leads_back_to_the_ranked_list():
    """A host that has read the list needs nothing else of the tree."""
    packed, frontier = ranked(random_log_probs(1, 5, 8), 12)
    found = by_kernel(packed, 9, 16)
    places = found.order[1:10].long() - 1

    assert found.order.tolist()[:1] + found.order.tolist()[10:] == [0] + [-1] * 6
    assert sorted(places.tolist()) == list(range(9))
    assert found.tokens[1:10].tolist() == frontier.tokens[places].tolist()
    assert found.log_weights[1:10].tolist() == frontier.log_weights[places].tolist()


def test_no_more_nodes_are_taken_than_were_ranked():
    """A block that gave fewer prefixes than were asked for."""
    packed, frontier = ranked([[-1.0, -2.0], [-np.inf, -np.inf]], 9)
    found = assert_equals_host(packed, frontier, 9, 12)

    assert found.packet[1] == 3


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_numbers_may_lie_on_the_device(dtype):
    """Count, token and context length as tensors give what the same ints do; a count beyond the rows is cut."""
    packed, _ = ranked(random_log_probs(2, 4, 6), 10)
    count, token, context = (torch.tensor([number], dtype=dtype) for number in (6, 2**31 - 1, 40))
    found = by_kernel(packed, count, 8, token, context)
    cut = by_kernel(packed, torch.tensor([10], dtype=dtype), 8)

    assert_same(found, by_kernel(packed, 6, 8, 2**31 - 1, 40))
    assert_same(found, reference.number_tree(packed, count, token, 8, context))
    assert_same(cut, reference.number_tree(packed, torch.tensor([10], dtype=dtype), ROOT, 8, CONTEXT))
    assert_same(cut, by_kernel(packed, 7, 8))


def test_without_a_context_length_the_packet_says_0():
    """Who needs none gives none."""
    packed, _ = ranked(random_log_probs(2, 4, 6), 10)
    found = by_kernel(packed, 3, 4, context_length=None)

    assert_same(found, reference.number_tree(packed, 3, ROOT, 4, None))
    assert found.packet[:2].tolist() == [0, 4]


@pytest.mark.parametrize("count", [3, torch.tensor([3])])
def test_rows_that_hold_no_tree_are_refused(count):
    """The message names both numbers; a count on the device needs a row for the root."""
    packed, _ = ranked(random_log_probs(2, 4, 6), 10)
    num_rows = 3 if isinstance(count, int) else 0
    with pytest.raises(ValueError, match=f"does not fit {num_rows} rows"):
        number_tree(packed, count, ROOT, num_rows)


def test_the_door_takes_the_kernel_where_triton_runs(monkeypatch):
    """Elsewhere the host numbers, with the same result."""
    taken = []
    kernel = triton_kernel.number_tree
    monkeypatch.setattr(triton_kernel, "number_tree", lambda *sizes: taken.append(sizes[3]) or kernel(*sizes))
    packed, _ = ranked(random_log_probs(2, 4, 6), 10)
    on_host = number_tree(packed, 5, ROOT, 8, CONTEXT)
    monkeypatch.setattr(availability, "takes_triton", lambda tensor: tensor is packed)
    by_door = number_tree(packed, 5, ROOT, 8, CONTEXT)

    assert taken == [8]
    assert_same(by_door, on_host)
