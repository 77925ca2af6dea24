"""Ranked prefixes by the kernel against its reference and against both forms of the host. FIELD_NOTES property 1."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caddtree.core import frontier as frontier_module
from caddtree.core.errors import InputError
from caddtree.core.frontier import heaviest_prefixes
from caddtree.core.marginals import Marginals
from caddtree.kernels import availability, prefix_ranking
from caddtree.kernels.prefix_ranking import packed_size, rank_prefixes, read_ranked, reference, triton_kernel
from tests.tree_builders.oracles import random_log_probs, tied_log_probs

INF, NAN = float("inf"), float("nan")
LARGEST = np.float32(1e-4)


def block(rows):
    """Return candidates with these log-probabilities; tokens differ from ranks and from row to row."""
    log_probs = torch.tensor(np.asarray(rows, np.float32))
    depth, width = log_probs.shape
    return torch.arange(depth * width).view(depth, width) * 3 + 500, log_probs


def random_block(kind, depth, width):
    log_probs = random_log_probs(depth + 16 * width, depth, width + 20)[:, :width]
    if kind == "tied":
        log_probs = np.maximum(np.round(log_probs), -3)
    if kind == "tails":
        log_probs = log_probs.copy()
        for row in range(depth):
            log_probs[row, 1 + row % width :] = -INF
    return block(log_probs)


def by_kernel(tokens, log_probs, max_nodes, stop_tokens=None):
    """Return the kernel's result, from memory that was full of something else."""
    empty = torch.empty
    with mock.patch.object(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(0x5EADBEEF)):
        return triton_kernel.rank_prefixes(tokens, log_probs, max_nodes, stop_tokens)


def assert_equals_reference(tokens, log_probs, max_nodes, stop_tokens=None):
    found = by_kernel(tokens, log_probs, max_nodes, stop_tokens)
    expected = reference.rank_prefixes(tokens, log_probs, max_nodes, stop_tokens)

    assert found.dtype == torch.int32
    assert found.tolist() == expected.tolist()
    return read_ranked(found, max_nodes)


def assert_equals_host(tokens, log_probs, max_nodes, stop_tokens=None):
    found = assert_equals_reference(tokens, log_probs, max_nodes, stop_tokens)
    stops = frozenset(() if stop_tokens is None else stop_tokens.tolist())
    for heap_nodes in (10**9, -1):
        with mock.patch.object(frontier_module, "_HEAP_NODES", heap_nodes):
            expected = heaviest_prefixes(Marginals(tokens, log_probs), max_nodes, stops)
        for name in ("parents", "depths", "ranks", "tokens"):
            assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
        assert found.log_weights.view(np.int32).tolist() == expected.log_weights.view(np.int32).tolist()
    last_ranks = expected.ranks[: max(max_nodes - 1, 0)] == log_probs.shape[1] - 1
    assert found.binds == (log_probs.shape[1] < max_nodes and bool(last_ranks.any()))
    assert found.is_usable == Marginals(tokens, log_probs).is_usable()
    return found


@pytest.mark.parametrize("kind", ["random", "tied", "tails"])
@pytest.mark.parametrize(
    ("depth", "width", "max_nodes"),
    [(1, 1, 1), (1, 17, 24), (2, 3, 7), (3, 2, 24), (5, 16, 2), (15, 1, 63), (15, 16, 1), (15, 17, 64), (9, 3, 65)],
)
def test_property_1_every_size_equals_the_host(kind, depth, width, max_nodes):
    """Sizes of 1, odd ones, powers of two and their neighbours; blocks with ties and with rows that run out."""
    found = assert_equals_host(*random_block(kind, depth, width), max_nodes)

    assert len(found.parents) > 0


def test_property_1_a_large_tree_equals_the_host():
    """More nodes than any power of two below, full of ties."""
    found = assert_equals_host(*random_block("tied", 15, 16), 130)

    assert len(found.parents) == 130


@settings(max_examples=25, deadline=None)
@given(log_probs=tied_log_probs(), max_nodes=st.integers(0, 20), stops=st.sets(st.integers(0, 30), max_size=3))
def test_property_1_exact_ties_and_stop_tokens_equal_the_host(log_probs, max_nodes, stops):
    """Certain tokens, candidates of probability 0, and tokens that end the text wherever they stand."""
    tokens, log_probs = block(log_probs)
    stop_tokens = torch.tensor(sorted(500 + 3 * place for place in stops), dtype=torch.int64)

    assert_equals_host(tokens, log_probs, max_nodes, stop_tokens)


@pytest.mark.parametrize(("depth", "width"), [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("max_nodes", [0, 5])
def test_without_candidates_there_are_no_nodes(depth, width, max_nodes):
    """Nothing to draft is no error."""
    log_probs = torch.zeros(depth, width)
    found = assert_equals_reference(log_probs.long(), log_probs, max_nodes)

    assert len(found.parents) == 0
    assert (found.is_usable, found.binds, found.is_ordered) == (True, False, True)


def test_no_nodes_may_be_asked_for():
    """The header still tells about the block."""
    assert assert_equals_host(*block([[-1.0, -2.0]]), 0).is_usable
    assert not assert_equals_host(*block([[NAN, -2.0]]), 0).is_usable


@pytest.mark.parametrize("last", [[NAN, -1.0], [-1.0, NAN], [INF, -1.0], [2e-4, -1.0], [-INF, -INF], [-INF, NAN]])
@pytest.mark.parametrize("place", [0, 2])
def test_a_row_without_a_usable_number_ends_the_block(last, place):
    """It and all behind it give no node; a row of -inf alone is nothing that a drafter must not return."""
    rows = [[-0.5, -1.5]] * 4
    rows[place] = last
    found = assert_equals_host(*block(rows), 24)

    assert found.depths.max(initial=0) == place
    assert found.is_usable == (last == [-INF, -INF])


def test_rounding_above_zero_counts_as_certain():
    """Up to the largest value that rounding leaves, and not a bit further."""
    above = np.nextafter(LARGEST, np.float32(1))
    found = assert_equals_host(*block([[LARGEST, -9.0], [5e-5, -9.0], [above, -9.0], [0.0, -9.0]]), 3)

    assert found.log_weights.tolist() == [0.0, 0.0, -9.0]
    assert found.depths.tolist() == [1, 2, 1]
    assert not found.is_usable


@pytest.mark.filterwarnings("ignore:overflow")
def test_numbers_at_the_edges_of_float32_keep_their_order():
    """Subnormal ones, a zero of either sign, and sums beyond the largest number."""
    found = assert_equals_reference(*block([[-0.0, -1e-45, -3e-45], [0.0, -2e-45, -1e-44], [-3e38, -3e38, -INF]]), 40)

    assert found.log_weights.view(np.int32)[0] == 0
    assert len(found.parents) == 3 + 9 + 18
    huge = assert_equals_reference(*block([[-3e38, -3.1e38], [-3e38, -INF]]), 9)
    assert huge.log_weights.tolist() == [np.float32(-3e38), np.float32(-3.1e38), -INF, -INF]


@pytest.mark.parametrize("rows", [[[-2.0, -1.0]], [[-1.0, -2.0], [-INF, -1.0]], [[-1.0, -2.0], [-0.5, 1e-5]]])
def test_a_row_that_is_not_ordered_is_reported(rows):
    """The host raises; the kernel says so and returns no nodes."""
    tokens, log_probs = block(rows)
    found = assert_equals_reference(tokens, log_probs, 6)

    assert not found.is_ordered
    assert len(found.parents) == 0
    with pytest.raises(InputError, match="best first"):
        heaviest_prefixes(Marginals(tokens, log_probs), 6)


def test_order_counts_only_before_the_end_of_the_block():
    """What is above 0 by rounding is in order, and a row behind the end is not looked at."""
    rows = [[2e-5, 5e-5], [-INF, -INF], [-2.0, -1.0]]

    assert assert_equals_host(*block(rows), 6).is_ordered


@pytest.mark.parametrize(("width", "max_nodes", "binds"), [(2, 5, False), (2, 6, True), (6, 6, False), (1, 3, True)])
def test_a_width_binds_when_a_node_of_the_last_rank_is_not_the_last_node(width, max_nodes, binds):
    """Its next sibling could only displace nodes behind it."""
    found = assert_equals_host(*block([np.arange(0, -width, -1)] * 4), max_nodes)

    assert found.binds == binds


@pytest.mark.parametrize("num_stops", [1, 2, 33])
def test_nothing_goes_on_behind_a_stop_token(num_stops):
    """Also with more stop tokens than a warp has threads; the last in the list is as good as the first."""
    tokens, log_probs = random_block("random", 6, 4)
    stops = torch.cat((torch.arange(num_stops - 1), tokens[1, :1]))
    found = assert_equals_host(tokens, log_probs, 30, stops)
    ends = 1 + np.flatnonzero(found.tokens == int(stops[-1]))

    assert len(ends) > 0
    assert not np.isin(found.parents, ends).any()


def test_a_stop_token_0_is_no_padding():
    """FIELD_NOTES bug 2: the id 0 ends the text if it is asked to, and only then."""
    tokens, log_probs = torch.zeros(3, 1, dtype=torch.int64), torch.full((3, 1), -1.0)

    assert len(assert_equals_host(tokens, log_probs, 5, torch.tensor([0])).parents) == 1
    assert len(assert_equals_host(tokens, log_probs, 5, torch.tensor([9])).parents) == 3


def test_token_ids_of_31_bits_come_back():
    """The largest vocabulary that a result can name."""
    tokens = torch.tensor([[2**31 - 1, 0]])

    assert assert_equals_host(tokens, torch.tensor([[-1.0, -2.0]]), 2).tokens.tolist() == [2**31 - 1, 0]


@pytest.mark.parametrize(("depth", "width"), [(63, 4), (20, 600), (40, 64)])
def test_blocks_that_are_examined_in_turns(depth, width):
    """A bad number in a late row is found, a deep chain is followed to its end."""
    rows = np.tile(np.linspace(-8, -9, width, dtype=np.float32), (depth, 1))
    rows[:, 0] = -0.01
    found = assert_equals_host(*block(rows), depth + 5)
    assert found.depths.max() == depth

    rows[depth - 2, width - 1] = NAN
    found = assert_equals_host(*block(rows), depth + 5)
    assert found.depths.max() == depth - 2
    assert not found.is_usable


def test_rows_may_be_strided():
    """Rows of wider tensors, each with a stride of its own."""
    tokens, log_probs = random_block("random", 5, 16)
    wide = torch.cat((tokens, tokens), dim=1)[:, :7]
    expected = assert_equals_host(tokens[:, :7].contiguous(), log_probs[:, :7].contiguous(), 12)
    found = assert_equals_host(wide, log_probs[:, :7], 12)

    assert wide.stride(0) != log_probs[:, :7].stride(0)
    assert found.tokens.tolist() == expected.tokens.tolist()


def test_the_door_takes_the_kernel_where_triton_runs_and_sizes_allow(monkeypatch):
    """Elsewhere the host ranks, with the same result."""
    taken = []
    kernel = triton_kernel.rank_prefixes
    monkeypatch.setattr(triton_kernel, "rank_prefixes", lambda *sizes: taken.append(sizes[2]) or kernel(*sizes))
    tokens, log_probs = random_block("random", 3, 4)
    on_host = rank_prefixes(tokens, log_probs, 5)
    monkeypatch.setattr(availability, "takes_triton", lambda tensor: tensor is log_probs)
    by_door = rank_prefixes(tokens, log_probs, 5)
    many = rank_prefixes(tokens, log_probs, prefix_ranking.MOST_KERNEL_NODES + 1)

    assert taken == [5]
    assert by_door.tolist() == on_host.tolist()
    assert len(many) == packed_size(prefix_ranking.MOST_KERNEL_NODES + 1)


@pytest.mark.parametrize("max_nodes", [1, 32, 33, 64, 65, 1024])
def test_every_parent_has_a_slot(max_nodes):
    """The last node is nobody's parent: as many slots as nodes are enough."""
    plan = triton_kernel.launch_plan(15, 64, max_nodes, 2)

    assert plan.constexprs["SLOTS"] >= max_nodes
    assert plan.constexprs["ROWS"] * plan.constexprs["COLUMNS"] <= 512
    assert plan.grid == (1,)
