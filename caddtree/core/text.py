"""Prompts to token ids, and token ids to streamed text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caddtree.core.errors import InputError

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Plain text, token ids, or a chat as a list of messages with ``role`` and ``content``."""


def encode_prompt(prompt: Any, tokenizer: Any, vocabulary_size: int) -> list[int]:
    """Return the token ids of a prompt.

    Args:
        prompt: Text, token ids (list, tuple or 1-D tensor), or chat messages.
        tokenizer: A Hugging Face tokenizer; None if prompts are token ids only.
        vocabulary_size: Rows of the target's embedding.

    Raises:
        InputError: For an empty prompt, one that cannot be tokenised, or a token id out of range.
    """
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    if isinstance(prompt, str):
        _check_unicode(prompt)
        tokens = list(_need_tokenizer(tokenizer, "a text prompt").encode(prompt))
    elif isinstance(prompt, list | tuple) and prompt and isinstance(prompt[0], Mapping):
        tokens = _encode_chat(prompt, _need_tokenizer(tokenizer, "a chat"))
    elif isinstance(prompt, list | tuple | range):
        tokens = _checked_ids(prompt, vocabulary_size)
    else:
        raise InputError(f"a prompt is text, token ids or chat messages, found {type(prompt).__name__}")
    if not tokens:
        raise InputError(f"the prompt {prompt!r} has no tokens; give at least one")
    return tokens


def _need_tokenizer(tokenizer: Any, what: str) -> Any:
    if tokenizer is None:
        raise InputError(f"{what} needs a tokenizer, but this decoder has none. Pass token ids, or tokenizer=...")
    return tokenizer


def _check_unicode(text: str) -> None:
    """Refuse text that came from bytes that are no UTF-8: a terminal leaves them as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the prompt is no valid text: character {error.start} is {text[error.start]!r}") from error


def _encode_chat(messages: Sequence[Mapping[str, str]], tokenizer: Any) -> list[int]:
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise InputError(f"message {index} needs the keys 'role' and 'content', found {message!r}")
        if not isinstance(message["content"], str):
            raise InputError(f"message {index}: content must be text, found {message['content']!r}")
        _check_unicode(message["content"])
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("the tokenizer has no chat template; give the prompt as text")
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return list(tokenizer.encode(text, add_special_tokens=False))


def _checked_ids(prompt: Sequence[Any], vocabulary_size: int) -> list[int]:
    for index, token in enumerate(prompt):
        if isinstance(token, bool) or not isinstance(token, int):
            raise InputError(f"token ids must be integers, found {token!r} at index {index}")
        if not 0 <= token < vocabulary_size:
            raise InputError(f"token ids must lie in 0..{vocabulary_size - 1}, found {token} at index {index}")
    return list(prompt)


class TextStream:
    """Turns token ids into text piece by piece; the pieces joined are the text of all tokens.

    Bytes of an unfinished character, and the beginning of what may become a stop string, are held back.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        # tokens before `_done` are in the text already; decoding starts at `_start`, a little earlier, because
        # some tokenizers write a token differently at the beginning of a text
        self._start = 0
        self._done = 0
        self._held = ""
        self.found_stop = False

    def push(self, tokens: Sequence[int]) -> tuple[int, str]:
        """Take tokens; return how many of them were used before a stop string ended the text, and new text."""
        if self._tokenizer is None:
            return len(tokens), ""
        if not self._stop:
            self._tokens.extend(tokens)
            return len(tokens), self._decode_new()
        pieces = []
        for count, token in enumerate(tokens, start=1):
            self._tokens.append(token)
            pieces.append(self._release(self._decode_new()))
            if self.found_stop:
                return count, "".join(pieces)
        return len(tokens), "".join(pieces)

    def finish(self) -> str:
        """Return what was held back, at the end of the text."""
        if self._tokenizer is None or self.found_stop:
            return ""
        rest = self._release(self._decode_new(final=True)) if self._stop else self._decode_new(final=True)
        held, self._held = self._held, ""
        return rest + held

    def _decode_new(self, *, final: bool = False) -> str:
        before = self._decode(self._tokens[self._start : self._done])
        after = self._decode(self._tokens[self._start :])
        if not final and after.endswith("\ufffd"):
            return ""
        self._start, self._done = self._done, len(self._tokens)
        return after[len(before) :]

    def _decode(self, tokens: Sequence[int]) -> str:
        if not tokens:
            return ""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _release(self, new: str) -> str:
        text = self._held + new
        ends = [position for stop in self._stop if (position := text.find(stop)) >= 0]
        if ends:
            self.found_stop, self._held = True, ""
            return text[: min(ends)]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that begins ``stop``."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
