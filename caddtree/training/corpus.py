"""The training mixture of the target, and the held-out prompts of the three domains."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from caddtree.training import instructions, reasoning, stdlib_code
from caddtree.training.tokenizer import END_OF_TEXT, chat_text

DOMAINS = ("reasoning", "instructions", "code")
_CODE_PIECE_CHARACTERS = 6_000


@attrs.frozen
class Mixture:
    """Shares of the domains in training tokens."""

    reasoning: float = 0.45
    instructions: float = 0.25
    code: float = 0.30


def reasoning_text(rng: random.Random) -> str:
    """Return one worked problem of a training template as a chat."""
    problem = reasoning.problem(reasoning.training_template(rng), rng)
    return chat_text(problem.question, problem.solution)


def instructions_text(rng: random.Random) -> str:
    """Return one instruction and its answer as a chat."""
    task = instructions.task(rng.choice(sorted(instructions.KINDS)), rng)
    return chat_text(task.instruction, task.answer)


def code_pieces(*, held_out: bool = False) -> list[str]:
    """Return the standard library in pieces that end at a line end, each closed by the end-of-text token."""
    pieces = []
    for source in stdlib_code.module_sources(held_out=held_out).values():
        while source:
            cut = source.rfind("\n", 0, _CODE_PIECE_CHARACTERS) + 1 or len(source)
            piece, source = source[:cut], source[cut:]
            pieces.append(piece if source else piece + END_OF_TEXT)
    return pieces


def tokenizer_sample(seed: int, *, num_chats: int = 3000, num_pieces: int = 600) -> Iterator[str]:
    """Yield texts of all domains to train the tokenizer on."""
    rng = random.Random(seed)
    for _ in range(num_chats):
        yield reasoning_text(rng)
        yield instructions_text(rng)
    pieces = code_pieces()
    rng.shuffle(pieces)
    yield from pieces[:num_pieces]


def pack(tokenizer: Any, mixture: Mixture, *, num_tokens: int, seed: int) -> NDArray[np.uint16]:
    """Return a shuffled stream of documents, domain by domain in the shares of ``mixture``.

    Code repeats when it runs out; the generated domains never do.

    Returns:
        ``(num_tokens,)`` uint16 token ids.
    """
    rng = random.Random(seed)
    documents = [
        *_generated(tokenizer, reasoning_text, int(num_tokens * mixture.reasoning), rng),
        *_generated(tokenizer, instructions_text, int(num_tokens * mixture.instructions), rng),
        *_code(tokenizer, int(num_tokens * mixture.code), rng),
    ]
    rng.shuffle(documents)
    stream = np.concatenate(documents)
    return np.resize(stream, num_tokens)


def _encode(tokenizer: Any, texts: list[str]) -> list[NDArray[np.uint16]]:
    encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return [np.array(entry.ids, dtype=np.uint16) for entry in encoded]


def _generated(tokenizer: Any, make: Any, num_tokens: int, rng: random.Random) -> list[NDArray[np.uint16]]:
    documents: list[NDArray[np.uint16]] = []
    missing = num_tokens
    while missing > 0:
        batch = _encode(tokenizer, [make(rng) for _ in range(2000)])
        documents += batch
        missing -= sum(map(len, batch))
    return documents


def _code(tokenizer: Any, num_tokens: int, rng: random.Random) -> list[NDArray[np.uint16]]:
    pieces = _encode(tokenizer, code_pieces())
    documents: list[NDArray[np.uint16]] = []
    missing = num_tokens
    while missing > 0:
        rng.shuffle(pieces)
        for piece in pieces:
            documents.append(piece)
            missing -= len(piece)
            if missing <= 0:
                break
    return documents
