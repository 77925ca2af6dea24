"""Whole requests through a pipeline against plain decoding, token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from caddtree.core.decoder import Decoder
from caddtree.core.records import Generation, Round
from caddtree.testing.claims import must_work, require
from caddtree.testing.inputs import known_tokens, repeating_texts

Sampling = Mapping[str, Any]

SAMPLINGS: dict[str, Sampling] = {
    "greedy": {},
    "temperature 1": {"temperature": 1.0, "seed": 3},
    "top-k and top-p": {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 2**40},
}
"""How the texts of the checks are chosen; temperature above 0 is an equality too, because noise is keyed."""

_NUM_NEW = 18
_REQUESTS = ((0, _NUM_NEW), (1, _NUM_NEW), (1, 1), (2, 2), (1, 3), (2, _NUM_NEW), (0, _NUM_NEW))
"""Which text is the prompt and how many tokens are asked for: long after short, and the first one again."""


def check_text_is_the_targets(
    make_decoder: Callable[[Sequence[Sequence[int]]], Decoder],
    model: Any,
    sampling: Sampling,
    hint: str,
    up_to_its_end: Callable[[list[int]], list[int]] = list,
) -> list[Round]:
    """Refuse a pipeline whose text differs from plain decoding with the same seed; return all its rounds.

    Args:
        make_decoder: Given whole plain texts, returns the pipeline; all requests go through one.
        model: The target.
        sampling: As :func:`~caddtree.testing.inputs.plain_tokens` takes it.
        hint: How a strategy of this kind comes to change a text.
        up_to_its_end: An answer -> what is left of it where a rule ends texts.
    """
    prompts = repeating_texts(model.get_input_embeddings().weight.shape[0])[:3]
    truth = [known_tokens(model, prompt, _NUM_NEW, sampling) for prompt in prompts]
    with must_work("making a decoder"):
        decoder = make_decoder([[*prompt, *text] for prompt, text in zip(prompts, truth, strict=True)])
    rounds: list[Round] = []
    try:
        for number, (which, num_new) in enumerate(_REQUESTS):
            with must_work(f"request {number} ({len(prompts[which])} prompt tokens, {num_new} new)"):
                found = decoder.generate(prompts[which], max_new_tokens=num_new, **sampling)
            expected = up_to_its_end(truth[which][:num_new])
            check_same(found, expected, f"request {number}", in_words(sampling), hint)
            rounds += found.rounds
    finally:
        decoder.target.close()
    return rounds


def in_words(sampling: Sampling) -> str:
    """Return what a text is compared with."""
    return f"plain sampling with the same seed ({dict(sampling)})" if sampling else "plain greedy decoding"


def check_same(found: Generation, expected: Sequence[int], where: str, other: str, hint: str) -> None:
    """Refuse a text that differs from another.

    Args:
        found: A request's outcome.
        expected: Tokens of the other text.
        where: Which request.
        other: What the other text is.
        hint: How a strategy of this kind comes to change a text.
    """
    tokens = list(found.token_ids)
    if tokens == list(expected):
        return
    pairs = zip(tokens, expected, strict=False)
    index = next((place for place, (mine, right) in enumerate(pairs) if mine != right), None)
    if index is None:
        what = f"{len(tokens)} tokens where {len(expected)} are expected"
    else:
        what = f"token {tokens[index]} where the target says {expected[index]}, {_round_of(found, index)}"
    require(False, f"{where} differs from {other}: {what}. {hint}")


def _round_of(found: Generation, index: int) -> str:
    """Return in which round the token of this index was gained."""
    end = 1  # the token that prefill gives
    for round_ in found.rounds:
        end += len(round_.tokens)
        if index < end:
            return f"in round {round_.index} with {round_.num_draft_nodes} draft nodes and accepted path {round_.path}"
    return "in prefill"
