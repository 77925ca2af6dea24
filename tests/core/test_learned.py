"""What a decoder learns: the scale of its costs; it changes predictions, never a token."""

from __future__ import annotations

import math

import attrs
import pytest

from caddtree.core.decoder import Decoder
from caddtree.core.learned import CostScale, LongRunSpeed
from caddtree.core.records import Round, StageSeconds
from caddtree.cost_models.analytic import AnalyticCostModel
from caddtree.drafters.ngram import Ngram
from caddtree.tree_builders.caddtree import CaDDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.tiny_models import plain_greedy, tiny_model

ROUND = Round(0, 10, 3, 2, (1,), (0,), 0.5, StageSeconds(0.001, 0.0, 0.003, 0.0), 0.002)


def test_the_scale_follows_rounds_that_are_slower_than_predicted():
    """Rounds take twice what the model says: the scale goes to 2, and the predictions with it."""
    learned = CostScale()
    for _ in range(400):
        learned.on_round(attrs.evolve(ROUND, predicted_seconds=0.002 * learned.scale))

    assert learned.scale == pytest.approx(2.0, rel=0.01)


def test_one_slow_round_moves_little():
    """A hiccup of a hundred times moves the scale by one per cent, and a round without a prediction not at all."""
    learned = CostScale()
    learned.on_round(attrs.evolve(ROUND, seconds=StageSeconds(0.2, 0.0, 0.2, 0.0)))
    learned.on_round(attrs.evolve(ROUND, predicted_seconds=None))

    assert learned.scale == pytest.approx(math.exp(0.01))


def test_predictions_meet_the_rounds_of_this_machine():
    """A cost model that is a thousand times off is scaled towards the truth; the text is plain decoding's."""
    model, prompt = tiny_model(), [1, 2, 3, 1, 2, 3]
    costs = AnalyticCostModel(flops_per_second=1e15, bytes_per_second=1e15, overhead_seconds=1e-6, draft_seconds=1e-6)
    decoder = Decoder(
        target=model,
        drafter=Ngram(),
        tree_builder=CaDDTree(max_node_budget=4),
        verifier=SdpaVerifier(),
        cost_model=costs,
    )
    first = decoder.generate(prompt, max_new_tokens=150)
    last = decoder.generate(prompt, max_new_tokens=150)

    assert list(last.token_ids) == plain_greedy(model, prompt, 150)
    error = [math.log(g.rounds[-2].seconds.total / g.rounds[-2].predicted_seconds) for g in (first, last)]
    assert error[1] < error[0]


def test_a_new_text_is_priced_by_itself_after_a_few_rounds():
    """After a hundred fast rounds a slow text begins: a dozen rounds of its own outweigh them."""
    learned = LongRunSpeed()
    for index in range(100):
        learned.on_round(attrs.evolve(ROUND, index=index, tokens=(1,) * 10))
    fast = learned.tokens_per_second
    for index in range(12):
        learned.on_round(attrs.evolve(ROUND, index=index, tokens=(1,) * 2))
    own = 2 / ROUND.seconds.total

    assert fast == pytest.approx(10 / ROUND.seconds.total)
    assert learned.tokens_per_second < 2.1 * own
    for index in range(12, 100):
        learned.on_round(attrs.evolve(ROUND, index=index, tokens=(1,) * 2))
    assert learned.tokens_per_second == pytest.approx(own, rel=0.1)
