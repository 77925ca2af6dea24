"""Streamers of Transformers' kind, fed by a session."""

from __future__ import annotations

import threading

import pytest
from transformers import TextIteratorStreamer, TextStreamer

from caddtree.core.errors import InputError
from tests.core.hf_calls import make_both
from tests.tiny_pair import SIZE, tiny_tokenizer

PROMPT = "the cat sat"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def both(tokenizer):
    return make_both(tokenizer, vocab_size=SIZE)


def generate(decoder, prompt, streamer, **options):
    return decoder.generate(prompt, streamer=streamer, **options)


@pytest.mark.parametrize("skip_prompt", [False, True])
def test_a_text_streamer_prints_prompt_and_answer(both, tokenizer, capsys, skip_prompt):
    """What it prints for Transformers' own generate."""
    ids = tokenizer.encode(PROMPT)
    plain = both.plain(ids, streamer=TextStreamer(tokenizer, skip_prompt=skip_prompt))
    there = capsys.readouterr().out
    both.drafter.continuations = {tuple(ids): plain[0, len(ids) :].tolist()}
    both.rounds.clear()
    generation = generate(both.decoder, PROMPT, TextStreamer(tokenizer, skip_prompt=skip_prompt), max_new_tokens=18)

    assert capsys.readouterr().out == there
    assert list(generation.token_ids) == plain[0, len(ids) :].tolist()
    assert any(round_.num_accepted > 1 for round_ in both.rounds)


def test_an_iterator_streamer_gives_the_text_to_another_thread(both, tokenizer):
    """All of it, and an end; after a refusal the end alone."""
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    call = {"max_new_tokens": 18}
    thread = threading.Thread(target=generate, args=(both.decoder, PROMPT, streamer), kwargs=call)
    thread.start()
    text = "".join(streamer)
    thread.join()

    assert text == both.decoder.generate(PROMPT, **call).text
    with pytest.raises(InputError, match="no tokens"):
        generate(both.decoder, "", streamer)
    assert "".join(streamer) == ""


def test_no_streamer_is_no_fault(both):
    """The same answer."""
    assert generate(both.decoder, PROMPT, None, max_new_tokens=5).token_ids == (
        both.decoder.generate(PROMPT, max_new_tokens=5).token_ids
    )
