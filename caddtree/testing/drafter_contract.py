"""What every drafter promises."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from caddtree.core.decoder import Decoder
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import CompatibilityError
from caddtree.core.marginals import Marginals
from caddtree.core.protocols import Drafter, DraftRequest
from caddtree.core.target import Target
from caddtree.plugins.hooks import Kind
from caddtree.testing.claims import BrokenContractError, must_work, require
from caddtree.testing.inputs import repeating_texts
from caddtree.testing.losslessness import SAMPLINGS, check_text_is_the_targets
from caddtree.testing.marginal_checks import Draft, as_plain, check_draft, check_widening, is_close, shown
from caddtree.testing.partners import PartnerCosts, built_in
from caddtree.testing.speed import check_speed
from caddtree.testing.strategy_contract import Contract
from caddtree.testing.unchanged import ModelWatch

Make = Callable[[], Drafter]
"""A new strategy of the options under test."""

_HINT = (
    "A drafter cannot choose what is said; it can change the target's weights, the tokens or the features that it is "
    "given: look at the other checks."
)
_DEEP = 50
"""Deeper than a block."""


class Bench:
    """A drafter bound to a target, fed and asked as the decoding loop does it."""

    def __init__(self, drafter: Drafter, model: Any) -> None:
        self.drafter, self.target = drafter, Target(model)
        with must_work("reading required_layers", "It is asked before bind."):
            self.layers = tuple(drafter.required_layers)
        with must_work(f"tapping required_layers {self.layers}", "Name decoder layers in ascending order, from 0."):
            self.target.tap(self.layers)
        with must_work("bind", "Override `make_target` where the drafter was made for another target."):
            drafter.bind(self.target)

    def commit(self, state: Any, tokens: Sequence[int], features: Tensor | None) -> None:
        """Commit tokens that have features."""
        fix = ""
        if features is None:
            fix = "A drafter whose required_layers are empty is given no features: name the layers that it reads."
        what = f"commit of {len(tokens)} tokens with {'no ' if features is None else ''}features"
        with must_work(what, fix), torch.inference_mode():
            self.drafter.commit(state, tokens, features)

    def features(self, tokens: Sequence[int]) -> Tensor | None:
        """Return the tapped features of a whole text, or None where nothing is tapped."""
        if not self.layers:
            return None
        found: list[Tensor | None] = []
        target = self.target
        target.prefill(target.start(len(tokens)), tokens, lambda chunk, features: found.append(features))
        rows = [features for features in found if features is not None]
        return torch.cat(rows) if rows else None

    def chunks(self, text: Sequence[int], size: int) -> list[tuple[list[int], Tensor | None]]:
        """Return a text in pieces, as prefill hands it over."""
        features = self.features(text)
        return [
            (list(text[start : start + size]), None if features is None else features[start : start + size].clone())
            for start in range(0, len(text), size)
        ]

    def fed(self, text: Sequence[int], size: int = 16) -> Any:
        """Return the state of a new sequence with this text committed."""
        state = self.drafter.start()
        for tokens, features in self.chunks(text, size):
            self.commit(state, tokens, features)
        return state

    def draft(self, state: Any, root: int, position: int, max_depth: int = _DEEP, temperature: float = 0.0) -> Any:
        """Return the marginals behind a root."""
        what = f"draft behind {position} committed tokens, at most {max_depth} deep"
        with must_work(what), torch.inference_mode():
            return self.drafter.draft(state, DraftRequest(root, position, max_depth, temperature))

    def plain(self, state: Any, root: int, position: int) -> Draft:
        """Return a draft as lists."""
        return as_plain(self.draft(state, root, position))


class DrafterContract(Contract):
    """The contract of a drafter: committed tokens and tapped features to marginals.

    A class is ``strategy = YourDrafter`` and, where it has options, ``options``; see :class:`Contract` for the rest.
    A drafter made for another size of target overrides ``make_target``.
    """

    kind: ClassVar[Kind] = "drafter"
    reads_text: ClassVar[bool] = True
    """Whether drafts depend on more than the root token."""

    def texts(self, vocabulary_size: int) -> list[list[int]]:
        """Return texts on which the drafter has something to say; the last token of each is the root."""
        return repeating_texts(vocabulary_size)[1:]

    @pytest.fixture
    def bench(self, make: Make, target_model: Any) -> Any:
        """Return the drafter, bound to a target."""
        bench = Bench(make(), target_model)
        yield bench
        bench.target.close()

    def observe(self, strategy: Any, target_model: Any) -> object:
        """Return what it drafts on all texts and their beginnings, at two depths and temperatures."""
        bench = Bench(strategy, target_model)
        found: list[object] = [strategy.block_size]
        try:
            for text in self.texts(bench.target.vocabulary_size):
                for end in range(2, len(text), 9):
                    state = bench.fed(text[:end])
                    for max_depth, temperature in ((_DEEP, 0.0), (2, 0.7)):
                        found.append(as_plain(bench.draft(state, text[end], end, max_depth, temperature)))
        finally:
            bench.target.close()
        return found

    def test_it_is_a_drafter(self, bench: Bench) -> None:
        """It has the methods, a block size of at least 1, and ascending layers to tap."""
        drafter = bench.drafter
        require(
            isinstance(drafter, Drafter),
            f"{self.strategy.__name__} needs required_layers, block_size, bind, start, commit and draft",
        )
        require(
            type(drafter.block_size) is int and drafter.block_size >= 1,
            f"block_size must be an int of at least 1, the anchor and the drafted positions, "
            f"found {drafter.block_size!r}",
        )
        require(
            drafter.required_layers == bench.layers == tuple(sorted(set(bench.layers))),
            f"required_layers must be an ascending tuple that bind does not change, found {bench.layers!r} before and "
            f"{drafter.required_layers!r} after",
        )

    def test_it_drafts_something_where_a_text_repeats_itself(self, bench: Bench) -> None:
        """Unless its block size is 1: then it never drafts."""
        drafts = [self._drafted(bench, text) for text in self._texts(bench)]
        says = f"block_size is {bench.drafter.block_size}"
        if bench.drafter.block_size == 1:
            require(all(draft is None for draft in drafts), f"{says}, so that draft must return None, found marginals")
            return
        require(
            any(draft is not None for draft in drafts),
            f"{says}, but nothing was drafted on {len(drafts)} texts. Override `texts` with some on which it drafts, "
            f"or set block_size to 1.",
        )

    @pytest.mark.parametrize("temperature", [0.0, 0.7])
    @pytest.mark.parametrize("max_depth", [1, 2, 4, _DEEP])
    def test_a_draft_holds_distributions_no_deeper_than_asked_for(
        self, bench: Bench, max_depth: int, temperature: float
    ) -> None:
        """Distinct tokens of the vocabulary, best first, whose probabilities are at most 1 together."""
        for text in self._beginnings(bench):
            marginals = bench.draft(bench.fed(text[:-1]), text[-1], len(text) - 1, max_depth, temperature)
            self._check(bench, marginals, max_depth)

    def test_wider_marginals_are_the_same_with_more_candidates(self, bench: Bench) -> None:
        """However wide they are asked for: the vocabulary is the limit."""
        for text in self._beginnings(bench):
            marginals = bench.draft(bench.fed(text[:-1]), text[-1], len(text) - 1)
            if marginals is not None:
                check_widening(marginals, bench.target.vocabulary_size)

    def test_a_vocabulary_of_2_is_a_vocabulary(self, make: Make) -> None:
        """Drafts over two tokens; skipped where the drafter was made for another vocabulary and says so."""
        drafter, model = make(), self.make_target(2)
        try:
            bench = Bench(drafter, model)
        except BrokenContractError as error:
            if isinstance(error.__cause__, CompatibilityError):
                pytest.skip(f"the drafter was made for another target: {error.__cause__}")
            raise
        try:
            for text in repeating_texts(2):
                end = max(1, len(text) - 1)
                self._check(bench, bench.draft(bench.fed(text[:end]), text[-1], end), _DEEP)
        finally:
            bench.target.close()

    def test_a_text_of_one_token_is_a_text(self, bench: Bench) -> None:
        """The shortest prompt: a draft, or nothing."""
        self._check(bench, bench.draft(bench.fed([1]), 1, 1), _DEEP)

    def test_the_same_text_gives_the_same_draft(self, bench: Bench, make: Make, target_model: Any) -> None:
        """Twice from one state, from a second state, and of a second drafter."""
        other = Bench(make(), target_model)
        try:
            for text in self._texts(bench):
                state, position = bench.fed(text[:-1]), len(text) - 1
                first = bench.plain(state, text[-1], position)
                self._require_same(first, bench.plain(state, text[-1], position), "asked twice of one state")
                self._require_same(first, self._drafted(bench, text), "asked of a second state with the same text")
                self._require_same(first, self._drafted(other, text), "asked of a second drafter")
        finally:
            other.target.close()

    def test_a_draft_commits_nothing(self, bench: Bench) -> None:
        """The next draft is the same whether the drafter was asked in the round before or not."""
        for text in self._texts(bench):
            cut, end = len(text) // 2, len(text) - 1
            features = bench.features(text)
            drafts = []
            for asks in (False, True):
                state = bench.drafter.start()
                bench.commit(state, list(text[:cut]), None if features is None else features[:cut].clone())
                if asks:
                    bench.draft(state, text[cut], cut)
                bench.commit(state, list(text[cut:end]), None if features is None else features[cut:end].clone())
                drafts.append(bench.plain(state, text[end], end))
            require(
                is_close(*drafts),
                f"a draft changed what is drafted in the next round: {shown(drafts[0])} without it, "
                f"{shown(drafts[1])} with it. draft only looks; the root and the accepted tokens come by commit.",
            )

    def test_drafts_follow_the_committed_text(self, bench: Bench) -> None:
        """Two texts that end with one token are drafted apart; opt out by ``reads_text = False``."""
        if not self.reads_text or bench.drafter.block_size == 1:
            pytest.skip("the drafter reads no text" if not self.reads_text else "the drafter never drafts")
        root = 1
        drafts = [bench.plain(bench.fed(text[:-1]), root, len(text) - 1) for text in self._texts(bench)]
        require(
            any(draft != drafts[0] for draft in drafts),
            f"{len(drafts)} different texts give one draft, {shown(drafts[0])}: does commit keep the tokens? If only "
            f"the root token is read, say `reads_text = False`.",
        )

    @pytest.mark.parametrize("size", [1, 2, 7])
    def test_the_pieces_of_a_text_do_not_matter(self, bench: Bench, size: int) -> None:
        """Prefill chunks and accepted paths of any length enter alike."""
        for text in self._texts(bench):
            end = len(text) - 1
            whole, pieces = (bench.plain(bench.fed(text[:end], each), text[end], end) for each in (end, size))
            require(
                is_close(whole, pieces),
                f"a text committed at once and in pieces of {size} gives two drafts, {shown(whole)} and "
                f"{shown(pieces)}. Every commit appends; none replaces what came before.",
            )

    def test_two_sequences_do_not_mix(self, bench: Bench) -> None:
        """Commits and drafts taken in turns give what each sequence gives alone."""
        texts = self._texts(bench)[:2]
        alone = [self._drafted(bench, text) for text in texts]
        states = [bench.drafter.start() for _ in texts]
        for pair in itertools.zip_longest(*(bench.chunks(text[:-1], 16) for text in texts)):
            for state, chunk in zip(states, pair, strict=True):
                if chunk is not None:
                    bench.commit(state, *chunk)
        for _ in range(2):
            for state, text, expected in zip(states, texts, alone, strict=True):
                found = bench.plain(state, text[-1], len(text) - 1)
                require(
                    found == expected,
                    f"two sequences mix: alone a text is drafted {shown(expected)}, beside another {shown(found)}. "
                    f"What belongs to a sequence lives in what start() returns.",
                )

    def test_a_request_leaves_nothing_behind(self, bench: Bench, make: Make, target_model: Any) -> None:
        """After other requests it drafts what a new drafter drafts."""
        texts = self._texts(bench)
        for text in texts:
            self._drafted(bench, text)
        for text in reversed(texts):
            fresh = Bench(make(), target_model)
            try:
                expected, found = self._drafted(fresh, text), self._drafted(bench, text)
            finally:
                fresh.target.close()
            require(
                found == expected,
                f"a request left something behind: a new drafter drafts {shown(expected)}, one that served other "
                f"requests {shown(found)}. start() must return a state of its own for every sequence.",
            )

    def test_committed_tokens_are_read_when_they_are_committed(self, bench: Bench) -> None:
        """The list that commit is given is the caller's, who goes on writing to it."""
        for text in self._texts(bench):
            expected, state = self._drafted(bench, text), bench.drafter.start()
            for tokens, features in bench.chunks(text[:-1], 16):
                given = list(tokens)
                bench.commit(state, given, features)
                given[:] = [1] * (len(tokens) + 5)
            found = bench.plain(state, text[-1], len(text) - 1)
            require(
                found == expected,
                f"the drafter reads tokens that were not committed: it drafts {shown(found)} instead of "
                f"{shown(expected)} when the caller's list changes after commit. Copy the tokens: extend, not assign.",
            )

    def test_tokens_and_features_are_left_as_they_were(self, bench: Bench) -> None:
        """What commit is given belongs to the target."""
        for text in self._texts(bench):
            state, tokens, features = bench.drafter.start(), list(text[:-1]), bench.features(text[:-1])
            kept = None if features is None else features.clone()
            bench.commit(state, tokens, features)
            bench.draft(state, text[-1], len(text) - 1)
            require(tokens == text[:-1], f"the list of tokens was changed in place, to {tokens[:12]}. Copy it.")
            require(
                features is None or kept is None or torch.equal(features, kept),
                "the features that commit was given were changed in place. Work on a copy.",
            )

    def test_the_target_is_left_as_it_was(self, make: Make, target_model: Any) -> None:
        """Binding, committing and drafting change no weight and no output of the target."""
        watch = ModelWatch(target_model)
        bench = Bench(make(), target_model)
        try:
            for text in self._texts(bench):
                self._drafted(bench, text)
        finally:
            bench.target.close()
        watch.check(self.strategy.__name__)

    @pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
    def test_the_text_is_the_targets_own(self, make: Make, target_model: Any, sampling: Mapping[str, Any]) -> None:
        """Whole requests equal plain decoding token by token, greedy and sampled with the same seed."""
        check_text_is_the_targets(self._decoders(make, target_model), target_model, sampling, _HINT)

    def test_drafting_is_fast(self, bench: Bench) -> None:
        """Behind 600 tokens, against one forward of the target over the root: a draft that costs more never pays."""
        text = [token for text in self._texts(bench) for token in text] * 20
        text = text[: min(601, bench.target.position_limit - _DEEP)]
        state, target, end = bench.fed(text[:-1]), bench.target, len(text) - 1
        target_state, root = target.start(len(text) + 1), DraftTree.root_only(text[-1])
        target.prefill(target_state, text[:-1], lambda tokens, features: None)
        request = DraftRequest(text[-1], end, _DEEP)
        check_speed(
            f"draft behind {end} tokens",
            lambda: as_plain(bench.drafter.draft(state, request)),
            lambda: target.forward_tree(target_state, target.place(target_state, root)).tolist(),
            "one forward of the target",
            self.slowest_allowed,
        )

    def _texts(self, bench: Bench) -> list[list[int]]:
        return self.texts(bench.target.vocabulary_size)

    def _beginnings(self, bench: Bench) -> list[list[int]]:
        return [text[:end] for text in self._texts(bench) for end in (3, 10, 20, len(text)) if end <= len(text)]

    def _drafted(self, bench: Bench, text: Sequence[int]) -> Draft:
        return bench.plain(bench.fed(text[:-1]), text[-1], len(text) - 1)

    def _check(self, bench: Bench, marginals: Marginals | None, max_depth: int) -> None:
        if marginals is not None:
            check_draft(
                marginals,
                max_depth=max_depth,
                block_size=bench.drafter.block_size,
                vocabulary_size=bench.target.vocabulary_size,
            )

    def _require_same(self, first: Draft, second: Draft, when: str) -> None:
        require(
            first == second,
            f"one text gave two drafts, {when}: {shown(first)} and {shown(second)}. A draft follows from the committed "
            f"text and the request; draw random numbers from a generator seeded by them.",
        )

    def _decoders(self, make: Make, model: Any) -> Callable[[Sequence[Sequence[int]]], Decoder]:
        return lambda known: Decoder(
            target=model,
            drafter=make(),
            tree_builder=built_in("tree_builder", "ddtree", node_budget=16),
            verifier=built_in("verifier", "sdpa"),
            cost_model=PartnerCosts(),
        )
