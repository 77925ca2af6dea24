"""The edges of Transformers' entry: how many draws are made, who is told of the end, which calls are refused."""

from __future__ import annotations

import functools

import pytest
import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from caddtree.core.decoder import Decoder
from caddtree.core.errors import InputError, StageError
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.core.hf_calls import make_both
from tests.tiny_models import ScriptedDrafter, tiny_model

PROMPT = [1, 2, 3]


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=6)


@pytest.fixture(scope="module")
def both():
    return make_both()


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


@pytest.mark.parametrize("is_bound", [False, True])
def test_a_streamer_is_told_of_the_end_after_an_error_too(model, is_bound):
    """Whoever iterates over it would wait for ever."""

    class Broken(ScriptedDrafter):
        def draft(self, state, request):
            raise RuntimeError("no draft")

    streamer = Streamer()
    decoder = Decoder(target=model, drafter=Broken({}), tree_builder=DDTree(node_budget=4), verifier=SdpaVerifier())
    if is_bound:
        options = {"custom_generate": functools.partial(decoder.custom_generate, streamer=streamer)}
    else:
        options = {"custom_generate": decoder.custom_generate, "streamer": streamer}
    with pytest.raises(StageError, match="no draft"):
        sampled(model, **options)

    assert streamer.ended == 1


def test_a_streamer_is_told_of_the_end_after_a_refusal_too(both):
    """Nothing was decoded, and yet somebody may be waiting."""
    streamer = Streamer()
    with pytest.raises(InputError, match="guidance_scale"):
        both.ours(PROMPT, guidance_scale=3.0, streamer=streamer)

    assert streamer.ended == 1


def test_a_processor_that_runs_the_model_is_refused(both):
    """Classifier-free guidance brought along by the caller."""

    class UnbatchedClassifierFreeGuidanceLogitsProcessor:
        def __call__(self, tokens, scores):
            return scores

    with pytest.raises(InputError, match="UnbatchedClassifierFreeGuidanceLogitsProcessor is not supported"):
        both.ours(PROMPT, logits_processor=[UnbatchedClassifierFreeGuidanceLogitsProcessor()])


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("at", [3, 6])
def test_an_error_of_the_callers_own_parts_carries_their_name(both, do_sample, at):
    """In prefill and inside a round; no strategy is blamed for it."""

    class Faulty:
        def __call__(self, tokens, scores):
            if tokens.shape[1] >= at:
                raise KeyError("mine")
            return scores

    class FaultyCriterion(StoppingCriteria):
        def __call__(self, tokens, scores, **_):
            if tokens.shape[1] > at:
                raise KeyError("mine")
            return torch.tensor([False])

    plain = both.plain(PROMPT, do_sample=do_sample)
    for options, message in (
        (
            {"logits_processor": [Faulty()]},
            f"logits processor Faulty failed in a text of {at} tokens: KeyError: 'mine'",
        ),
        ({"stopping_criteria": StoppingCriteriaList([FaultyCriterion()])}, f"stopping criteria .* {at + 1} tokens"),
    ):
        with pytest.raises(StageError, match=message) as caught:
            both.ours(PROMPT, plain, do_sample=do_sample, **options)
        assert isinstance(caught.value.__cause__, KeyError)


def filled_cache(model):
    cache = DynamicCache()
    model(torch.tensor([PROMPT[:2]]), past_key_values=cache)
    return cache


REFUSED_ARGUMENTS = {
    "assistant_model": lambda model: {"assistant_model": model},
    "synced_gpus": lambda model: {"synced_gpus": True},
    "past_key_values": lambda model: {"past_key_values": DynamicCache()},
    "past_key_values ": lambda model: {"past_key_values": filled_cache(model)},
    "position_ids": lambda model: {"position_ids": torch.tensor([[0, 5, 6]])},
    "attention_mask with zeros": lambda model: {"attention_mask": torch.tensor([[0, 1, 1]])},
    "labels": lambda model: {"labels": torch.tensor([PROMPT])},
    "inputs_embeds": lambda model: {"inputs_embeds": model.get_input_embeddings()(torch.tensor([PROMPT]))},
}


@pytest.mark.parametrize("name", REFUSED_ARGUMENTS)
def test_an_argument_that_cannot_be_honoured_is_named_with_what_to_do(both, name):
    """Whether generate hands it on or keeps it to itself."""
    with torch.no_grad():
        options = REFUSED_ARGUMENTS[name](both.model)
    with pytest.raises(InputError, match=rf"^{name.strip()} is not supported by custom_generate: .*\. "):
        both.ours(PROMPT, **options)


def test_embeddings_alone_are_refused(both):
    """``generate`` makes a prompt of no tokens of them."""
    embeddings = both.model.get_input_embeddings()(torch.tensor([PROMPT])).detach()
    with pytest.raises(InputError, match="inputs_embeds is not supported"):
        both.model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(1, 3, dtype=torch.int64),
            max_new_tokens=3,
            custom_generate=both.decoder.custom_generate,
        )


def test_several_rows_are_refused(both):
    """By the number that was found."""
    ids = torch.tensor([[1, 2], [3, 4]])
    with pytest.raises(InputError, match="input_ids has 2 rows"):
        both.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=3,
            custom_generate=both.decoder.custom_generate,
        )


def test_what_generate_adds_by_itself_is_no_fault(both):
    """Positions that count from 0, a mask of ones, no mask, an assistant that is None."""
    plain = both.plain(PROMPT)
    for options in (
        {"position_ids": torch.arange(3)[None]},
        {"attention_mask": None},
        {"assistant_model": None, "streamer": None, "synced_gpus": False},
        {"use_cache": False},
        {"logits_to_keep": 1},
    ):
        assert both.ours(PROMPT, plain, **options).tolist() == plain.tolist()


def test_a_text_beyond_the_context_is_refused_before_it_is_begun(both):
    """Plain generate goes on with positions that the model has not learnt."""
    with pytest.raises(InputError, match=r"3 tokens and max_new_tokens 600 make 603, but the context is 512"):
        both.ours(PROMPT, max_new_tokens=600)
    with pytest.raises(InputError, match="the prompt has 512 tokens, but the context is 512"):
        both.ours([5] * 512, max_new_tokens=1)


def test_another_model_is_refused(both):
    """The decoder's target is the one that must be asked."""
    with pytest.raises(InputError, match="own target model"):
        tiny_model().generate(torch.tensor([[1]]), custom_generate=both.decoder.custom_generate, max_new_tokens=2)


@pytest.mark.parametrize("part", ["", "model.layers.1.mlp"])
def test_a_model_in_training_mode_is_refused(both, part):
    """As a whole, or in a part of it: its dropout would make the same forward twice another one."""
    both.model.get_submodule(part).train()
    try:
        with pytest.raises(InputError, match=r"training mode.*model\.eval\(\)"):
            both.ours(PROMPT)
    finally:
        both.model.eval()


def test_stop_strings_without_a_tokenizer_are_refused(both):
    """With both ways out."""
    with pytest.raises(InputError, match=r"stop_strings='x' need a tokenizer.*StopStringCriteria"):
        both.ours(PROMPT, stop_strings="x")


def test_the_generate_of_another_model_on_the_way_is_not_mistaken_for_the_models_own(both, model):
    """Whose callable decodes with this model has a streamer of its own affairs."""
    streamer = Streamer()

    def entry(other, ids, **arguments):
        return both.decoder.custom_generate(both.model, ids, generation_config=arguments["generation_config"])

    found = model.generate(torch.tensor([PROMPT]), max_new_tokens=2, custom_generate=entry, streamer=streamer)

    assert found.tolist() == both.plain(PROMPT, max_new_tokens=2).tolist()
    assert streamer.ended == 0
