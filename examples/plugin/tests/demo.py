"""The demo target, which comes with caddtree, and what recipes make of it."""

from functools import cache
from pathlib import Path

import caddtree
from caddtree.loading import load_model

FOLDER = Path(__file__).parent.parent
LENGTH = 96


@cache
def demo_model():
    """Return the target that all recipes share, and its tokenizer."""
    return load_model(caddtree.load_recipe("demo").target)


def generated(recipe, *, prompt="def main(", length=LENGTH, **sections):
    """Return what a recipe makes of a prompt, greedily."""
    model, tokenizer = demo_model()
    decoder = caddtree.load(recipe, sections, model=model, tokenizer=tokenizer)
    return decoder.generate(prompt, max_new_tokens=length)
