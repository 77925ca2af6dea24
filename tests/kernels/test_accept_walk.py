"""The walk through a verified tree by the kernel, against its reference and a dictionary of children."""

from __future__ import annotations

import random

import pytest
import torch

from caddtree.kernels import accept_walk as door
from caddtree.kernels import availability
from caddtree.kernels.accept_walk import AcceptedWalk, accept_walk, reference, triton_kernel, unpack_walk

INF, NAN = float("inf"), float("nan")
SHAPES = {
    "root": lambda draw, node: None,
    "chain": lambda draw, node: node - 1,
    "star": lambda draw, node: 0,
    "random": lambda draw, node: draw.randrange(node),
    "deep": lambda draw, node: draw.randrange(max(node - 3, 0), node),
}


@pytest.fixture
def by_kernel(monkeypatch):
    """The door on its Triton path, into memory that was full of something else."""
    empty = torch.empty

    def call(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(availability, "takes_triton", lambda tensor: True)
            patch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(0x5EADBEEF))
            return accept_walk(*arguments)

    return call


def random_tree(draw, shape, num_nodes):
    """Return choices, tokens and parents: siblings differ, cousins share tokens, most choices follow a child."""
    parents, tokens, children = [-1], [draw.randrange(9)], {}
    for node in range(1, num_nodes):
        parent = SHAPES[shape](draw, node)
        siblings = children.setdefault(parent, {})
        token = draw.choice([token for token in range(len(siblings) + 2) if token not in siblings])
        siblings[token] = node
        parents.append(parent)
        tokens.append(token)
    choices = [
        draw.choice(list(children[node])) if node in children and draw.random() < 0.85 else draw.randrange(4)
        for node in range(num_nodes)
    ]
    return choices, tokens, parents


def arguments(draw, shape, num_nodes, num_padding=0, max_path=20):
    """Return what the door takes; rows of padding look like children that every walk would follow."""
    choices, tokens, parents = random_tree(draw, shape, num_nodes)
    padding_parents = [draw.randrange(num_nodes) for _ in range(num_padding)]
    tokens = tokens + [choices[parent] for parent in padding_parents]
    best = [draw.uniform(-9, 9) for _ in range(num_nodes)] + [NAN] * num_padding
    choices = choices + [draw.choice([-(2**40), 2**40]) for _ in range(num_padding)]
    integers = [torch.tensor(values, dtype=torch.int64) for values in (choices, tokens, parents + padding_parents)]
    return integers[0], torch.tensor(best, dtype=torch.float32), *integers[1:], num_nodes, max_path


def walked(choices, best, tokens, parents, num_nodes, max_path):
    """The walk by a dictionary from (parent, token) to the child."""
    edges = {(parents[node].item(), tokens[node].item()): node for node in range(num_nodes)}
    path = [0]
    while len(path) < max_path and (child := edges.get((path[-1], choices[path[-1]].item()))) is not None:
        path.append(child)
    bad = [node for node, value in enumerate(best.tolist()[:num_nodes]) if value - value != 0]
    return AcceptedWalk(tuple(path), tuple(choices[path].tolist()), bad[0] if bad else None)


def test_the_reference_walks_as_a_dictionary_does():
    """Two thousand trees, with and without padding; many are walked far."""
    draw = random.Random(0)
    lengths = []
    for case in range(2000):
        shape = "root" if case % 50 == 0 else draw.choice(["chain", "star", "random", "deep"])
        num_nodes = 1 if shape == "root" else draw.randrange(2, 34)
        inputs = arguments(draw, shape, num_nodes, num_padding=case % 4, max_path=draw.choice([1, 3, 16]))
        found = unpack_walk(reference.accept_walk(*inputs))
        lengths.append(len(found.path))

        assert found == walked(*inputs)
    assert max(lengths) == 16
    assert sum(length > 4 for length in lengths) > 100


@pytest.mark.parametrize("num_padding", [0, 1, 30])
@pytest.mark.parametrize("num_nodes", [1, 2, 3, 17, 33, 64, 130, 300])
@pytest.mark.parametrize("shape", ["chain", "star", "random", "deep"])
def test_every_tree_equals_the_reference(by_kernel, shape, num_nodes, num_padding):
    """Root-only, odd and larger sizes, behind each of them rows of padding that look like nodes."""
    draw = random.Random(num_nodes)
    for max_path in (1, 5, 16):
        inputs = arguments(draw, shape, num_nodes, num_padding, max_path)
        found = by_kernel(*inputs)

        assert found.dtype == torch.int64
        assert found.tolist() == reference.accept_walk(*inputs).tolist()
        assert unpack_walk(found) == walked(*inputs)


@pytest.mark.parametrize("num_padding", [0, 24])
def test_the_largest_tree_equals_the_reference(by_kernel, num_padding):
    """1,024 rows, a path of a thousand nodes among them."""
    draw = random.Random(1)
    for shape in ("chain", "random"):
        choices, best, tokens, parents, num_nodes, _ = arguments(draw, shape, 1024 - num_padding, num_padding)
        if shape == "chain":
            choices[: num_nodes - 1] = tokens[1:num_nodes]
        inputs = (choices, best, tokens, parents, num_nodes, 1024)
        found = by_kernel(*inputs)

        assert found.tolist() == reference.accept_walk(*inputs).tolist()
        assert shape != "chain" or found[0] == num_nodes


def test_larger_trees_go_to_the_reference(by_kernel, monkeypatch):
    """One program holds 1,024 rows."""
    monkeypatch.setattr(triton_kernel, "accept_walk", None)
    inputs = arguments(random.Random(2), "deep", door.LARGEST_KERNEL_TREE + 1)

    assert unpack_walk(by_kernel(*inputs)) == walked(*inputs)


def test_a_walk_ends_at_its_longest_path(by_kernel):
    """Even if the target agrees with more nodes."""
    tokens, parents = torch.arange(6), torch.arange(6) - 1
    choices, best = torch.arange(1, 7), torch.zeros(6)
    for walk in (by_kernel, reference.accept_walk):
        assert unpack_walk(walk(choices, best, tokens, parents, 6, 6)).path == (0, 1, 2, 3, 4, 5)
        assert unpack_walk(walk(choices, best, tokens, parents, 6, 4)) == ((0, 1, 2, 3), (1, 2, 3, 4), None)


def test_token_zero_is_a_token(by_kernel):
    """FIELD_NOTES bug 2: neither it nor padding of zeros is special."""
    choices, tokens = torch.tensor([0, 0, 0, 0]), torch.tensor([5, 0, 0, 0])
    parents, best = torch.tensor([-1, 0, 1, 0]), torch.zeros(4)
    for walk in (by_kernel, reference.accept_walk):
        assert unpack_walk(walk(choices, best, tokens, parents, 3, 4)) == ((0, 1, 2), (0, 0, 0), None)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("bad_rows", [[0], [4], [9], [7, 2, 8]])
def test_the_first_row_that_is_not_finite_is_named(by_kernel, bad_rows, value):
    """Rows of padding are not looked at."""
    inputs = arguments(random.Random(3), "deep", 10, num_padding=5)
    inputs[1][bad_rows] = value
    for walk in (by_kernel, reference.accept_walk):
        packed = walk(*inputs)

        assert packed[1] == 0
        assert packed[2] == min(bad_rows)
        assert unpack_walk(packed) == walked(*inputs)


def test_finite_rows_are_said_to_be(by_kernel):
    """The header without a bad row."""
    packed = by_kernel(*arguments(random.Random(3), "deep", 10, num_padding=5))

    assert packed[1:3].tolist() == [1, -1]
    assert unpack_walk(packed).bad_row is None


@pytest.mark.parametrize("num_nodes", [1, 2, 16, 33])
def test_the_number_of_nodes_may_be_known_to_the_device_only(by_kernel, num_nodes):
    """As a tensor it gives what the number does."""
    *inputs, _, max_path = arguments(random.Random(num_nodes), "deep", num_nodes, num_padding=7)
    expected = reference.accept_walk(*inputs, num_nodes, max_path)
    for count in (num_nodes, torch.tensor([num_nodes])):
        assert by_kernel(*inputs, count, max_path).tolist() == expected.tolist()
        assert reference.accept_walk(*inputs, count, max_path).tolist() == expected.tolist()


def test_inputs_may_lie_anywhere(by_kernel):
    """Columns of one packet."""
    *inputs, num_nodes, max_path = arguments(random.Random(4), "deep", 20, num_padding=3)
    expected = reference.accept_walk(*inputs, num_nodes, max_path)
    columns = [torch.stack([values, values - 1], dim=1)[:, 0] for values in inputs]

    assert by_kernel(*columns, num_nodes, max_path).tolist() == expected.tolist()
