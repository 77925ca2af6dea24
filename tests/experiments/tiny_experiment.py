"""A tiny experiment on the tiny random pair: three variants, two data sets, two settings."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tiny_pair import write_pair

TEXTS = ("the cat sat", "on the mat and the dog", "the dog sat on", "cat and dog", "mat", "sat sat sat")


def write_experiment(folder: Path, *, prompts: int = 3, extra: str = "", builders: str = "") -> Path:
    """Write pair, prompts and ``small.yaml`` into ``folder``; return the experiment's path."""
    write_pair(folder)
    for name in ("first", "second"):
        lines = [json.dumps({"id": f"{name}-{index}", "prompt": text}) for index, text in enumerate(TEXTS)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / "small.yaml"
    # the ratio of a round: the choice does not depend on what a decoder learned from earlier cells
    builders = builders or "[chain, {name: ddtree, node_budget: 4}, {name: caddtree, objective: ratio}]"
    path.write_text(
        "description: Three builders on a tiny pair\n"
        "base: ./recipe.yaml\n"
        f"axes:\n  tree_builder: {builders}\n  temperature: [0, 1]\n"
        "datasets: [./first.jsonl, ./second.jsonl]\n"
        f"prompts: {prompts}\n"
        "warm_up_tokens: 2\n"
        "fixed: {generation: {max_new_tokens: 12}}\n" + extra
    )
    return path
