"""Token ids to whoever shows them: streamers as Transformers has them, ``TextStreamer`` and its kin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor


class Streamer(Protocol):
    """Takes the tokens of one sequence as they come."""

    def put(self, value: Tensor) -> None:
        """Take the prompt, ``(1, length)``, and after it token by token, ``(1,)``; int64, on the host."""

    def end(self) -> None:
        """Learn that no more tokens come."""


PutTokens = Callable[[Sequence[int]], None]
"""Hands over the token ids that prefill or a round added."""


@contextmanager
def streaming(streamer: Streamer | None) -> Iterator[PutTokens]:
    """Give what hands tokens to the streamer, if there is one; at the end, or after an error, it is told so.

    Whoever iterates over a streamer in another thread waits for its end, whatever happened to the decoding.
    """

    def put(token_ids: Sequence[int]) -> None:
        if streamer is not None:
            # one by one, as plain decoding does: some streamers decide at every token what they show
            for token in token_ids:
                streamer.put(torch.tensor([token]))

    try:
        yield put
    finally:
        if streamer is not None:
            streamer.end()
