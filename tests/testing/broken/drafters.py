"""Drafters with one fault each, around the built-in n-grams."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import ge, instance_of

from caddtree.core.marginals import Marginals
from caddtree.drafters.ngram import Ngram
from caddtree.testing import DrafterContract

DISTRIBUTIONS = "test_a_draft_holds_distributions_no_deeper_than_asked_for"
OF_TWO = "test_a_vocabulary_of_2_is_a_vocabulary"
WIDER = "test_wider_marginals_are_the_same_with_more_candidates"
SAME = "test_the_same_text_gives_the_same_draft"
COMMITS_NOTHING = "test_a_draft_commits_nothing"
PIECES = "test_the_pieces_of_a_text_do_not_matter"
TWO = "test_two_sequences_do_not_mix"
NOTHING_BEHIND = "test_a_request_leaves_nothing_behind"
READ_AT_ONCE = "test_committed_tokens_are_read_when_they_are_committed"
LEFT = "test_tokens_and_features_are_left_as_they_were"
OPTIONS = "test_no_option_is_ignored"


class Contract(DrafterContract):
    options = {"max_suffix_length": 4, "draft_length": 8}
    other_options = {"min_suffix_length": 4, "max_occurrences": 1}
    caught_by: dict[str, str]


@attrs.frozen
class Unnormalised(Ngram):
    """Scores instead of probabilities: the best of a row is certain."""

    def draft(self, state, request):
        found = super().draft(state, request)
        return found and Marginals(found.tokens, found.log_probs - found.log_probs[:, :1])


class TestUnnormalised(Contract):
    strategy = Unnormalised
    caught_by = {
        DISTRIBUTIONS: r"the probabilities of a position must sum to 1 over the whole vocabulary, found",
        WIDER: "must sum to 1",
        OF_TWO: "must sum to 1",
    }


@attrs.frozen
class Positive(Ngram):
    """Probabilities where their logarithms belong."""

    def draft(self, state, request):
        found = super().draft(state, request)
        return found and Marginals(found.tokens, found.log_probs.exp())


class TestPositive(Contract):
    strategy = Positive
    caught_by = {
        DISTRIBUTIONS: "log_probs must be numbers of at most 0, found",
        WIDER: "log_probs must be numbers of at most 0",
        OF_TWO: "log_probs must be numbers of at most 0",
        "test_a_text_of_one_token_is_a_text": "log_probs must be numbers of at most 0",
    }


@attrs.frozen
class BestLast(Ngram):
    """Candidates from the worst to the best."""

    def draft(self, state, request):
        found = super().draft(state, request)
        return found and Marginals(found.tokens.flip(1), found.log_probs.flip(1))


class TestBestLast(Contract):
    strategy = BestLast
    caught_by = {
        DISTRIBUTIONS: "candidates must be ordered best first, found",
        WIDER: "ordered best first",
        OF_TWO: "ordered best first",
        "test_the_text_is_the_targets_own": "candidates must be ordered best first",
    }


@attrs.frozen
class TooDeep(Ngram):
    """Drafts its whole length, whatever is asked for."""

    def draft(self, state, request):
        return super().draft(state, attrs.evolve(request, max_depth=100))


class TestTooDeep(Contract):
    strategy = TooDeep
    caught_by = {DISTRIBUTIONS: r"a draft must have 1 to 1 positions \(max_depth 1, block_size 9\), found"}


@attrs.frozen
class WiderThanTheVocabulary(Ngram):
    """Fills every row to 80 candidates."""

    def draft(self, state, request):
        found = super().draft(state, request)
        if found is None:
            return None
        missing = 80 - found.width
        tokens = torch.arange(100, 100 + missing).expand(found.depth, missing)
        return Marginals(
            torch.cat((found.tokens, tokens), dim=1),
            torch.nn.functional.pad(found.log_probs, (0, missing), value=-torch.inf),
        )


class TestWiderThanTheVocabulary(Contract):
    strategy = WiderThanTheVocabulary
    caught_by = {
        DISTRIBUTIONS: "the marginals are 80 wide, but the vocabulary has 61 tokens",
        WIDER: "80 wide",
        OF_TWO: "80 wide, but the vocabulary has 2",
        "test_a_text_of_one_token_is_a_text": "80 wide",
    }


@attrs.frozen
class OutsideTheVocabulary(Ngram):
    """Takes the ids of another tokenizer."""

    def draft(self, state, request):
        found = super().draft(state, request)
        return found and Marginals(found.tokens + 60, found.log_probs)


class TestOutsideTheVocabulary(Contract):
    strategy = OutsideTheVocabulary
    caught_by = {
        DISTRIBUTIONS: r"draft tokens must lie in 0..60, found",
        WIDER: "must lie in 0..60",
        OF_TWO: "must lie in 0..1",
        "test_a_text_of_one_token_is_a_text": "must lie in 0..60",
        "test_the_text_is_the_targets_own": "must lie in 0..60",
    }


@attrs.frozen
class OtherWhenWider(Ngram):
    """What it widens to is another draft."""

    def draft(self, state, request):
        found = super().draft(state, request)
        if found is None:
            return None
        wider = Marginals(found.tokens, found.log_probs - 1)
        return Marginals(found.tokens, found.log_probs, lambda width: wider)


class TestOtherWhenWider(Contract):
    strategy = OtherWhenWider
    caught_by = {WIDER: "widen must add candidates behind those that were there"}


@attrs.frozen
class IgnoresCommit(Ngram):
    """Counts on from the root: no token that was committed is kept."""

    def draft(self, state, request):
        tokens = (request.root_token + torch.arange(min(8, request.max_depth))[:, None]) % 2
        return Marginals(tokens, torch.full(tokens.shape, -0.5))


class TestIgnoresCommit(Contract):
    strategy = IgnoresCommit
    unobservable_options = tuple(field.name for field in attrs.fields(Ngram))
    caught_by = {"test_drafts_follow_the_committed_text": "different texts give one draft, .* does commit keep the"}


@attrs.frozen
class KeepsTheLastPiece(Ngram):
    """Every commit replaces what came before."""

    def commit(self, state, tokens, features):
        state.tokens.clear()
        state.ends.clear()
        super().commit(state, tokens, features)


class TestKeepsTheLastPiece(Contract):
    strategy = KeepsTheLastPiece
    caught_by = {PIECES: "committed at once and in pieces of 1 gives two drafts"}


@attrs.frozen
class WantsFeatures(Ngram):
    """Reads features that it did not ask for."""

    def commit(self, state, tokens, features):
        assert features.shape[0] == len(tokens)
        super().commit(state, tokens, features)


class TestWantsFeatures(Contract):
    strategy = WantsFeatures
    caught_by = {
        "*": "required_layers are empty is given no features: name the layers|'NoneType' object has no attribute"
    }


@attrs.frozen
class LayersInDisorder(Ngram):
    """Names layers from the last to the first."""

    required_layers = (1, 0)


class TestLayersInDisorder(Contract):
    strategy = LayersInDisorder
    caught_by = {"*": r"tapping required_layers \(1, 0\) must work, but raised|target_layer_ids must be ascending"}


@attrs.frozen
class NoBlockSize(Ngram):
    """A block size of 0."""

    block_size = 0


class TestNoBlockSize(Contract):
    strategy = NoBlockSize
    caught_by = {
        "test_it_is_a_drafter": "block_size must be an int of at least 1",
        DISTRIBUTIONS: "block_size 0",
        OF_TWO: "block_size 0",
        "test_a_text_of_one_token_is_a_text": "block_size 0",
    }


@attrs.frozen
class OneState(Ngram):
    """All sequences share one state."""

    _state: list[Any] = attrs.field(factory=list, init=False, eq=False)

    def start(self):
        if not self._state:
            self._state.append(super().start())
        return self._state[0]


class TestOneState(Contract):
    strategy = OneState
    caught_by = {
        SAME: "one text gave two drafts, asked of a second state",
        TWO: "two sequences mix: alone a text is drafted",
        NOTHING_BEHIND: "a request left something behind",
        COMMITS_NOTHING: "a draft changed what is drafted",
        PIECES: "gives two drafts",
        READ_AT_ONCE: "instead of",
    }


@attrs.frozen
class KeepsTheCallersList(Ngram):
    """Keeps a reference to the tokens and reads them when it drafts."""

    def start(self):
        return []

    def commit(self, state, tokens, features):
        state.append(tokens)

    def draft(self, state, request):
        read = Ngram.start(self)
        Ngram.commit(self, read, [token for tokens in state for token in tokens], None)
        return Ngram.draft(self, read, request)


class TestKeepsTheCallersList(Contract):
    strategy = KeepsTheCallersList
    caught_by = {READ_AT_ONCE: "the drafter reads tokens that were not committed"}


@attrs.frozen
class CommitsTheRoot(Ngram):
    """Takes the root of a draft for committed."""

    def draft(self, state, request):
        found = super().draft(state, request)
        self.commit(state, [request.root_token], None)
        return found


class TestCommitsTheRoot(Contract):
    strategy = CommitsTheRoot
    caught_by = {
        COMMITS_NOTHING: "a draft changed what is drafted in the next round",
        SAME: "one text gave two drafts, asked twice of one state",
        TWO: "two sequences mix",
    }


@attrs.frozen
class Unsteady(Ngram):
    """Noise on every probability."""

    def draft(self, state, request):
        found = super().draft(state, request)
        return found and Marginals(found.tokens, found.log_probs - 0.01 * torch.rand(()))


class TestUnsteady(Contract):
    strategy = Unsteady
    caught_by = {
        SAME: "one text gave two drafts",
        TWO: "two sequences mix",
        NOTHING_BEHIND: "left something behind",
        READ_AT_ONCE: "instead of",
        COMMITS_NOTHING: "a draft changed",
        PIECES: "gives two drafts",
        OPTIONS: "with the same options .* behave differently",
    }


@attrs.frozen
class ChangesTheTokens(Ngram):
    """Empties the list that it is given."""

    def commit(self, state, tokens, features):
        super().commit(state, tokens, features)
        tokens.clear()


class TestChangesTheTokens(Contract):
    strategy = ChangesTheTokens
    caught_by = {LEFT: r"the list of tokens was changed in place, to \[\]"}


@attrs.frozen
class ChangesTheFeatures(Ngram):
    """Normalises the features where they are."""

    required_layers = (0,)

    def commit(self, state, tokens, features):
        super().commit(state, tokens, features)
        features /= features.norm()


class TestChangesTheFeatures(Contract):
    strategy = ChangesTheFeatures
    caught_by = {LEFT: "the features that commit was given were changed in place"}


@attrs.frozen
class ChangesTheTarget(Ngram):
    """Scales the output head that it shares with the target."""

    def bind(self, target):
        with torch.no_grad():
            target.model.get_output_embeddings().weight.mul_(2)


class TestChangesTheTarget(Contract):
    strategy = ChangesTheTarget
    caught_by = {
        "test_the_target_is_left_as_it_was": "ChangesTheTarget changed weights of the target: lm_head.weight",
        "test_the_text_is_the_targets_own": "differs from plain sampling with the same seed",
    }


@attrs.frozen
class NeverDrafts(Ngram):
    """Says that its block is 9 and drafts nothing."""

    def draft(self, state, request):
        return None


class TestNeverDrafts(Contract):
    strategy = NeverDrafts
    unobservable_options = tuple(field.name for field in attrs.fields(Ngram))
    caught_by = {
        "test_it_drafts_something_where_a_text_repeats_itself": "block_size is 9, but nothing was drafted on 5 texts",
        "test_drafts_follow_the_committed_text": "give one draft, nothing",
    }


@attrs.frozen
class IgnoresAnOption(Ngram):
    """A second option for the length of a draft."""

    block: int = attrs.field(default=4, validator=[instance_of(int), ge(1)])


class TestIgnoresAnOption(Contract):
    strategy = IgnoresAnOption
    caught_by = {OPTIONS: r"IgnoresAnOption ignores block \(tried 5, 3, 2, 8, 1\)"}


@attrs.frozen
class TakesAnything(Ngram):
    """Validates nothing."""

    draft_length: int = 8


class TestTakesAnything(Contract):
    strategy = TakesAnything
    invalid_options = [{"draft_length": 0}]
    caught_by = {
        "test_an_option_of_the_wrong_type_is_refused_by_name": "takes draft_length = 'no such word'",
        "test_an_invalid_option_is_refused_by_name": "takes draft_length = 0, invalid",
    }


@attrs.frozen
class Slow(Ngram):
    """Compares every place of the text with every other in every round."""

    slowness: ClassVar[int] = 25

    def draft(self, state, request):
        for _ in range(self.slowness):
            pairs = sum(1 for one in state.tokens for other in state.tokens if one == other)
        assert pairs >= len(state.tokens)
        return super().draft(state, request)


class TestSlow(Contract):
    strategy = Slow
    caught_by = {"test_drafting_is_fast": "draft behind 600 tokens is too slow"}
