"""Cost models with one fault each, around a straight line."""

from __future__ import annotations

import random
from typing import Any

import attrs
import numpy as np
from attrs.validators import gt, instance_of

from caddtree.testing import CostModelContract

SHAPE = "test_there_is_one_price_per_count"
ABOVE_0 = "test_every_price_is_finite_and_above_0"
ONE_BY_ONE = "test_many_prices_at_once_are_the_prices_one_by_one"
BEFORE = "test_a_price_does_not_depend_on_what_was_asked_before"
COUNTS = "test_the_counts_are_left_as_they_were"
UNPREPARED = "test_it_answers_before_it_is_prepared"
TEXT = "test_the_text_is_the_targets_own"
TEXT_OF_2 = "test_the_text_of_a_vocabulary_of_2_is_the_targets_own"
OPTIONS = "test_no_option_is_ignored"
FAST = "test_pricing_is_fast"


class Contract(CostModelContract):
    caught_by: dict[str, str]


@attrs.define(eq=False)
class Line:
    """A round costs so much, and so much per draft node."""

    round_seconds: float = attrs.field(default=0.01, validator=[instance_of(float), gt(0)])
    node_seconds: float = attrs.field(default=1e-4, validator=[instance_of(float), gt(0)])

    def prepare(self, decoder: Any) -> None:
        """Nothing to do."""

    def before_choice_seconds(self, context_length: int) -> float:
        return 0.002

    def after_choice_seconds(self, num_draft_nodes, context_length):
        return self.round_seconds + self.node_seconds * num_draft_nodes.astype(np.float64)


class TestLine(Contract):
    """The line itself is sound."""

    strategy = Line
    caught_by: dict[str, str] = {}


class NotANumber(Line):
    """Knows nothing behind 400 tokens."""

    def after_choice_seconds(self, num_draft_nodes, context_length):
        return super().after_choice_seconds(num_draft_nodes, context_length) * (1.0 if context_length < 400 else np.nan)


class TestNotANumber(Contract):
    strategy = NotANumber
    caught_by = {
        ABOVE_0: "a price must be finite and above 0, found nan seconds for 0 draft nodes at context 480",
        OPTIONS: "behave differently",
    }


class Negative(Line):
    """Extends a falling curve as far as it is asked."""

    def after_choice_seconds(self, num_draft_nodes, context_length):
        return self.round_seconds + self.node_seconds * (20 - num_draft_nodes.astype(np.float64))


class TestNegative(Contract):
    strategy = Negative
    caught_by = {
        ABOVE_0: "a price must be finite and above 0, found -",
        UNPREPARED: "a price must be finite and above 0, found -",
    }


class NegativeDraft(Line):
    """Drafting gives time back."""

    def before_choice_seconds(self, context_length):
        return -0.001


class TestNegativeDraft(Contract):
    strategy = NegativeDraft
    caught_by = {
        ABOVE_0: "before_choice_seconds must be a finite number of at least 0, found -0.001",
        UNPREPARED: "before_choice_seconds must be a finite number of at least 0",
        TEXT: "CostModelError: cost model NegativeDraft gave -0.001 seconds before the choice",
        TEXT_OF_2: "CostModelError",
    }


class OnePrice(Line):
    """One number, however many counts there are."""

    def after_choice_seconds(self, num_draft_nodes, context_length):
        return np.array([self.round_seconds + self.node_seconds * context_length])


class TestOnePrice(Contract):
    strategy = OnePrice
    caught_by = {
        SHAPE: r"must return 11 float64 seconds for 11 counts, found ndarray of shape \(1,\)",
        TEXT: "CostModelError: cost model OnePrice gave costs of shape",
        TEXT_OF_2: "CostModelError",
    }


class WholeSeconds(Line):
    """Rounds up to whole seconds, as integers."""

    def after_choice_seconds(self, num_draft_nodes, context_length):
        return np.ceil(1e3 * super().after_choice_seconds(num_draft_nodes, context_length)).astype(np.int64)


class TestWholeSeconds(Contract):
    strategy = WholeSeconds
    caught_by = {SHAPE: "and dtype int64"}


class Company(Line):
    """Adds up along the counts that are asked for."""

    def after_choice_seconds(self, num_draft_nodes, context_length):
        return np.cumsum(super().after_choice_seconds(num_draft_nodes, context_length))


class TestCompany(Contract):
    strategy = Company
    caught_by = {ONE_BY_ONE: "when asked for alone and .* s among"}


@attrs.define(eq=False)
class RemembersTheContext(Line):
    """Interpolates from the context that was asked before."""

    last: int = attrs.field(default=0, init=False)

    def after_choice_seconds(self, num_draft_nodes, context_length):
        self.last, last = context_length, self.last
        return super().after_choice_seconds(num_draft_nodes, context_length) + 1e-6 * (context_length + last)


class TestRemembersTheContext(Contract):
    strategy = RemembersTheContext
    caught_by = {
        BEFORE: "the prices at context 1 changed between two calls",
        ONE_BY_ONE: "when asked for alone",
    }


@attrs.define(eq=False)
class HandsOutItsTable(Line):
    """The array that is returned is the model's own."""

    table: dict[Any, Any] = attrs.field(factory=dict, init=False)

    def after_choice_seconds(self, num_draft_nodes, context_length):
        key = (context_length, *num_draft_nodes.tolist())
        if key not in self.table:
            self.table[key] = super().after_choice_seconds(num_draft_nodes, context_length)
        return self.table[key]


class TestHandsOutItsTable(Contract):
    strategy = HandsOutItsTable
    caught_by = {BEFORE: "the array that is returned is the caller's, who may write into it"}


class ChangesTheCounts(Line):
    """Makes rows of draft nodes where they are."""

    def after_choice_seconds(self, num_draft_nodes, context_length):
        num_draft_nodes += 1
        return super().after_choice_seconds(num_draft_nodes, context_length)


class TestChangesTheCounts(Contract):
    strategy = ChangesTheCounts
    caught_by = {COUNTS: r"after_choice_seconds changed the counts in place, to \[1, 2"}


@attrs.define(eq=False)
class NeedsPreparation(Line):
    """Has no answer before it is prepared."""

    curve: Any = attrs.field(default=None, init=False)

    def prepare(self, decoder):
        self.curve = Line(self.round_seconds, self.node_seconds).after_choice_seconds

    def after_choice_seconds(self, num_draft_nodes, context_length):
        return self.curve(num_draft_nodes, context_length)


class TestNeedsPreparation(Contract):
    strategy = NeedsPreparation
    caught_by = {UNPREPARED: "must work, but raised TypeError: 'NoneType' object is not callable"}


class NoSwitch(Line):
    """The price of a switch is no number."""

    switch_seconds = float("nan")


class TestNoSwitch(Contract):
    strategy = NoSwitch
    caught_by = {
        "test_it_is_a_cost_model": "switch_seconds must be a finite number of at least 0, found nan",
        TEXT: "is predicted to take nan seconds",
    }


class Unsteady(Line):
    """Prices with noise."""

    def after_choice_seconds(self, num_draft_nodes, context_length):
        return super().after_choice_seconds(num_draft_nodes, context_length) * (1 + 0.01 * random.Random().random())


class TestUnsteady(Contract):
    strategy = Unsteady
    caught_by = {
        ONE_BY_ONE: "when asked for alone",
        BEFORE: "changed between two calls",
        OPTIONS: "with the same options .* behave differently",
    }


class ChangesTheTarget(Line):
    """Leaves the target's head scaled after measuring."""

    def prepare(self, decoder):
        decoder.target.model.get_output_embeddings().weight.data.mul_(-1)


class TestChangesTheTarget(Contract):
    strategy = ChangesTheTarget
    caught_by = {TEXT: "differs from plain", TEXT_OF_2: "differs from plain"}


@attrs.define(eq=False)
class IgnoresAnOption(Line):
    """A smoothing that nothing looks at."""

    smoothing: float = attrs.field(default=0.1, validator=[instance_of(float), gt(0)])


class TestIgnoresAnOption(Contract):
    strategy = IgnoresAnOption
    caught_by = {OPTIONS: r"IgnoresAnOption ignores smoothing \(tried"}


@attrs.define(eq=False)
class TakesAnything(Line):
    """Validates nothing."""

    node_seconds: float = 1e-4


class TestTakesAnything(Contract):
    strategy = TakesAnything
    invalid_options = [{"node_seconds": -1.0}]
    caught_by = {
        "test_an_option_of_the_wrong_type_is_refused_by_name": "takes node_seconds = 'no such word'",
        "test_an_invalid_option_is_refused_by_name": "takes node_seconds = -1.0, invalid",
    }


class Slow(Line):
    """Prices one count after the other, each by a sum over all smaller ones."""

    def after_choice_seconds(self, num_draft_nodes, context_length):
        nodes = [sum(self.node_seconds for _ in range(count)) for count in num_draft_nodes.tolist()]
        return self.round_seconds + np.array(nodes, np.float64)


class TestSlow(Contract):
    strategy = Slow
    caught_by = {FAST: "after_choice_seconds of 1,025 sizes is too slow"}
