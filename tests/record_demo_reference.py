"""Writes the acceptance reference that ``test_demo_pair.py`` compares with; run it after a new drafter was trained.

python -m tests.record_demo_reference
"""

from __future__ import annotations

import json

import caddtree
from caddtree.experiments.acceptance import tau_over_rounds
from caddtree.loading import load_model
from tests.test_demo_pair import RECIPES, REFERENCE, decode_all


def main() -> None:
    generations = decode_all(load_model(caddtree.load_recipe("demo").target))
    reference = {recipe: round(tau_over_rounds(generations[recipe]), 4) for recipe in RECIPES}
    REFERENCE.write_text(json.dumps(reference, indent=2) + "\n", encoding="utf-8")
    print(reference)


if __name__ == "__main__":
    main()
