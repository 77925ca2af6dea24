"""Observers with one fault each, around a rule and a meter."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import attrs
from attrs.validators import ge, instance_of

from caddtree.testing import ObserverContract

logger = logging.getLogger("caddtree.broken")

IS = "test_it_is_an_observer"
ROUND = "test_every_round_is_taken"
REQUEST = "test_every_request_is_taken"
COME = "test_requests_come_as_they_come"
RECORDS = "test_records_are_left_as_they_were"
WATCHING = "test_watching_is_fast"
TEXT = "test_the_text_is_the_targets_own"
ENDS = "test_a_text_ends_at_the_same_token_whatever_is_drafted"
BOOL = "test_a_rule_says_true_or_false"
SOME = "test_a_rule_ends_some_text"
AGAIN = "test_a_rule_says_the_same_when_it_is_asked_again"
REMEMBERS = "test_a_rule_remembers_no_text"
CLOCK = "test_a_rule_does_not_look_at_the_clock"
ANY = "test_a_rule_takes_any_sequence"
TOKENS = "test_the_tokens_of_an_answer_are_left_as_they_were"
ASKING = "test_asking_is_fast"
OPTIONS = "test_no_option_is_ignored"


class Contract(ObserverContract):
    caught_by: dict[str, str]


@attrs.define(eq=False)
class Rule:
    """End a text where one token has come so many times in a row."""

    times: int = attrs.field(default=3, validator=[instance_of(int), ge(1)])

    def ends_text(self, tokens):
        return len(tokens) >= self.times and len(set(tokens[-self.times :])) == 1


class TestRule(Contract):
    """The rule itself is sound."""

    strategy = Rule
    caught_by: dict[str, str] = {}


@attrs.define(eq=False)
class Meter:
    """Count draft nodes, and log what requests came to."""

    digits: int = attrs.field(default=2, validator=[instance_of(int), ge(0)])
    num_drafts: int = attrs.field(default=0, init=False)

    def on_round(self, round_):
        self.num_drafts += round_.num_draft_nodes

    def on_finish(self, generation):
        logger.info("tau %.*f", self.digits, generation.mean_acceptance_length)


class TestMeter(Contract):
    """The meter itself is sound."""

    strategy = Meter
    caught_by: dict[str, str] = {}


@attrs.define(eq=False)
class RemembersRequests(Rule):
    """Grows patient: from the fourth request on it takes one more repeat."""

    _num_requests: int = attrs.field(default=0, init=False)

    def ends_text(self, tokens):
        self._num_requests += len(tokens) == 1
        return Rule(self.times + (self._num_requests > 3)).ends_text(tokens)


class TestRemembersRequests(Contract):
    strategy = RemembersRequests
    caught_by = {
        REMEMBERS: r"ends_text says False after \d+ tokens .* asked after other texts, .* a new rule .* says True",
        TEXT: "differs from plain greedy decoding",
        ENDS: "differs from the text up to the end that a new rule gives it: .* keep nothing",
    }


@attrs.define(eq=False)
class CountsQuestions(Rule):
    """Ends a text when it was asked so often."""

    times: int = attrs.field(default=12, validator=[instance_of(int), ge(1)])
    _num_asked: int = attrs.field(default=0, init=False)

    def ends_text(self, tokens):
        self._num_asked = 1 if len(tokens) == 1 else self._num_asked + 1
        return self._num_asked >= self.times


class TestCountsQuestions(Contract):
    strategy = CountsQuestions
    caught_by = {
        AGAIN: "asked twice, the answer of time 1, where a new rule that is asked once says False",
        REMEMBERS: "asked about two texts in turn, where a new rule that is asked once says",
        TEXT: "differs from plain",
        ENDS: r"differs from the text up to the end .* \d+ tokens where 12 are expected",
    }


@attrs.define(eq=False)
class ForgetsToAnswer(Rule):
    """Returns nothing where the text goes on."""

    def ends_text(self, tokens):
        if super().ends_text(tokens):
            return True


class TestForgetsToAnswer(Contract):
    strategy = ForgetsToAnswer
    caught_by = {
        BOOL: r"ends_text must return True or False, found None \(NoneType\) after 1 tokens",
        TEXT: "ends_text must return True or False, found NoneType",
        ENDS: "ends_text must return True or False, found NoneType",
    }


@attrs.define(eq=False)
class NeverEnds:
    """A rule that is not written yet."""

    def ends_text(self, tokens):
        return False


class TestNeverEnds(Contract):
    strategy = NeverEnds
    caught_by = {SOME: r"NeverEnds ends none of the \d+ texts of the kit.*Override `texts`"}


@attrs.define(eq=False)
class LooksAtTheClock(Rule):
    """Ends a text that takes more than a minute, too."""

    _started: float = attrs.field(factory=time.monotonic, init=False)

    def ends_text(self, tokens):
        if len(tokens) == 1:
            self._started = time.monotonic()
        return super().ends_text(tokens) or time.monotonic() - self._started > 60


class TestLooksAtTheClock(Contract):
    strategy = LooksAtTheClock
    caught_by = {CLOCK: "ends_text says True .* when a day passes in the middle of the text, where a new rule"}


@attrs.define(eq=False)
class NeedsAList(Rule):
    """Compares with a list."""

    def ends_text(self, tokens):
        return tokens[-self.times :] == [tokens[-1]] * self.times


class TestNeedsAList(Contract):
    strategy = NeedsAList
    caught_by = {ANY: "ends_text says False .* given the token ids in a tuple, where a new rule .* says True"}


@attrs.define(eq=False)
class TakesTokensAway(Rule):
    """Eats the answer from its end."""

    def ends_text(self, tokens):
        last = [tokens.pop() for _ in range(min(self.times, len(tokens)))]
        return len(last) == self.times and len(set(last)) == 1


class TestTakesTokensAway(Contract):
    strategy = TakesTokensAway
    caught_by = {
        TOKENS: r"ends_text changed the list of tokens in place: 1 tokens became \[\]",
        ANY: "ends_text after 1 tokens in a tuple must work, but raised AttributeError",
    }


@attrs.define(eq=False)
class TwoTokensAtLeast(Rule):
    """Looks at the last but one token, which is not there in the beginning."""

    def ends_text(self, tokens):
        return tokens[-1] == tokens[-2] and super().ends_text(tokens)


class TestTwoTokensAtLeast(Contract):
    strategy = TwoTokensAtLeast
    caught_by = {"*": "ends_text.* IndexError: list index out of range"}


@attrs.define(eq=False)
class SlowRule(Rule):
    """Looks for loops of every length anywhere in the answer."""

    def ends_text(self, tokens):
        for length in range(1, 60):
            pairs = [tokens[place] == tokens[place - length] for place in range(length, len(tokens))]
            assert len(pairs) <= len(tokens)
        return super().ends_text(tokens)


class TestSlowRule(Contract):
    strategy = SlowRule
    caught_by = {ASKING: "ends_text of 16 answers of 2,000 tokens is too slow"}


@attrs.define(eq=False)
class SlowMeter(Meter):
    """Waits for a server in every round."""

    def on_round(self, round_):
        time.sleep(0.005)
        super().on_round(round_)


class TestSlowMeter(Contract):
    strategy = SlowMeter
    caught_by = {WATCHING: "on_round is too slow: .* ms in the best of"}


@attrs.define(eq=False)
class CountsOnDraftNodes(Meter):
    """Computes the share of draft nodes that were accepted."""

    def on_round(self, round_):
        super().on_round(round_)
        logger.debug("%.2f", round_.num_accepted / round_.num_draft_nodes)


class TestCountsOnDraftNodes(Contract):
    strategy = CountsOnDraftNodes
    caught_by = {
        ROUND: "on_round of a round with no draft nodes must work, but raised ZeroDivisionError",
        REQUEST: "on_round of round 0 of a request: plain rounds must work, but raised ZeroDivisionError",
        RECORDS: "ZeroDivisionError",
        OPTIONS: "ZeroDivisionError",
        "test_a_number_that_is_accepted_works": "ZeroDivisionError",
        TEXT: "CountsOnDraftNodes failed in round \\d+: ZeroDivisionError",
        ENDS: "CountsOnDraftNodes failed in round \\d+: ZeroDivisionError",
    }


@attrs.define(eq=False)
class CountsOnPredictions(Meter):
    """Compares seconds with those that a cost model predicted."""

    def on_round(self, round_):
        super().on_round(round_)
        logger.debug("%.3f", round_.seconds.total - round_.predicted_seconds)


class TestCountsOnPredictions(Contract):
    strategy = CountsOnPredictions
    caught_by = {
        ROUND: "on_round of a round with no cost model must work, but raised TypeError",
        REQUEST: "TypeError",
        RECORDS: "TypeError",
        OPTIONS: "TypeError",
        "test_a_number_that_is_accepted_works": "TypeError",
        TEXT: "CountsOnPredictions failed in round \\d+: TypeError",
        ENDS: "CountsOnPredictions failed in round \\d+: TypeError",
    }


@attrs.define(eq=False)
class CountsOnRounds(Meter):
    """Logs the last round of every request."""

    def on_finish(self, generation):
        super().on_finish(generation)
        logger.info("%d draft nodes at last", generation.rounds[-1].num_draft_nodes)


class TestCountsOnRounds(Contract):
    strategy = CountsOnRounds
    caught_by = {
        REQUEST: "on_finish of a request: ended in prefill must work, but raised IndexError: tuple index out of range",
        RECORDS: "IndexError",
        OPTIONS: "IndexError",
        "test_a_number_that_is_accepted_works": "IndexError",
        TEXT: "CountsOnRounds failed in on_finish: IndexError",
        ENDS: "CountsOnRounds failed in on_finish: IndexError",
    }


@attrs.define(eq=False)
class OneAtATime(Meter):
    """Believes that a request is over when the next one begins."""

    _is_open: bool = attrs.field(default=False, init=False)

    def on_round(self, round_):
        if round_.index == 0 and self._is_open:
            raise RuntimeError("a request is open")
        self._is_open = True
        super().on_round(round_)

    def on_finish(self, generation):
        self._is_open = False
        super().on_finish(generation)


class TestOneAtATime(Contract):
    strategy = OneAtATime
    caught_by = {
        COME: "on_round of a round while two requests are open must work, but raised RuntimeError: a request is open",
        WATCHING: "on_round must work, but raised RuntimeError: a request is open",
        ENDS: "OneAtATime failed in round 0: RuntimeError: a request is open",
    }


@attrs.define(eq=False)
class WritesIntoRecords(Meter):
    """Leaves the bonus token out of every record."""

    def on_round(self, round_):
        super().on_round(round_)
        object.__setattr__(round_, "tokens", round_.tokens[:-1])


class TestWritesIntoRecords(Contract):
    strategy = WritesIntoRecords
    caught_by = {
        RECORDS: r"the observer changed tokens of round 0 of a request .* from \(5, 17, 3, 8\) to \(5, 17, 3\)"
    }


@attrs.define(eq=False)
class WritesIntoTheText(Meter):
    """Reaches into the session that tells it of a round, and mends the text there."""

    def on_round(self, round_):
        super().on_round(round_)
        session: Any = sys._getframe(1).f_locals.get("self")
        if hasattr(session, "finish_reason") and len(session.tokens) - session.num_prompt_tokens < 12:
            session.tokens[-1] = (session.tokens[-1] + 1) % 2


class TestWritesIntoTheText(Contract):
    strategy = WritesIntoTheText
    caught_by = {
        TEXT: "differs from plain .* An observer cannot choose what is said",
        ENDS: "differs from the text .* An observer cannot choose what is said",
    }


@attrs.define(eq=False)
class NoMethod(Rule):
    """``on_finish`` is nothing yet."""

    on_finish = None


class TestNoMethod(Contract):
    strategy = NoMethod
    caught_by = {
        IS: "on_finish must be a method, found NoneType",
        TEXT: "NoMethod failed in on_finish: TypeError: 'NoneType' object is not callable",
        ENDS: "NoMethod failed in on_finish: TypeError: 'NoneType' object is not callable",
    }


@attrs.define(eq=False)
class IgnoresAnOption(Meter):
    """Offers a window and looks at it nowhere."""

    window: int = attrs.field(default=8, validator=[instance_of(int), ge(1)], kw_only=True)


class TestIgnoresAnOption(Contract):
    strategy = IgnoresAnOption
    caught_by = {OPTIONS: r"IgnoresAnOption ignores window \(tried 9, 7"}
