"""Observers: they see rounds and finished requests, say where a text ends, and change no token."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from caddtree.core.decoder import Decoder
from caddtree.core.errors import StageError
from caddtree.core.records import Generation
from caddtree.drafters.none import NoDrafter
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.tiny_models import ScriptedDrafter, plain_greedy, prompts, tiny_model
from tests.tiny_pair import tiny_tokenizer

NUM_NEW = 40


class Finishes:
    """Keeps every finished request."""

    def __init__(self) -> None:
        self.seen: list[Generation] = []

    def on_finish(self, generation: Generation) -> None:
        self.seen.append(generation)


class EndsAt:
    """A rule: the text ends with its first token that is divisible by so much, but not before so many tokens."""

    def __init__(self, divisor: int, least: int = 1) -> None:
        self.divisor, self.least = divisor, least

    def ends_text(self, tokens: Sequence[int]) -> bool:
        return len(tokens) >= self.least and tokens[-1] % self.divisor == 0

    def cut(self, tokens: list[int]) -> list[int]:
        """The tokens that are left, and all where none ends the text."""
        ends = (n for n in range(1, len(tokens) + 1) if self.ends_text(tokens[:n]))
        return tokens[: next(ends, len(tokens))]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def truth(model):
    return {tuple(prompt): plain_greedy(model, prompt, NUM_NEW) for prompt in prompts(8)}


def make(model, *observers, drafter=None, builder=None, **options):
    return Decoder(
        target=model,
        drafter=drafter or NoDrafter(),
        tree_builder=builder or Chain(),
        verifier=SdpaVerifier(),
        observers=observers,
        **options,
    )


class TestFinish:
    def test_a_finished_request_is_seen_once_as_it_is_returned(self, model):
        """Behind its last round."""
        watch = Finishes()
        decoder = make(model, watch)
        made = [decoder.generate([1, 2, number], max_new_tokens=6) for number in range(3)]

        assert watch.seen == made

    def test_a_text_that_ends_in_prefill_is_seen(self, model):
        """It has no round, so no observer of rounds would hear of it."""
        watch = Finishes()
        make(model, watch).generate([1, 2], max_new_tokens=1)

        (seen,) = watch.seen
        assert (len(seen.token_ids), seen.rounds, seen.finish_reason) == (1, (), "length")

    @pytest.mark.parametrize("how", ["should_stop", "closed", "dropped stream"])
    def test_a_cancelled_request_is_seen(self, model, how):
        """However it is cancelled, with what there is so far."""
        watch = Finishes()
        decoder = make(model, watch)
        if how == "should_stop":
            asked = iter([False, False, True])
            decoder.generate([1, 2], max_new_tokens=20, should_stop=lambda: next(asked))
        elif how == "closed":
            session = decoder.open([1, 2], max_new_tokens=20)
            session.step()
            session.close()
        else:
            stream = decoder.stream([1, 2], max_new_tokens=20)
            next(stream), next(stream)
            stream.close()

        (seen,) = watch.seen
        assert seen.finish_reason == "cancelled"
        assert 1 <= len(seen.token_ids) < 20

    def test_a_request_that_fails_is_not_seen_and_a_failing_observer_is_named(self, model):
        """The next request is served."""

        class Full:
            full = True

            def on_finish(self, generation):
                if self.full:
                    raise OSError("no space left")

        watch, disk = Finishes(), Full()
        decoder = make(model, disk, watch)
        with pytest.raises(StageError, match="observer Full failed in on_finish: OSError: no space left"):
            decoder.generate([1, 2], max_new_tokens=4)
        assert watch.seen == []
        disk.full = False
        assert [decoder.generate([1, 2], max_new_tokens=4)] == watch.seen


class TestStopRule:
    @pytest.mark.parametrize("least", [1, 7])
    @pytest.mark.parametrize(
        ("right", "builder"), [(0.0, None), (0.7, Chain()), (1.0, Chain()), (0.7, DDTree(node_budget=24))]
    )
    def test_the_text_ends_at_the_same_token_whatever_is_drafted(self, model, truth, right, builder, least):
        """With the first token that the rule ends, though later ones were accepted in the same round."""
        rule, cut_inside = EndsAt(3, least), 0
        for prompt, whole in truth.items():
            drafter = ScriptedDrafter(truth, right=right) if builder else None
            found = make(model, rule, drafter=drafter, builder=builder).generate(list(prompt), max_new_tokens=NUM_NEW)
            expected = rule.cut(whole)

            assert list(found.token_ids) == expected
            is_stopped = rule.ends_text(expected)
            assert (found.finish_reason, found.stopped_by) == (("stop", "EndsAt") if is_stopped else ("length", None))
            cut_inside += len(expected) < NUM_NEW
        assert cut_inside > len(truth) / 2

    def test_a_sampled_text_ends_at_the_same_token(self, model, truth):
        """The choices behind the end are not drawn, those before it are the same."""
        options = {"temperature": 1.0, "seed": 7, "max_new_tokens": NUM_NEW}
        rule = EndsAt(5, 3)
        for prompt in truth:
            whole = list(make(model).generate(list(prompt), **options).token_ids)
            plain = make(model, rule).generate(list(prompt), **options)
            known = {prompt: whole}
            drafted = make(
                model, rule, drafter=ScriptedDrafter(known, right=0.8), builder=DDTree(node_budget=12)
            ).generate(list(prompt), **options)

            assert list(plain.token_ids) == list(drafted.token_ids) == rule.cut(whole)

    def test_the_rule_sees_the_answer_alone(self, model):
        """From its first token on, as a list of its own each time, which the rule may keep or change."""

        asked = []

        class Greedy:
            def ends_text(self, tokens):
                asked.append(list(tokens))
                tokens.clear()
                return False

        found = make(model, Greedy()).generate([5, 6, 7], max_new_tokens=5)

        assert asked == [list(found.token_ids[:n]) for n in range(1, 6)]

    def test_a_stop_token_and_a_stop_string_come_first(self, model):
        """Whoever ends the text at the same token, it ended by itself: no rule is named."""
        prompt = prompts(1)[0]
        third = plain_greedy(model, prompt, 3)[2]
        decoder = make(model, EndsAt(1, 3))
        decoder.eos_token_ids = frozenset([third])
        assert decoder.generate(list(prompt), max_new_tokens=9).stopped_by is None

        tokenizer = tiny_tokenizer()
        text = make(model, tokenizer=tokenizer).generate(list(prompt), max_new_tokens=9).text
        stopped = make(model, EndsAt(1, 9), tokenizer=tokenizer).generate(
            list(prompt), max_new_tokens=9, stop=(text[-1],)
        )
        assert (stopped.finish_reason, stopped.stopped_by) == ("stop", None)

    @pytest.mark.parametrize("answer", [None, 1, "no", torch.tensor(True)])
    def test_an_answer_that_is_neither_yes_nor_no_is_refused(self, model, answer):
        """A rule without a return would never end a text."""
        rule = type("Forgetful", (), {"ends_text": staticmethod(lambda tokens: answer)})()
        with pytest.raises(StageError, match=r"observer Forgetful failed in ends_text: TypeError: .* True or False"):
            make(model, rule).generate([1, 2], max_new_tokens=4)

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_a_rule_that_raises_is_to_blame_not_the_verifier(self, model, temperature):
        """Also where it is asked inside the walk."""

        class Breaks:
            def ends_text(self, tokens):
                if len(tokens) == 3:
                    raise ZeroDivisionError("oops")
                return False

        with pytest.raises(StageError, match="observer Breaks failed in ends_text: ZeroDivisionError: oops"):
            make(model, Breaks()).generate([1, 2], max_new_tokens=9, temperature=temperature)

    def test_it_holds_for_transformers_generate_too(self, model):
        """The decoder's rule ends what ``model.generate`` returns."""
        prompt, rule = prompts(1)[0], EndsAt(3, 4)
        decoder = make(model, rule)
        found = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=NUM_NEW,
            do_sample=False,
            custom_generate=decoder.custom_generate,
        )

        assert found[0, len(prompt) :].tolist() == rule.cut(plain_greedy(model, prompt, NUM_NEW))

    def test_no_rule_is_asked_while_rounds_are_measured(self, model):
        """A profile of three rounds that a rule ended would be none."""
        decoder = make(model, EndsAt(1))
        with decoder.measuring():
            assert len(decoder.generate([1, 2], max_new_tokens=9).token_ids) == 9
        assert len(decoder.generate([1, 2], max_new_tokens=9).token_ids) == 1
