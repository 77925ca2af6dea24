"""Candidates of a block: order, ties, widening (FT-21, FT-22)."""

from __future__ import annotations

import pytest
import torch

from caddtree.core.errors import InputError
from caddtree.core.marginals import DEFAULT_WIDTH, Marginals


def sorted_whole(logits: torch.Tensor) -> torch.Tensor:
    """Return the token ids of every row by (logit descending, id ascending)."""
    return logits.float().sort(dim=-1, descending=True, stable=True).indices


@pytest.mark.parametrize("vocabulary", [1, 2, 17, 500, 4096, 5003])
@pytest.mark.parametrize("steps", [2, 40, None])
@pytest.mark.parametrize("width", [1, 16, 65, 300])
def test_candidates_are_those_of_a_stable_sort(vocabulary, steps, width):
    """Few distinct logits (ties at every cut) or many: best first, equal ones by token id, any vocabulary."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(6, vocabulary, generator=generator) * 3
    if steps is not None:
        logits = torch.randint(steps, (6, vocabulary), generator=generator).float()

    marginals = Marginals.from_logits(logits, width)

    width = min(width, vocabulary)
    assert marginals.width == width
    assert torch.equal(marginals.tokens, sorted_whole(logits)[:, :width])
    expected = torch.log_softmax(logits.double(), dim=-1).gather(1, marginals.tokens).float()
    torch.testing.assert_close(marginals.log_probs, expected, rtol=1e-6, atol=1e-6)
    assert (marginals.log_probs[:, 1:] <= marginals.log_probs[:, :-1]).all()


def test_ft_22_ties_at_the_cut_give_lower_token_ids():
    """Where equal logits straddle the width, the lower ids are kept, in their order."""
    logits = torch.zeros(1, 100)
    logits[0, 90] = 2.0
    logits[0, [80, 10, 60, 30]] = 1.0

    assert Marginals.from_logits(logits, 3).tokens.tolist() == [[90, 10, 30]]
    assert Marginals.from_logits(logits, 7).tokens.tolist() == [[90, 10, 30, 60, 80, 0, 1]]


def test_ft_22_ties_of_logits_in_16_bits_follow_the_token_ids():
    """bfloat16 logits tie in nearly every row; the candidates are still those of a stable sort."""
    logits = torch.randn(15, 6000, generator=torch.Generator().manual_seed(1)).bfloat16()

    assert torch.equal(Marginals.from_logits(logits, 50).tokens, sorted_whole(logits)[:, :50])


def test_ft_22_a_width_beyond_the_vocabulary_is_clipped():
    """More candidates than tokens are not to be had, now or by widening."""
    marginals = Marginals.from_logits(torch.randn(3, 9), 50)

    assert marginals.width == 9
    assert marginals.widen(100) is marginals


def test_ft_22_a_row_of_minus_infinity_has_no_candidates():
    """Its log-probabilities are -inf, not NaN, and the other rows are untouched."""
    logits = torch.randn(3, 40)
    logits[1] = -torch.inf
    logits[2, 2:] = -torch.inf

    marginals = Marginals.from_logits(logits, 5)

    assert (marginals.log_probs[1] == -torch.inf).all()
    assert torch.isfinite(marginals.log_probs[0]).all()
    assert torch.isfinite(marginals.log_probs[2]).tolist() == [True, True, False, False, False]
    assert marginals.is_usable()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_ft_21_logits_that_are_no_numbers_are_unusable(bad):
    """One NaN or infinite logit anywhere spoils its row, seen through 16 candidates, ties elsewhere or not."""
    logits = torch.randn(4, 4096)
    logits[0] = 0.0
    logits[2, 4000] = bad

    assert not Marginals.from_logits(logits).is_usable()


def test_widening_continues_the_same_order():
    """Wider marginals begin with the narrow ones and keep the promise of their own width."""
    logits = torch.randn(4, 3000).bfloat16()
    narrow = Marginals.from_logits(logits)
    wide = narrow.widen(200)

    assert narrow.width == DEFAULT_WIDTH
    assert wide.width == 200
    assert torch.equal(wide.tokens[:, :DEFAULT_WIDTH], narrow.tokens)
    assert torch.equal(wide.log_probs[:, :DEFAULT_WIDTH], narrow.log_probs)
    assert torch.equal(wide.tokens, Marginals.from_logits(logits, 200).tokens)
    assert narrow.widen(10) is narrow


def test_clipped_marginals_widen_to_their_own_depth():
    """Clipping survives widening, and clipping deeper than the block changes nothing."""
    marginals = Marginals.from_logits(torch.randn(5, 300))
    clipped = marginals.clip(2)

    assert (clipped.depth, clipped.widen(40).depth, clipped.widen(40).width) == (2, 2, 40)
    assert torch.equal(clipped.widen(40).tokens, marginals.widen(40).tokens[:2])
    assert marginals.clip(5) is marginals
    assert marginals.clip(0).depth == 0


def test_a_temperature_tempers_the_probabilities_not_the_order():
    """At temperature 2 the log-probabilities are those of halved logits."""
    logits = torch.randn(3, 50)

    tempered = Marginals.from_logits(logits, temperature=2.0)

    torch.testing.assert_close(tempered.log_probs, Marginals.from_logits(logits / 2).log_probs)
    assert torch.equal(tempered.tokens, Marginals.from_logits(logits).tokens)


def test_shapes_that_differ_are_refused():
    """Tokens and log-probabilities of two shapes stop at once, with both shapes."""
    with pytest.raises(InputError, match=r"found \(2, 3\) and \(2, 4\)"):
        Marginals(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4))
