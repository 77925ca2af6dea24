"""Tree attention: the reference against a slow oracle, the kernel (interpreted) against the reference, and the door."""

from __future__ import annotations

import inspect
import math
import random
import subprocess
import sys

import attrs
import pytest
import torch
import torch.nn.functional as F

from caddtree.core.draft_tree import DraftTree
from caddtree.kernels import availability
from caddtree.kernels import tree_attention as package
from caddtree.kernels.tree_attention import reference, tree_attention, triton_kernel
from caddtree.kernels.tree_attention.triton_kernel import choose_splits, choose_tiles, launch_plan

TOLERANCES = {torch.float32: {"rtol": 1e-5, "atol": 5e-6}, torch.float16: {"rtol": 2e-3, "atol": 2e-3}}


@attrs.frozen(eq=False)
class Problem:
    """Inputs of one call, and the trees they come from."""

    parents: list[list[int]]
    tensors: dict[str, torch.Tensor]
    depths: torch.Tensor
    scale: float

    def options(self, window=None, softcap=None, sinks=None):
        return {"scale": self.scale, "depths": self.depths, "window": window, "softcap": softcap, "sinks": sinks}


def parents_of(kind: str, num_nodes: int, generator: random.Random) -> list[int]:
    make = {
        "chain": lambda node: node - 1,
        "star": lambda node: 0,
        "random": lambda node: generator.randrange(node),
        # mostly a chain: deep, with branches
        "deep": lambda node: max(0, node - 1 - generator.randrange(3)),
    }[kind]
    return [-1] + [make(node) for node in range(1, num_nodes)]


def problem(
    num_nodes, contexts, *, heads=2, kv_heads=1, head_dim=16, kind="random", dtype=torch.float32, index=torch.int64
) -> Problem:
    """Random inputs; the queries are a view as models make them, and every row that must not matter is NaN or inf."""
    generator = torch.Generator().manual_seed(num_nodes)
    batch, capacity = len(contexts), max(contexts) + num_nodes + 3

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    parents = [parents_of(kind, num_nodes, random.Random(seed)) for seed in range(batch)]
    trees = [DraftTree.from_parents([0] * num_nodes, nodes) for nodes in parents]
    keys, values = normal(batch, kv_heads, capacity, head_dim), normal(batch, kv_heads, capacity, head_dim)
    for sequence, context in enumerate(contexts):
        keys[sequence, :, context + num_nodes :] = math.nan
        values[sequence, :, context + num_nodes :] = math.nan
        values[sequence, :, -1] = math.inf
    tensors = {
        "query": normal(batch, num_nodes, heads, head_dim).transpose(1, 2),
        "keys": keys,
        "values": values,
        "visibility": torch.stack([tree.packed_visibility() for tree in trees]),
        "context_lengths": torch.tensor(contexts, dtype=index),
    }
    return Problem(parents, tensors, torch.stack([tree.depths for tree in trees]).to(index), head_dim**-0.5)


@pytest.fixture(autouse=True)
def poisoned_allocations(monkeypatch):
    """Output and workspace start as NaN: what is read before it is written shows."""
    empty = torch.empty

    def poisoned(*arguments, **options):
        made = empty(*arguments, **options)
        return made.fill_(math.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)


def check(case: Problem, *, num_splits=2, **options):
    """The kernel computes what the reference does."""
    options = case.options(**options)
    expected = reference.tree_attention(**case.tensors, **options)
    found = triton_kernel.tree_attention(**case.tensors, **options, num_splits=num_splits)

    assert found.is_contiguous()
    assert found.dtype == expected.dtype
    assert not expected.isnan().any()
    torch.testing.assert_close(found, expected, **TOLERANCES[found.dtype])
    return found


# the reference


def oracle(case: Problem, *, window=None, softcap=None, sinks=None) -> torch.Tensor:
    """One node and head at a time, over a list of the rows that it sees, in float64."""
    query, keys, values = (case.tensors[name].double() for name in ("query", "keys", "values"))
    batch, heads, num_nodes, _ = query.shape
    group = heads // keys.shape[1]
    out = torch.zeros(batch, num_nodes, heads, query.shape[3], dtype=torch.float64)
    for sequence, parents in enumerate(case.parents):
        context = int(case.tensors["context_lengths"][sequence])
        depth = [0] * num_nodes
        for node in range(1, num_nodes):
            depth[node] = depth[parents[node]] + 1
        for node in range(num_nodes):
            position_of_row = {row: row for row in range(context)}
            ancestor = node
            while ancestor >= 0:
                position_of_row[context + ancestor] = context + depth[ancestor]
                ancestor = parents[ancestor]
            own = context + depth[node]
            rows = [row for row, position in position_of_row.items() if window is None or own - position < window]
            for head in range(heads):
                scores = keys[sequence, head // group, rows] @ query[sequence, head, node] * case.scale
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                weights = scores.exp()
                denominator = weights.sum() + (0.0 if sinks is None else sinks[head].double().exp())
                out[sequence, node, head] = weights / denominator @ values[sequence, head // group, rows]
    return out


@pytest.mark.parametrize("kind", ["chain", "star", "random"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 1},
        {"window": 4},
        {"softcap": 0.7},
        {"sinks": torch.tensor([0.5, -2.0, 3.0, 0.0])},
        {"window": 6, "softcap": 2.0, "sinks": torch.tensor([0.5, -2.0, 3.0, 0.0])},
    ],
)
def test_the_reference_is_the_slow_sum_over_what_a_node_sees(kind, options):
    """Every option, alone and together, on ragged sequences that include an empty context."""
    case = problem(9, [0, 5, 12], heads=4, kv_heads=2, head_dim=8, kind=kind)
    found = reference.tree_attention(**case.tensors, **case.options(**options))

    torch.testing.assert_close(found.double(), oracle(case, **options), rtol=1e-5, atol=1e-6)


def test_the_reference_is_torchs_attention_under_a_dense_mask():
    """With more than one word of bits per node."""
    case = problem(70, [11], heads=6, kv_heads=2, head_dim=8)
    tensors = case.tensors
    tree = DraftTree.from_parents([0] * 70, case.parents[0])
    mask = torch.cat([torch.ones(70, 11, dtype=torch.bool), tree.visibility_mask()], dim=1)
    keys, values = (tensors[name][:, :, :81] for name in ("keys", "values"))
    expected = F.scaled_dot_product_attention(tensors["query"], keys, values, attn_mask=mask, enable_gqa=True)
    found = reference.tree_attention(**tensors, **case.options())

    torch.testing.assert_close(found, expected.transpose(1, 2), **TOLERANCES[torch.float32])


# the kernel


NODES, CONTEXTS = (1, 7, 63, 64, 65, 130), (0, 1, 63, 64, 129)


# by default two contexts for every number of nodes, and every context two or three times
@pytest.mark.parametrize(
    ("num_nodes", "context"),
    [
        pytest.param(num_nodes, context, marks=() if (column - row) % 5 in (0, 3) else pytest.mark.slow)
        for row, num_nodes in enumerate(NODES)
        for column, context in enumerate(CONTEXTS)
    ],
)
def test_any_number_of_nodes_on_any_context(num_nodes, context):
    """Empty and odd ones, block and word edges and their neighbours, in tiles as models meet them."""
    check(problem(num_nodes, [context], kind="deep", dtype=torch.float16))


@pytest.mark.parametrize("num_nodes", [1, 33, 65])
@pytest.mark.parametrize("context", [0, 31, 32, 65])
def test_any_number_of_nodes_on_any_context_in_float32(num_nodes, context):
    """The small tiles of float32 divide a word of bits."""
    check(problem(num_nodes, [context]))


@pytest.mark.parametrize("head_dim", [8, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_any_head_dimension(head_dim, dtype):
    """Powers of two, and what has to be padded to one."""
    check(problem(5, [70], head_dim=head_dim, dtype=dtype))


HEADS = ((2, 2), (4, 2), (3, 1), (6, 2), (4, 1), (16, 1))


# by default one number of nodes for all; groups of three are those of which a tile may end within a node, at 21
@pytest.mark.parametrize(
    ("num_nodes", "heads", "kv_heads"),
    [
        pytest.param(
            num_nodes, *heads, marks=() if num_nodes == 9 or (num_nodes, heads) == (21, (3, 1)) else pytest.mark.slow
        )
        for num_nodes in (3, 9, 21)
        for heads in HEADS
    ],
)
def test_any_number_of_query_heads_per_kv_head(heads, kv_heads, num_nodes):
    """Also where a tile ends between two heads of one node."""
    check(problem(num_nodes, [37], heads=heads, kv_heads=kv_heads))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("chain", torch.float16),
        ("star", torch.float32),
        ("random", torch.float32),
        ("deep", torch.float16),
        pytest.param("chain", torch.float32, marks=pytest.mark.slow),
        pytest.param("star", torch.float16, marks=pytest.mark.slow),
        pytest.param("random", torch.float16, marks=pytest.mark.slow),
        pytest.param("deep", torch.float32, marks=pytest.mark.slow),
    ],
)
def test_any_tree(kind, dtype):
    """Ragged contexts in one batch, in both dtypes."""
    check(problem(67, [0, 70, 5], kind=kind, dtype=dtype))


def test_a_long_tail_is_split_and_still_whole():
    """More than 512 nodes share their columns between programs."""
    case = problem(520, [40], heads=1, head_dim=8, dtype=torch.float16)
    plan = launch_plan(
        batch=1,
        num_heads=1,
        num_kv_heads=1,
        num_nodes=520,
        head_dim=8,
        element_size=2,
        max_context=1024,
        num_sms=8,
        num_splits=2,
    )

    assert plan.grid[2] == 2 + 2
    check(case)


@pytest.mark.parametrize("num_splits", [1, 2, 3, 8, None])
@pytest.mark.parametrize("window", [None, 50])
def test_the_number_of_splits_does_not_change_the_result(num_splits, window):
    """One share, several, more than there are blocks, and the number that is chosen by itself."""
    case = problem(6, [203], kind="chain")
    found = check(case, num_splits=num_splits, window=window)
    single = check(case, num_splits=1, window=window)

    torch.testing.assert_close(found, single, **TOLERANCES[torch.float32])


@pytest.mark.parametrize("window", [1, 2, 5, 64, 100, 10_000])
@pytest.mark.parametrize(
    ("kind", "index"),
    [
        ("chain", torch.int32),
        ("deep", torch.int64),
        pytest.param("chain", torch.int64, marks=pytest.mark.slow),
        pytest.param("deep", torch.int32, marks=pytest.mark.slow),
    ],
)
def test_a_window_counts_positions(window, kind, index):
    """Narrower than the tree is deep, at block edges, wider than everything."""
    check(problem(12, [0, 90], kind=kind, index=index), window=window)


def test_a_window_over_more_than_one_block_of_nodes():
    """Bits and depths of both words are read."""
    check(problem(100, [70, 3], kind="deep"), window=20)


@pytest.mark.parametrize("fill", [math.nan, math.inf])
def test_rows_before_every_window_do_not_matter(fill):
    """A cache may drop them."""
    case = problem(6, [90], kind="chain")
    expected = check(case, window=30)
    for name in ("keys", "values"):
        case.tensors[name][:, :, : 90 - 30 + 1] = fill
    found = check(case, window=30)

    assert torch.equal(found, expected)


# tanh of a large score: the interpreter warns where a device is silent
@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")
@pytest.mark.parametrize("softcap", [0.5, 50.0])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_scores_can_be_capped(softcap, dtype):
    """Hard and hardly; scores of several hundred do not overflow."""
    case = problem(10, [70], dtype=dtype)
    check(case, softcap=softcap)
    case.tensors["query"].mul_(100)
    check(case, softcap=softcap)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_sinks_take_part_in_the_denominator_only(dtype):
    """Weak and strong ones, of the heads' own dtype."""
    case = problem(10, [0, 70], heads=4, kv_heads=2, dtype=dtype)
    check(case, sinks=torch.tensor([-30.0, 0.0, 4.0, 30.0], dtype=dtype))


def test_all_options_together():
    """Window, cap and sinks on a ragged batch."""
    case = problem(20, [3, 100], heads=4, kv_heads=2, kind="deep", dtype=torch.float16)
    check(case, window=17, softcap=2.0, sinks=torch.tensor([0.5, -2.0, 3.0, 0.0]))


def test_scores_of_any_size_neither_overflow_nor_vanish():
    """The maximum is taken out over all splits: equal shifts of all scores change nothing."""
    case = problem(5, [150])
    for factor in (1e-4, 60.0):
        large = attrs.evolve(case, scale=case.scale * factor)
        check(large, num_splits=3)


def test_strides_are_free_but_for_the_last():
    """Keys with rows before heads, as some caches lay them out; values and bits inside larger buffers."""
    case = problem(7, [66, 20], heads=4, kv_heads=2)
    expected = check(case)
    capacity = case.tensors["keys"].shape[2]
    of_keys = torch.full((capacity + 5, 2, 2, 16 + 8), math.nan)[2:-3, :, :, 4:20].permute(1, 2, 0, 3)
    of_values = torch.full((3, 3, capacity + 1, 40), math.nan)[1:, :2, 1:, 16:32]
    of_bits = torch.full((2, 9, 3), -1)[:, :7, :1]
    for name, view in (("keys", of_keys), ("values", of_values), ("visibility", of_bits)):
        case.tensors[name] = view.copy_(case.tensors[name])

    assert torch.equal(check(case), expected)


def test_bits_behind_the_last_node_do_not_matter():
    """A packed row may come from a larger tree."""
    case = problem(5, [20])
    expected = check(case)
    case.tensors["visibility"] |= -1 << 5

    assert torch.equal(check(case), expected)


@pytest.mark.parametrize("window", [None, 8])
def test_every_partial_is_written_or_marked_as_neutral(monkeypatch, window):
    """Maxima and sums always; an accumulator is missing only where the maximum says that nothing was seen."""
    case = problem(4, [0, 70], heads=2, kv_heads=1)
    made = []
    poisoned = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **o: made.append(poisoned(*a, **o)) or made[-1])
    check(case, num_splits=3, window=window)
    workspace = made[-1]
    num_partials = (3 + 1) * 2 * 8
    accumulators, maxima, sums = workspace.split([num_partials * 16, num_partials, num_partials])

    assert workspace.numel() == num_partials * 18
    assert not maxima.isnan().any()
    assert not sums.isnan().any()
    assert torch.equal(accumulators.view(-1, 16).isnan().any(1), maxima == -math.inf)
    assert (maxima == -math.inf).any()


def test_one_launch_serves_every_context_length():
    """The plan knows no context length, only the capacity."""
    case = problem(4, [90])
    for context in (90, 17, 0):
        case.tensors["context_lengths"].fill_(context)
        for name in ("keys", "values"):
            case.tensors[name][:, :, context + 4 :] = math.nan
        check(case)

    assert not {"context_lengths", "context_length"} & set(inspect.signature(launch_plan).parameters)


# sizes


@pytest.mark.parametrize("element_size", [2, 4])
@pytest.mark.parametrize("head_dim", [8, 64, 96, 128, 256])
@pytest.mark.parametrize("is_hip", [False, True])
def test_tiles_fit_every_device(element_size, head_dim, is_hip):
    """Two blocks of keys and values and the rows in 99 KiB, on AMD's devices one block in 64; bits in one word."""
    for rows in (1, 4, 16, 17, 32, 33, 64, 65, 128, 1000, 4096):
        tiles = choose_tiles(rows, head_dim, element_size, is_hip=is_hip)
        padded = max(16, 1 << (head_dim - 1).bit_length())
        num_blocks = 2 * (tiles.num_stages - 1)
        row_bytes = padded * element_size

        assert num_blocks * tiles.block_n * row_bytes <= (64 if is_hip else 99) * 1024
        assert (num_blocks * tiles.block_n + tiles.block_m) * row_bytes <= (64 if is_hip else 99) * 1024
        assert tiles.block_m >= 16
        assert tiles.block_n in (16, 32, 64)


def test_rows_of_one_kv_head_share_a_tile_while_they_fit():
    """At head dimension 128 in half precision: up to 128 rows read each key once."""
    for rows in range(1, 129):
        assert choose_tiles(rows, 128, 2).block_m >= rows


@pytest.mark.parametrize(
    ("num_tiles", "num_slots", "max_context", "block_m", "expected"),
    [
        (8, 264, 16_384, 16, 32),  # few rows, 8 KV heads, 132 multiprocessors with two programs each
        (8, 132, 16_384, 128, 16),  # 128 rows
        (64, 132, 16_384, 128, 2),  # 1,024 rows
        (8, 264, 1_024, 16, 8),  # a short context has few shares
        (8, 264, 100, 16, 1),
        (8, 264, 0, 16, 1),
        (80, 132, 16_384, 128, 3),  # two rounds of a third instead of one of all
        (264, 264, 16_384, 16, 1),  # the tiles alone fill the device
        (1, 10_000, 10**9, 16, 128),  # never more than the merge takes well
    ],
)
def test_splits_fill_the_device_with_few_shares(num_tiles, num_slots, max_context, block_m, expected):
    """The number of programs is close to the number that run at once."""
    assert choose_splits(num_tiles, num_slots, max_context, block_m=block_m, block_n=64) == expected


def test_a_window_needs_few_splits():
    """A context of 32,768 behind a window of 128 costs one share."""
    sizes = {"batch": 1, "num_heads": 64, "num_kv_heads": 8, "num_nodes": 4, "head_dim": 64, "element_size": 2}
    plan = launch_plan(**sizes, max_context=32_768, num_sms=132, window=128)

    assert plan.num_splits == 1
    assert launch_plan(**sizes, max_context=32_768, num_sms=132).num_splits > 16


# the door


def test_on_a_cpu_the_door_is_the_reference():
    """No kernel is launched there."""
    case = problem(5, [20], heads=4, kv_heads=2)
    found = tree_attention(**case.tensors, **case.options(window=9))

    assert torch.equal(found, reference.tree_attention(**case.tensors, **case.options(window=9)))


def test_the_door_takes_the_kernel_where_triton_runs(monkeypatch):
    """All options reach it; float64 stays with the reference."""
    case = problem(5, [40], heads=4, kv_heads=2)
    options = case.options(window=9, softcap=1.0, sinks=torch.ones(4))
    calls = []
    kernel = triton_kernel.tree_attention
    monkeypatch.setattr(triton_kernel, "tree_attention", lambda *a, **o: calls.append(o) or kernel(*a, **o))
    monkeypatch.setattr(availability, "takes_triton", lambda tensor: True)
    found = tree_attention(**case.tensors, **options, num_splits=2)
    doubles = {name: t.double() if t.is_floating_point() else t for name, t in case.tensors.items()}
    precise = tree_attention(**doubles, **options)

    assert len(calls) == 1
    assert calls[0]["num_splits"] == 2
    torch.testing.assert_close(found, precise.float(), **TOLERANCES[torch.float32])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("has_options", [False, True])
def test_the_door_compiles_in_one_graph(backend, has_options):
    """As one opaque operator, with and without the options."""
    case = problem(5, [20], heads=4, kv_heads=2)
    options = case.options(window=9, softcap=1.0, sinks=torch.ones(4)) if has_options else {"scale": case.scale}
    compiled = torch.compile(lambda tensors: tree_attention(**tensors, **options) * 2, fullgraph=True, backend=backend)
    found = compiled(case.tensors)

    assert torch.equal(found, 2 * reference.tree_attention(**case.tensors, **options))


def test_the_operator_keeps_torchs_rules():
    """Schema, fake result and aliasing, as torch checks them."""
    case = problem(5, [20], heads=4, kv_heads=2, head_dim=8)
    torch.library.opcheck(
        package._operator,
        (*case.tensors.values(), case.depths, torch.ones(4)),
        {"scale": case.scale, "window": 9, "softcap": None, "num_splits": None},
    )


def test_importing_and_calling_the_door_needs_no_triton():
    """A machine without it decodes all the same."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch\n"
        "from caddtree.kernels.tree_attention import tree_attention\n"
        "one = torch.ones(1, 1, 1, 8)\n"
        "bits, length = torch.ones(1, 1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)\n"
        "assert torch.equal(tree_attention(one, one, one, bits, length, scale=1.0), one)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
