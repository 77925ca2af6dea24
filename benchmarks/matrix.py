"""Every drafter x tree builder x cost model x verifier on the demo pair: speed, tau and identity of each cell.

python benchmarks/matrix.py [--prompts 3] [--max-new-tokens 48]
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import caddtree
from caddtree.core.errors import CaddtreeError
from caddtree.experiments.compare import compare
from caddtree.experiments.prompts import read_prompts
from caddtree.loading import load_model
from caddtree.plugins.registry import default_registry

PROMPTS = Path(caddtree.__file__).parent / "models" / "demo" / "prompts" / "demo.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    options = parser.parse_args()
    records = read_prompts(PROMPTS)[:: max(1, 9 // options.prompts)][: options.prompts]
    recipe = caddtree.load_recipe("demo")
    model, tokenizer = load_model(recipe.target)
    registry = default_registry()
    kinds = ("drafter", "tree_builder", "cost_model", "verifier")
    decoders = {"plain": caddtree.load("demo-plain", model=model, tokenizer=tokenizer)}
    refused = {}
    for names in itertools.product(*(registry.names(kind) for kind in kinds)):
        cell = " | ".join(names)
        sections = {kind: {"name": name} for kind, name in zip(kinds, names, strict=True)}
        try:
            decoders[cell] = caddtree.load("demo", sections, model=model, tokenizer=tokenizer)
        except CaddtreeError as error:
            refused[cell] = str(error)
    found = compare(decoders, records, max_new_tokens=options.max_new_tokens)
    print(f"{'drafter | tree builder | cost model | verifier':48s}{'tokens/s':>10s}{'tau':>7s}{'nodes':>8s}  identical")
    for variant in found.variants:
        print(
            f"{variant.recipe:48s}{variant.tokens_per_second:10.1f}{variant.mean_acceptance_length:7.2f}"
            f"{variant.mean_node_budget:8.1f}  {'yes' if variant.identical else 'no'}"
        )
    for cell, reason in refused.items():
        print(f"{cell:48s}refused: {reason}")


if __name__ == "__main__":
    main()
