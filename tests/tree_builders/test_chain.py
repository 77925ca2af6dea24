"""The chain: the arg-max path and nothing else (FIELD_NOTES property 2)."""

from __future__ import annotations

import pytest
import torch

from caddtree.core.errors import InputError
from caddtree.core.marginals import Marginals
from caddtree.tree_builders.chain import Chain
from tests.tree_builders.oracles import round_context


def test_property_2_the_chain_is_the_argmax_path():
    """One node per position, each the likeliest token, each the child of the one before."""
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))

    tree = Chain().build(Marginals.from_logits(logits), round_context(root_token=9))

    assert tree.tokens.tolist() == [9, *logits.argmax(-1).tolist()]
    assert tree.parents.tolist() == list(range(-1, 8))
    best = torch.log_softmax(logits, dim=-1).amax(-1)
    torch.testing.assert_close(tree.log_weights[1:], best.cumsum(0))


def test_the_length_cuts_the_chain():
    """The option flipped: 3 draft nodes instead of the whole block; longer than the block is the block."""
    marginals = Marginals.from_logits(torch.randn(8, 50))

    assert Chain().build(marginals, round_context()).num_drafts == 8
    assert Chain(length=3).build(marginals, round_context()).num_drafts == 3
    assert Chain(length=30).build(marginals, round_context()).num_drafts == 8


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (0, "length must be at least 1, found 0"),
        (-4, "length must be at least 1, found -4"),
        (2.0, "length must be an integer, found 2.0"),
        (True, "length must be an integer, found True"),
        ("5", "length must be an integer, found '5'"),
    ],
)
def test_a_wrong_length_is_refused(length, message):
    """Type before range, with the value found."""
    with pytest.raises(InputError, match=message):
        Chain(length=length)
