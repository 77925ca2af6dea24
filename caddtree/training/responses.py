"""Generates a target's own answers to many prompts at once: what its drafter learns from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from caddtree.core.kv_cache import TreeCache

# below this share of unfinished rows the batch is made smaller: cheaper than carrying finished ones
_SHRINK_SHARE = 0.7


@attrs.frozen
class Prompt:
    """Token ids to answer, with the domain they belong to."""

    domain: str
    tokens: tuple[int, ...]


@attrs.frozen
class Response:
    """A prompt and what the target said, its end token included."""

    domain: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


@attrs.frozen
class ResponseOptions:
    """How responses are generated."""

    max_new_tokens: int = 200
    temperature: float = 0.0
    batch_size: int = 128
    stop_tokens: tuple[int, ...] = ()
    seed: int = 0


def equal_length_batches(prompts: Sequence[Prompt], batch_size: int) -> Iterator[list[int]]:
    """Yield indices of prompts in batches of one length each: no padding, hence no mask.

    Args:
        prompts: Any number of prompts.
        batch_size: Prompts per batch at most.
    """
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt.tokens), []).append(index)
    for length in sorted(by_length):
        indices = by_length[length]
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]


def respond(model: Any, prompts: Sequence[Prompt], options: ResponseOptions) -> Iterator[tuple[int, Response]]:
    """Yield each prompt's index and the target's answer to it, batch by batch.

    Args:
        model: The target, in eval mode.
        prompts: What to answer.
        options: Length, temperature and stop tokens.
    """
    for number, indices in enumerate(equal_length_batches(prompts, options.batch_size)):
        tokens = torch.tensor([prompts[index].tokens for index in indices])
        generator = torch.Generator().manual_seed(options.seed + number)
        answers = generate_batch(model, tokens, options, generator)
        for index, answer in zip(indices, answers, strict=True):
            prompt = prompts[index]
            yield index, Response(prompt.domain, prompt.tokens, tuple(answer))


@torch.no_grad()
def generate_batch(
    model: Any, prompts: Tensor, options: ResponseOptions, generator: torch.Generator | None = None
) -> list[list[int]]:
    """Return the continuation of every row, its stop token included.

    Args:
        model: The target, in eval mode.
        prompts: ``(batch, length)`` int64.
        options: Length, temperature and stop tokens.
        generator: Source of the draws when the temperature is above 0.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    cache = TreeCache(len(model.get_decoder().layers), prompts.shape[1] + options.max_new_tokens)
    tokens = prompts
    for _ in range(options.max_new_tokens):
        hidden = model.get_decoder()(tokens, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        cache.length += tokens.shape[1]
        chosen = _choose(model.get_output_embeddings()(hidden), options.temperature, generator)
        # host sync: stop tokens are looked for on the host
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if not _finished(answers[row], options.stop_tokens):
                answers[row].append(token)
        open_rows = [i for i, row in enumerate(rows) if not _finished(answers[row], options.stop_tokens)]
        if not open_rows:
            break
        tokens = chosen[:, None]
        if len(open_rows) < _SHRINK_SHARE * len(rows):
            _keep_rows(cache, open_rows)
            tokens = tokens[open_rows]
            rows = [rows[i] for i in open_rows]
    return answers


def sample_prompts(make: Any, count: int, seed: int) -> list[Prompt]:
    """Return ``count`` prompts made by ``make(rng)``, the same ones for the same seed."""
    rng = random.Random(seed)
    return [make(rng) for _ in range(count)]


def _choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    weights = torch.softmax(logits.float() / temperature, -1)
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def _finished(answer: list[int], stop_tokens: Sequence[int]) -> bool:
    return bool(answer) and answer[-1] in stop_tokens


def _keep_rows(cache: TreeCache, rows: list[int]) -> None:
    for layer in cache.layers:
        layer.keys = layer.keys[rows]
        layer.values = layer.values[rows]
