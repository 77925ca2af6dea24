"""What to decode where the user gives no prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import caddtree
from caddtree.core.decoder import Decoder
from caddtree.experiments.prompts import read_prompts

_DEMO = Path(caddtree.__file__).parent / "models" / "demo"
_TASKS = (
    "Tom has 12 apples. He buys 9 more and gives 4 to Ann. How many apples does Tom have now? Think step by step.",
    "List the seven days of the week and the twelve months of the year in order.",
    "Write a Python function that returns the n-th Fibonacci number, with a docstring and an example.",
    "Explain in a few sentences why the sky is blue.",
    "Translate into French: The train to the coast leaves at nine in the morning from the second platform.",
    "Write a short letter to a friend about a walk in the mountains.",
    "What is the difference between a list and a tuple in Python? Give one example of each.",
    "Name five European capitals and one thing that each of them is known for.",
)
"""Of several kinds, because acceptance differs between them by a factor of two and more."""


def default_prompts(decoder: Decoder) -> list[Any]:
    """Return the shipped prompts of the demo target; for another, a few tasks, as a chat where it knows chats."""
    if Path(decoder.target.name).resolve() == _DEMO / "target":
        return [record.prompt for record in read_prompts(_DEMO / "prompts" / "demo.jsonl")]
    if getattr(decoder.tokenizer, "chat_template", None) is None:
        return list(_TASKS)
    return [[{"role": "user", "content": task}] for task in _TASKS]
