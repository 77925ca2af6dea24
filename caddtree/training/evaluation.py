"""Measures a target on what it was not trained on: losses, exact answers, looping output."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from caddtree.training import reasoning
from caddtree.training.corpus import DOMAINS, code_pieces, instructions_text
from caddtree.training.prompts import PromptRecord, code_records, instruction_records, reasoning_records
from caddtree.training.responses import Prompt, Response, ResponseOptions, respond
from caddtree.training.tokenizer import TURN_END, chat_text

_EVALUATION_SEED = 30_001


def evaluate_target(model: Any, tokenizer: Any, *, per_template: int = 30, per_kind: int = 5) -> dict[str, Any]:
    """Return held-out losses, exact-answer shares and looping per domain, ready for JSON."""
    losses = {domain: held_out_loss(model, tokenizer, domain) for domain in DOMAINS}
    records = {
        "reasoning": reasoning_records(per_template, seed=_EVALUATION_SEED),
        "instructions": instruction_records(per_kind, seed=_EVALUATION_SEED),
        "code": code_records(tokenizer, 40, seed=_EVALUATION_SEED),
    }
    result: dict[str, Any] = {"held_out_loss": losses, "exact_answers": {}, "looping": {}}
    for domain in DOMAINS:
        texts = answer_texts(model, tokenizer, [record.tokens(tokenizer) for record in records[domain]], domain)
        result["looping"][domain] = looping(texts)
        if domain == "code":
            continue
        right = right_answers(domain, texts, records[domain])
        result["exact_answers"][domain] = {"right": sum(right), "asked": len(right), "share": sum(right) / len(right)}
        if domain == "reasoning":
            names = reasoning.HELD_OUT_TEMPLATES
            result["exact_answers"]["by_template"] = {
                name: sum(right[index :: len(names)]) / per_template for index, name in enumerate(names)
            }
    return result


def answer_texts(
    model: Any, tokenizer: Any, prompts: Sequence[tuple[int, ...]], domain: str, *, max_new_tokens: int = 220
) -> list[str]:
    """Return the greedy answers as text, without the end of the turn."""
    answers = greedy_responses(model, tokenizer, [Prompt(domain, prompt) for prompt in prompts], max_new_tokens)
    texts = [tokenizer.decode(answer.tokens, skip_special_tokens=False) for answer in answers]
    return [text.partition(TURN_END)[0] for text in texts]


def greedy_responses(model: Any, tokenizer: Any, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Response]:
    """Return the greedy answers in the order of the prompts."""
    options = ResponseOptions(max_new_tokens=max_new_tokens, stop_tokens=stop_tokens(model))
    found = dict(respond(model, prompts, options))
    return [found[index] for index in range(len(prompts))]


def stop_tokens(model: Any) -> tuple[int, ...]:
    """Return the token ids that end a response."""
    ends = model.config.eos_token_id
    return tuple(ends) if isinstance(ends, list) else (int(ends),)


@torch.no_grad()
def held_out_loss(model: Any, tokenizer: Any, domain: str, *, num_sequences: int = 40) -> float:
    """Return the mean cross-entropy in nats per token over packed sequences of 512 held-out tokens."""
    rng = random.Random(_EVALUATION_SEED)
    stream: list[int] = []
    pieces = code_pieces(held_out=True) if domain == "code" else []
    while len(stream) < num_sequences * 512:
        stream += tokenizer(_held_out_text(domain, rng, pieces), add_special_tokens=False)["input_ids"]
    tokens = torch.tensor(stream[: num_sequences * 512]).view(num_sequences, 512)
    total = 0.0
    for batch in torch.split(tokens, 8):
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        # host sync: the CPU evaluates
        total += float(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
    return total / (num_sequences * 511)


def looping(texts: Sequence[str]) -> dict[str, float]:
    """Return how repetitive texts are: compressed share of their bytes and share of distinct word 4-grams."""
    ratios = [len(zlib.compress(text.encode(), 9)) / len(text.encode()) for text in texts if text]
    distinct = [distinct_4grams(text) for text in texts if len(text.split()) >= 4]
    return {
        "compressed_share": sum(ratios) / max(1, len(ratios)),
        "distinct_4grams": sum(distinct) / max(1, len(distinct)),
        "share_under_half_distinct": sum(share < 0.5 for share in distinct) / max(1, len(distinct)),
    }


def distinct_4grams(text: str) -> float:
    """Return the share of distinct ones among a text's word 4-grams; 1 for a text too short to have any."""
    words = text.split()
    grams = [tuple(words[index : index + 4]) for index in range(len(words) - 3)]
    return len(set(grams)) / len(grams) if grams else 1.0


def right_answers(domain: str, texts: Sequence[str], records: Sequence[PromptRecord]) -> list[bool]:
    """Tell for every answer whether it is exact: the stated number of a word problem, else the whole text."""
    return [_is_right(domain, text, str(record.answer)) for text, record in zip(texts, records, strict=True)]


def _is_right(domain: str, text: str, answer: str) -> bool:
    if domain == "reasoning":
        return reasoning.stated_answer(text) == int(answer)
    return text.strip() == answer.strip()


def _held_out_text(domain: str, rng: random.Random, pieces: list[str]) -> str:
    if domain == "reasoning":
        problem = reasoning.problem(rng.choice(reasoning.HELD_OUT_TEMPLATES), rng)
        return chat_text(problem.question, problem.solution)
    if domain == "instructions":
        return instructions_text(rng)
    return rng.choice(pieces)
