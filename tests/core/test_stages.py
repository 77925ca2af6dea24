"""Whatever raises while decoding is named with its kind and its round. FT-24."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from caddtree.core.decoder import Decoder
from caddtree.core.errors import StageError
from caddtree.cost_models.analytic import AnalyticCostModel
from caddtree.drafters.ngram import Ngram
from caddtree.tree_builders.caddtree import CaDDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.tiny_models import plain_greedy, tiny_model

PROMPT = [1, 2, 3, 1, 2, 3, 1, 2]


@attrs.define
class FailingCost:
    """A cost model that raises at one of its calls."""

    fails_at: int
    calls: int = 0

    def prepare(self, decoder):
        pass

    def before_choice_seconds(self, context_length):
        return 0.001

    def after_choice_seconds(self, num_draft_nodes, context_length):
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("no clock")
        return 0.01 + 0.001 * num_draft_nodes


def decoder(model, cost_model, drafter=None, observers=()):
    return Decoder(
        target=model,
        drafter=drafter or Ngram(),
        tree_builder=CaDDTree(max_node_budget=8),
        verifier=SdpaVerifier(),
        cost_model=cost_model,
        observers=observers,
    )


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5])
def test_ft24_a_cost_model_is_named_wherever_it_is_asked(fails_at):
    """While the tree is chosen and while the round is recorded; the next request is served."""
    model = tiny_model()
    broken = decoder(model, FailingCost(fails_at))
    with pytest.raises(StageError, match=r"cost_model FailingCost failed in round \d: RuntimeError: no clock"):
        broken.generate(PROMPT, max_new_tokens=20)

    assert list(broken.generate(PROMPT, max_new_tokens=9).token_ids) == plain_greedy(model, PROMPT, 9)


@pytest.mark.parametrize(("method", "where"), [("prefill", "prefill"), ("commit", "round 0")])
def test_ft24_the_target_is_not_blamed_on_the_drafter(method, where, monkeypatch):
    """An exception in the target's own forward or commit names the target."""
    broken = decoder(tiny_model(), FailingCost(0))

    def fail(*_args, **_kwargs):
        raise RuntimeError("a broken layer")

    monkeypatch.setattr(broken.target, method, fail)
    with pytest.raises(StageError, match=rf"target Qwen3ForCausalLM failed in {where}: RuntimeError: a broken layer"):
        broken.generate(PROMPT, max_new_tokens=20)


def test_ft24_a_drafter_that_fails_in_prefill_is_named():
    """Its commit runs inside the target's prefill; the inner name wins."""

    class Forgetful(Ngram):
        def commit(self, state, tokens, features):
            raise KeyError("gone")

    with pytest.raises(StageError, match="drafter Forgetful failed in prefill: KeyError"):
        decoder(tiny_model(), FailingCost(0), Forgetful()).generate(PROMPT, max_new_tokens=4)


def test_probing_teaches_the_decoder_nothing():
    """The analytic model's own rounds reach no observer and move no long-run speed."""
    seen = []
    watch = type("Watch", (), {"on_round": staticmethod(seen.append)})()
    made = decoder(tiny_model(), AnalyticCostModel(flops_per_second=1e9, bytes_per_second=1e9), observers=[watch])
    made.prepare()

    assert seen == []
    assert made.speed.tokens_per_second is None
    generation = made.generate(PROMPT, max_new_tokens=12)
    assert tuple(seen) == generation.rounds
    assert np.isfinite(generation.rounds[0].predicted_seconds)
