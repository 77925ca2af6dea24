"""What a round asks of the processes that decode together."""

from __future__ import annotations

import pytest

from caddtree.core.decoder import Decoder
from caddtree.core.group import Alone
from caddtree.core.target import Target
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.tiny_models import ScriptedDrafter, plain_greedy, tiny_model

TEXT = [3, 1, 4, 1, 5]


class Counting(Alone):
    """One process that writes down what it is asked."""

    def __init__(self):
        self.asked = []

    def share(self, make):
        self.asked.append("share")
        return make()

    def meet(self, what, facts):
        self.asked.append(("meet", what, sorted(facts())))

    def together(self, where):
        self.asked.append(("together", where))
        return super().together(where)


@pytest.mark.parametrize(("should_stop", "messages"), [(None, 2), (lambda: False, 3)])
def test_a_round_costs_two_messages_and_one_more_where_it_may_be_stopped(should_stop, messages):
    """The tree and the walk, and the wish to stop; a request one comparison, and one for the first token."""
    group = Counting()
    target = Target(tiny_model(), group=group)
    truth = plain_greedy(target.model, TEXT, 12)
    drafter = ScriptedDrafter({tuple(TEXT): truth})
    decoder = Decoder(target=target, drafter=drafter, tree_builder=DDTree(node_budget=6), verifier=SdpaVerifier())
    generation = decoder.generate(TEXT, max_new_tokens=12, should_stop=should_stop)
    expected = [("meet", "a request", ["max_new_tokens", "prompt", "should_stop"]), ("together", "prefill"), "share"]
    for round_ in generation.rounds:
        expected += [("together", f"round {round_.index}"), *["share"] * messages]

    assert list(generation.token_ids) == truth
    assert group.asked == expected
