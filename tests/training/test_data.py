"""The generated domains, the tokenizer and the packing: right answers, honest hold-outs, reproducible."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from caddtree.training import corpus, instructions, reasoning, stdlib_code
from caddtree.training.tokenizer import SPECIAL_TOKENS, chat_text, train_tokenizer

SUM = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


@pytest.fixture(scope="module")
def tokenizer():
    rng = random.Random(0)
    texts = [corpus.reasoning_text(rng) for _ in range(200)] + [corpus.instructions_text(rng) for _ in range(200)]
    return train_tokenizer(texts, vocabulary_size=600)


def test_held_out_templates_are_never_trained_on():
    """At least 40 templates, and the two sets share none."""
    assert len(reasoning.TRAINING_TEMPLATES) >= 40
    assert len(reasoning.HELD_OUT_TEMPLATES) >= 5
    assert not set(reasoning.TRAINING_TEMPLATES) & set(reasoning.HELD_OUT_TEMPLATES)


def test_every_sum_is_right_and_ends_in_the_answer():
    """Each step is recomputed from its text alone; the last result is the answer."""
    rng = random.Random(3)
    templates = (*reasoning.HELD_OUT_TEMPLATES, *reasoning.OTHER_TEMPLATES, *reasoning.TRAINING_TEMPLATES[::7])
    for template in templates:
        for _ in range(5):
            problem = reasoning.problem(template, rng)
            sums = SUM.findall(problem.solution)
            assert sums
            for a, sign, b, result in sums:
                assert OPERATIONS[sign](int(a), int(b)) == int(result)
            assert int(sums[-1][3]) == problem.answer == reasoning.stated_answer(problem.solution)
            assert problem.answer >= 0


def test_the_stated_answer_is_read_or_missing():
    """A response without the closing sentence has no answer."""
    assert reasoning.stated_answer("3 + 4 = 7. The answer is 7.") == 7
    assert reasoning.stated_answer("3 + 4 = 7.") is None
    assert reasoning.stated_answer("The answer is seven.") is None


@pytest.mark.parametrize("make", [corpus.reasoning_text, corpus.instructions_text])
def test_generators_repeat_with_their_seed(make):
    """Same seed, same text; another seed, another text."""
    first = [make(rng) for rng in [random.Random(5)] for _ in range(20)]

    assert first == [make(rng) for rng in [random.Random(5)] for _ in range(20)]
    assert first != [make(rng) for rng in [random.Random(6)] for _ in range(20)]


def test_instruction_answers_are_right():
    """Recomputed from the instruction for the kinds that can be."""
    rng = random.Random(1)
    for _ in range(50):
        task = instructions.task("sort_words", rng)
        words = task.instruction.split(": ")[1].rstrip(".").split(", ")
        assert re.findall(r"- (\w+)", task.answer) == sorted(words)
        task = instructions.task("sort_numbers", rng)
        numbers = list(map(int, re.findall(r"\d+", task.instruction)))
        assert list(map(int, re.findall(r"\d+", task.answer))) == sorted(numbers)
        task = instructions.task("upper", rng)
        assert task.answer.rstrip(".") == task.instruction.split(": ")[1].rstrip(".").upper()
    assert len(instructions.KINDS) >= 15


def test_held_out_modules_are_not_in_the_training_text():
    """By module name."""
    held_out, training = (set(stdlib_code.module_sources(held_out=flag)) for flag in (True, False))

    assert len(held_out) >= 10
    assert not held_out & training
    assert {name.split(".")[0] for name in held_out} <= set(stdlib_code.HELD_OUT_MODULES)


def test_the_tokenizer_keeps_text_and_splits_digits(tokenizer):
    """Byte-level: any text comes back; one token per digit; specials are single tokens."""
    for text in ("def f(x):\n    return x + 1234\n", "Zoë – 名前\t\n", "12 * 12 = 144"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
    assert len(tokenizer.encode("9876", add_special_tokens=False)) == 4
    for token in SPECIAL_TOKENS:
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1


def test_the_chat_template_writes_what_was_trained_on(tokenizer):
    """Prompt and answer joined are the training text."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )

    assert chat_text("Hi", "Yes.").startswith(prompt)


def test_packing_holds_the_shares_and_repeats(tokenizer, monkeypatch):
    """Token shares within a few percent; same seed, same stream."""
    monkeypatch.setattr(corpus, "code_pieces", lambda **_: ["def f():\n    return 1\n" * 20])
    first = corpus.pack(tokenizer, corpus.Mixture(0.5, 0.2, 0.3), num_tokens=60_000, seed=1)

    assert first.dtype == np.uint16
    assert len(first) == 60_000
    assert np.array_equal(first, corpus.pack(tokenizer, corpus.Mixture(0.5, 0.2, 0.3), num_tokens=60_000, seed=1))
