"""The n-gram drafter against a rescan of the whole text."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caddtree.core.errors import InputError
from caddtree.core.protocols import DraftRequest
from caddtree.drafters.ngram import Ngram


def committed(drafter, tokens, chunk=3):
    state = drafter.start()
    for start in range(0, len(tokens), chunk):
        drafter.commit(state, tokens[start : start + chunk], None)
    return state


def brute_force(drafter, tokens, root, depth):
    """Search the longest suffix by scanning; count continuations with plain loops."""
    text = [*tokens, root]
    for length in range(drafter.max_suffix_length, drafter.min_suffix_length - 1, -1):
        if length > len(text):
            continue
        suffix = text[-length:]
        ends = [end for end in range(length, len(text)) if text[end - length : end] == suffix]
        if not ends:
            continue
        rows = []
        for offset in range(min(drafter.draft_length, depth)):
            seen = [text[end + offset] for end in ends[-drafter.max_occurrences :] if end + offset < len(text)]
            if not seen:
                break
            mass = len(seen) + drafter.unseen * (offset + 1)
            rows.append(sorted((-seen.count(token) / mass, token) for token in set(seen)))
        return rows
    return None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 5),
)
def test_the_index_equals_a_rescan(tokens, root, longest, depth, occurrences):
    """Same candidates, same shares, best first, ties by token id."""
    drafter = Ngram(max_suffix_length=longest, draft_length=5, max_occurrences=occurrences)
    found = drafter.draft(committed(drafter, tokens), DraftRequest(root, len(tokens), depth))
    rows = brute_force(drafter, tokens, root, depth)
    if rows is None:
        assert found is None
        return
    assert found.depth == len(rows)
    for index, row in enumerate(rows):
        assert found.tokens[index, : len(row)].tolist() == [token for _, token in row]
        shares = found.log_probs[index].exp().tolist()
        assert shares[: len(row)] == pytest.approx([-share for share, _ in row], rel=1e-5)
        assert sum(shares) < 1


def test_repeated_text_is_drafted():
    """The point of it."""
    drafter = Ngram()
    tokens = [1, 2, 3, 4, 5, 1, 2]
    marginals = drafter.draft(committed(drafter, tokens), DraftRequest(3, 7, 8))

    assert marginals.tokens[:2, 0].tolist() == [4, 5]
    assert marginals.is_usable()


@pytest.mark.parametrize(
    "change",
    [{"max_suffix_length": 1}, {"min_suffix_length": 3}, {"draft_length": 1}, {"max_occurrences": 1}, {"unseen": 3.0}],
)
def test_every_option_makes_a_difference(change):
    """Flipped options change some draft."""
    torch.manual_seed(0)
    base, changed = Ngram(), attrs.evolve(Ngram(), **change)
    seen = set()
    for _ in range(60):
        tokens = torch.randint(0, 3, (20,)).tolist()
        request = DraftRequest(1, 20, 6)
        first, second = (drafter.draft(committed(drafter, tokens), request) for drafter in (base, changed))
        same = (first is None) == (second is None) and (
            first is None
            or (
                first.log_probs.shape == second.log_probs.shape
                and torch.equal(first.log_probs, second.log_probs)
                and torch.equal(first.tokens, second.tokens)
            )
        )
        seen.add(same)
    assert False in seen


def test_suffix_lengths_in_the_wrong_order_are_refused():
    """Both values are named."""
    with pytest.raises(InputError, match=r"at most max_suffix_length \(2\), found 3"):
        Ngram(max_suffix_length=2, min_suffix_length=3)
