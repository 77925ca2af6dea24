"""The edges of Transformers' entry: how many draws are made, who is told of the end, which processors are refused."""

from __future__ import annotations

import functools

import pytest
import torch

from caddtree.core.errors import InputError, StageError
from caddtree.core.pipeline import Decoder
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.tiny_models import ScriptedDrafter, tiny_model

PROMPT = [1, 2, 3]


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=6)


def sampled(model, **options):
    ids = torch.tensor([PROMPT])
    torch.manual_seed(11)
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=24, pad_token_id=0, **options
    )[0, len(PROMPT) :].tolist()


def test_no_draw_is_made_behind_the_end_of_the_text(model):
    """An end token inside an accepted path: torch's generator stands where plain ``generate`` leaves it."""
    free = sampled(model)
    place = next(place for place in range(3, 20) if free[place] not in free[:place])
    plain = sampled(model, eos_token_id=free[place])
    state = torch.get_rng_state()
    # a drafter that knows the text beyond its end: the walk would go on there
    drafter = ScriptedDrafter({tuple(PROMPT): free}, right=1.0, depth=7)
    decoder = Decoder(target=model, drafter=drafter, tree_builder=DDTree(node_budget=40), verifier=SdpaVerifier())
    ours = sampled(model, eos_token_id=free[place], custom_generate=decoder.custom_generate)

    assert ours == plain == free[: place + 1]
    assert torch.equal(torch.get_rng_state(), state)


class Streamer:
    def __init__(self):
        self.ended = 0

    def put(self, value):
        pass

    def end(self):
        self.ended += 1


def test_a_streamer_is_told_of_the_end_after_an_error_too(model):
    """Whoever iterates over it would wait for ever."""

    class Broken(ScriptedDrafter):
        def draft(self, state, request):
            raise RuntimeError("no draft")

    streamer = Streamer()
    decoder = Decoder(target=model, drafter=Broken({}), tree_builder=DDTree(node_budget=4), verifier=SdpaVerifier())
    with pytest.raises(StageError, match="no draft"):
        sampled(model, custom_generate=functools.partial(decoder.custom_generate, streamer=streamer))

    assert streamer.ended == 1


def test_processors_with_a_memory_are_refused(model):
    """A tree asks them in another order than plain decoding."""

    class UnbatchedClassifierFreeGuidanceLogitsProcessor:
        def __call__(self, tokens, scores):
            return scores

    decoder = Decoder(
        target=model, drafter=ScriptedDrafter({}), tree_builder=DDTree(node_budget=4), verifier=SdpaVerifier()
    )
    with pytest.raises(InputError, match="UnbatchedClassifierFreeGuidanceLogitsProcessor"):
        sampled(
            model,
            custom_generate=decoder.custom_generate,
            logits_processor=[UnbatchedClassifierFreeGuidanceLogitsProcessor()],
        )
