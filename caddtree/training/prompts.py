"""The held-out prompts of the three domains, as they ship beside the demo pair, and prompts to train the drafter on."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from caddtree.training import instructions, reasoning, stdlib_code
from caddtree.training.corpus import DOMAINS
from caddtree.training.responses import Prompt
from caddtree.training.tokenizer import TURN_END, TURN_START

SHIPPED_PER_TEMPLATE = 6
"""Word problems of every held-out template in the shipped prompt file."""
_HELD_OUT_SEED = 20_001
_CODE_START = re.compile(r"^(?:    )?(?:def|class) ", re.MULTILINE)
_SHORTEST_CODE, _LONGEST_CODE = 40, 120


@attrs.frozen
class PromptRecord:
    """One line of a prompt file."""

    id: str
    domain: str
    turns: tuple[str, ...] | None
    """What the user says, for a chat."""
    prompt: str | None
    """Raw text to go on from, for code."""
    answer: str | None

    def to_json(self) -> str:
        """Return the line, absent fields left out."""
        fields = {"id": self.id, "domain": self.domain, "turns": self.turns, "prompt": self.prompt}
        known = {key: value for key, value in fields.items() if value is not None}
        return json.dumps({**known, "answer": self.answer}, ensure_ascii=False)

    def tokens(self, tokenizer: Any) -> tuple[int, ...]:
        """Return the token ids that the target answers."""
        text = self.prompt if self.turns is None else chat_prompt(self.turns[0])
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def chat_prompt(instruction: str) -> str:
    """Return the text of one user turn and the start of the assistant's, as the chat template writes it."""
    return f"{TURN_START}user\n{instruction}{TURN_END}\n{TURN_START}assistant\n"


def reasoning_records(per_template: int, *, seed: int = _HELD_OUT_SEED) -> list[PromptRecord]:
    """Return problems of the held-out templates, the same ones for the same seed."""
    rng = random.Random(seed)
    problems = [
        reasoning.problem(template, rng) for _ in range(per_template) for template in reasoning.HELD_OUT_TEMPLATES
    ]
    return [
        PromptRecord(f"reasoning-{index:03d}", "reasoning", (problem.question,), None, str(problem.answer))
        for index, problem in enumerate(problems)
    ]


def instruction_records(per_kind: int, *, seed: int = _HELD_OUT_SEED) -> list[PromptRecord]:
    """Return tasks of every kind from a seed that training does not use."""
    rng = random.Random(seed)
    tasks = [instructions.task(kind, rng) for _ in range(per_kind) for kind in sorted(instructions.KINDS)]
    return [
        PromptRecord(f"instructions-{index:03d}", "instructions", (task.instruction,), None, task.answer)
        for index, task in enumerate(tasks)
    ]


def code_records(tokenizer: Any, count: int, *, seed: int = _HELD_OUT_SEED) -> list[PromptRecord]:
    """Return beginnings of functions and classes of the held-out modules."""
    rng = random.Random(seed)
    sources = stdlib_code.module_sources(held_out=True)
    records: list[PromptRecord] = []
    while len(records) < count:
        module = sorted(sources)[len(records) % len(sources)]
        text = code_beginning(sources[module], tokenizer, rng)
        if text is not None:
            records.append(PromptRecord(f"code-{len(records):03d}-{module}", "code", None, text, None))
        else:
            del sources[module]
    return records


def code_beginning(source: str, tokenizer: Any, rng: random.Random) -> str | None:
    """Return whole lines from a random ``def`` or ``class`` on, 40 to 120 tokens; None if there is none."""
    starts = [match.start() for match in _CODE_START.finditer(source)]
    rng.shuffle(starts)
    for start in starts:
        lines, text, wanted = source[start : start + 3000].splitlines(keepends=True), "", rng.randint(48, 100)
        for line in lines:
            text += line
            length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
            if length >= wanted:
                break
        if _SHORTEST_CODE <= length <= _LONGEST_CODE:
            return text
    return None


def write_prompts(folder: Path, tokenizer: Any) -> None:
    """Write ``reasoning.jsonl``, ``instructions.jsonl``, ``code.jsonl`` and the short mixed ``demo.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    records = {
        "reasoning": reasoning_records(SHIPPED_PER_TEMPLATE),
        "instructions": instruction_records(2),
        "code": code_records(tokenizer, 42),
    }
    for domain in DOMAINS:
        _write(folder / f"{domain}.jsonl", records[domain])
    spread = [record for domain in DOMAINS for record in records[domain][:: len(records[domain]) // 3 - 1][:3]]
    _write(folder / "demo.jsonl", spread)


def training_prompts(domain: str, tokenizer: Any, count: int, *, seed: int) -> list[Prompt]:
    """Return prompts of one domain from training templates, kinds and modules."""
    rng = random.Random(seed)
    if domain == "code":
        return _training_code(tokenizer, count, rng)
    texts = []
    for _ in range(count):
        if domain == "reasoning":
            asked = reasoning.problem(reasoning.training_template(rng), rng).question
        else:
            asked = instructions.task(rng.choice(sorted(instructions.KINDS)), rng).instruction
        texts.append(chat_prompt(asked))
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [Prompt(domain, tuple(tokens)) for tokens in encoded]


def _training_code(tokenizer: Any, count: int, rng: random.Random) -> list[Prompt]:
    sources = [text for text in stdlib_code.module_sources(held_out=False).values() if len(text) > 1500]
    pieces = []
    for _ in range(count):
        source = rng.choice(sources)
        start = source.find("\n", rng.randrange(len(source) - 1000)) + 1
        pieces.append(source[start : start + 1000])
    encoded = tokenizer(pieces, add_special_tokens=False)["input_ids"]
    # lengths in steps of 8: prompts of one length are answered in one batch
    return [Prompt("code", tuple(tokens[: rng.randrange(48, 129, 8)])) for tokens in encoded]


def _write(path: Path, records: Sequence[PromptRecord]) -> None:
    path.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
