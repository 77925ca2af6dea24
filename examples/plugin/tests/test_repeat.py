"""The drafter of repetitions keeps the contract of a drafter, and its own promise."""

from caddtree.core.protocols import DraftRequest
from caddtree.testing import DrafterContract

from caddtree_example.repeat import Repeat


class TestRepeat(DrafterContract):
    strategy = Repeat
    options = {"draft_length": 6}
    invalid_options = [{"draft_length": 0}, {"confidence": 0.0}, {"confidence": 1.0}]

    def texts(self, vocabulary_size):
        """Add two in which pairs with token 1 stand: the kit asks for drafts behind it."""
        return [*super().texts(vocabulary_size), [0, 1, 2] * 6 + [0, 1], [0, 1, 3] * 6 + [0, 1]]


def drafted(text, *, max_depth=50):
    """Return the tokens behind the last of ``text``."""
    drafter = Repeat(draft_length=4)
    state = drafter.start()
    drafter.commit(state, text[:-1], None)
    marginals = drafter.draft(state, DraftRequest(text[-1], len(text) - 1, max_depth))
    return None if marginals is None else marginals.tokens[:, 0].tolist()


def test_the_latest_of_two_continuations_is_drafted():
    """As far as the text goes, and no deeper than asked for."""
    assert drafted([1, 2, 7, 1, 2, 8, 9, 1, 2]) == [8, 9, 1, 2]
    assert drafted([1, 2, 7, 1, 2, 8, 9, 1, 2], max_depth=1) == [8]
    assert drafted([3, 3, 3]) == [3]


def test_a_new_pair_drafts_nothing():
    """One known token alone says too little."""
    assert drafted([1, 2, 7, 5, 2]) is None
    assert drafted([1]) is None
