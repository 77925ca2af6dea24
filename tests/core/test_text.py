"""Prompts to tokens and tokens to streamed text. FT-01, FT-05."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caddtree.core.errors import InputError
from caddtree.core.text import TextStream, encode_prompt
from tests.tiny_pair import SIZE, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def pieces(tokens, chunk, stop=()):
    """Push in chunks; return the pieces and how many tokens were used."""
    stream, out, used = TextStream(TOKENIZER, stop), [], 0
    for start in range(0, len(tokens), chunk):
        count, text = stream.push(tokens[start : start + chunk])
        out.append(text)
        used += count
        if stream.found_stop:
            return out, used, True
    return [*out, stream.finish()], used, False


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.integers(1, 5))
def test_the_pieces_joined_are_the_text(text, chunk):
    """Characters split over several tokens are held back until they are whole."""
    tokens = TOKENIZER.encode(text)

    assert "".join(pieces(tokens, chunk)[0]) == TOKENIZER.decode(tokens)


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="abcé ", max_size=25),
    st.lists(st.text(alphabet="abcé ", min_size=1, max_size=3), min_size=1, max_size=3),
    st.integers(1, 5),
)
def test_text_ends_before_the_first_stop_string(text, stop, chunk):
    """Against ``text.find``; nothing of a stop string is ever shown; the used tokens end with the one that made it."""
    tokens = TOKENIZER.encode(text)
    ends = [text.find(entry) for entry in stop if entry in text]
    out, used, found = pieces(tokens, chunk, stop)

    if not ends:
        assert "".join(out) == text
        assert not found
        return
    assert found
    shown = "".join(out)
    # the stop that is complete first wins; where several are, the one that begins first
    done = TOKENIZER.decode(tokens[:used])
    assert shown == done[: min(done.find(entry) for entry in stop if entry in done)]
    assert not any(entry in TOKENIZER.decode(tokens[: used - 1]) for entry in stop)


def test_a_stop_string_at_the_very_start_leaves_nothing():
    """The first token ends the text."""
    out, used, found = pieces(TOKENIZER.encode("abc"), 3, ["a"])

    assert (out, used, found) == ([""], 1, True)


def test_chats_need_a_template_and_whole_messages():
    """Each fault is named."""
    plain = tiny_tokenizer()
    plain.chat_template = None
    with pytest.raises(InputError, match="chat template"):
        encode_prompt([{"role": "user", "content": "x"}], plain, SIZE)
    with pytest.raises(InputError, match="message 1 needs the keys"):
        encode_prompt([{"role": "user", "content": "x"}, {"role": "user"}], TOKENIZER, SIZE)
    with pytest.raises(InputError, match="content must be text"):
        encode_prompt([{"role": "user", "content": 3}], TOKENIZER, SIZE)
    with pytest.raises(InputError, match="needs a tokenizer"):
        encode_prompt("text", None, SIZE)


def test_a_chat_is_written_by_its_template():
    """Role, content, nothing twice."""
    tokens = encode_prompt([{"role": "user", "content": "the cat"}], TOKENIZER, SIZE)

    assert TOKENIZER.decode(tokens) == "user: the cat\n"
