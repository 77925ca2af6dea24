"""Transformers' entry for custom decoding: the tokens of ``model.generate``, greedy and sampled."""

from __future__ import annotations

import functools

import pytest
import torch
from transformers import StoppingCriteriaList, StopStringCriteria

from caddtree.core.errors import InputError
from caddtree.core.pipeline import Decoder
from caddtree.drafters.ngram import Ngram
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.tiny_models import prompts, tiny_model
from tests.tiny_pair import SIZE, tiny_tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny_model(vocab_size=SIZE, seed=6)


@pytest.fixture(scope="module")
def decoder(model):
    return Decoder(target=model, drafter=Ngram(), tree_builder=DDTree(node_budget=8), verifier=SdpaVerifier())


def both(model, decoder, prompt, **options):
    """Return what plain ``generate`` and ours say, each after the same torch seed."""
    ids = torch.tensor([prompt])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 24, "pad_token_id": 0, **options}
    torch.manual_seed(3)
    plain = model.generate(ids, **options)
    torch.manual_seed(3)
    return plain, model.generate(ids, custom_generate=decoder.custom_generate, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"do_sample": False, "repetition_penalty": 1.3},
        {"do_sample": False, "no_repeat_ngram_size": 2},
        {"do_sample": False, "max_new_tokens": None, "max_length": 50},
        {"do_sample": True},
        {"do_sample": True, "temperature": 0.7, "top_k": 5},
        {"do_sample": True, "top_p": 0.7, "top_k": 0},
    ],
)
def test_the_tokens_are_those_of_generate(model, decoder, options):
    """Seven prompts; repeated text makes drafts be accepted."""
    for prompt in [*prompts(6, vocabulary=SIZE, seed=2, low=2, high=30), [5, 6, 7] * 5]:
        plain, ours = both(model, decoder, prompt, **options)

        assert ours.tolist() == plain.tolist()


def test_end_tokens_end_the_text(model, decoder):
    """An eos inside the continuation, and one that must wait for ``min_new_tokens``."""
    prompt = [1, 2, 3, 4]
    plain, _ = both(model, decoder, prompt, do_sample=False)
    eos = int(plain[0, len(prompt) + 5])
    for options in ({}, {"min_new_tokens": 9}):
        plain, ours = both(model, decoder, prompt, do_sample=False, eos_token_id=eos, **options)

        assert ours.tolist() == plain.tolist()


def test_stopping_criteria_are_asked_after_every_token(model, decoder):
    """Stop strings through Transformers' own criteria."""
    tokenizer, prompt = tiny_tokenizer(), [70, 71, 72]
    plain, _ = both(model, decoder, prompt, do_sample=False)
    stop = tokenizer.decode(plain[0, len(prompt) + 6 : len(prompt) + 8])
    criteria = StoppingCriteriaList([StopStringCriteria(tokenizer, [stop])])
    plain, ours = both(model, decoder, prompt, do_sample=False, stopping_criteria=criteria)

    assert ours.tolist() == plain.tolist()


def test_a_dictionary_is_returned_on_request(model, decoder):
    """``return_dict_in_generate``."""
    plain, ours = both(model, decoder, [1, 2, 3], do_sample=False, return_dict_in_generate=True)

    assert ours.sequences.tolist() == plain.sequences.tolist()


def test_a_streamer_gets_every_token_and_the_end(model, decoder):
    """Passed with functools.partial, as Transformers does not hand it on."""

    class Streamer:
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.tolist()

        def end(self):
            self.ended = True

    streamer, ids = Streamer(), torch.tensor([[1, 2, 3]])
    ours = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=9,
        do_sample=False,
        custom_generate=functools.partial(decoder.custom_generate, streamer=streamer),
    )

    assert streamer.tokens == ours[0, 3:].tolist()
    assert streamer.ended


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([[1, 2], [3, 4]], {}, "one sequence at a time, found 2"),
        ([[1, 2]], {"attention_mask": torch.tensor([[0, 1]])}, "padded"),
        ([[1, 2]], {"num_beams": 2}, "one sequence at a time|num_beams"),
        ([[1, 2]], {"num_return_sequences": 2, "do_sample": True}, "one sequence at a time|num_return_sequences"),
        ([[1, 2]], {"output_scores": True}, "output_scores"),
    ],
)
def test_other_modes_are_refused(model, decoder, ids, options, message):
    """By name, before anything runs."""
    tokens = torch.tensor(ids)
    options = {"attention_mask": torch.ones_like(tokens), "max_new_tokens": 3, **options}
    with pytest.raises(InputError, match=message):
        model.generate(tokens, custom_generate=decoder.custom_generate, **options)


def test_another_model_is_refused(decoder):
    """The decoder's target is the one that must be asked."""
    with pytest.raises(InputError, match="own target model"):
        tiny_model(vocab_size=SIZE).generate(
            torch.tensor([[1]]), custom_generate=decoder.custom_generate, max_new_tokens=2
        )
