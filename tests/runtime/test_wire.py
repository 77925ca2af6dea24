"""Values on their way between processes: equal on the other side, and never code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from caddtree.core.acceptance import Walk
from caddtree.core.draft_tree import DraftTree
from caddtree.core.profile import Profile
from caddtree.runtime.wire import from_bytes, to_bytes


@pytest.mark.parametrize(
    "value",
    [None, True, 7, 2**63, 0.1, "text \u2028", (), (3, None), [1, (2,)], {"a": (1,), 2: "b"}, Path("a/b"), np.int64(3)],
    ids=repr,
)
def test_plain_values_are_the_same_afterwards(value):
    """Tuples stay tuples, keys stay what they are."""
    back = from_bytes(to_bytes(value))
    assert back == value
    assert type(back) is (int if isinstance(value, np.generic) else type(value))


def test_a_tree_and_its_walk_arrive_bit_for_bit():
    """Weights of any float32, infinities among them."""
    weights = np.array([0.0, -0.1, -1e-30, -np.inf], np.float32)
    tree, walk = from_bytes(
        to_bytes((DraftTree.from_parents([5, 6, 7, 8], [-1, 0, 0, 1], weights), Walk((0, 1), (6, 8))))
    )

    assert tree.tokens.tolist() == [5, 6, 7, 8]
    assert tree.parents.tolist() == [-1, 0, 0, 1]
    assert tree.depths.tolist() == [0, 1, 1, 2]
    assert (tree.tokens.dtype, tree.log_weights.dtype) == (torch.int64, torch.float32)
    assert tree.log_weights.numpy().tobytes() == weights.tobytes()
    assert walk == Walk((0, 1), (6, 8))


def test_a_profile_arrives_with_its_arrays():
    """As rank 0 measured or read it."""
    sent = Profile({"device": "x"}, (16,), (0, 4), [0.1], [[0.2, 1 / 3]], [[0.0, 0.0]], 4)
    back = from_bytes(to_bytes(sent))

    assert back.to_values() == sent.to_values()
    assert back.after_seconds.dtype == np.float64


@pytest.mark.parametrize(
    "name", ["subprocess:Popen", "os:system", "caddtree.core.pipeline:logger", "caddtree.nowhere:X"]
)
def test_no_other_class_is_made(name):
    """Whatever a message asks for."""
    message = json.dumps({"is": "attrs", "class": name, "items": {}}).encode()
    with pytest.raises(ValueError, match="is no value of caddtree"):
        from_bytes(message)


def test_what_cannot_be_sent_is_refused_by_name():
    """By whoever wants to send it."""
    with pytest.raises(TypeError, match="a function cannot be sent"):
        to_bytes(lambda: 3)
