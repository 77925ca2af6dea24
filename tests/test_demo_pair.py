"""The shipped pair through the shipped recipes: exact, accepted as recorded, small enough. L-01, L-10, L-13, L-14."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import caddtree
from caddtree.experiments.acceptance import tau_over_rounds
from caddtree.experiments.prompts import read_prompts
from caddtree.loading import load_model
from caddtree.training.reasoning import stated_answer

FOLDER = Path(caddtree.__file__).parent / "models" / "demo"
REFERENCE = Path(__file__).parent / "demo_reference.json"
RECIPES = ("demo-plain", "demo-chain", "demo-ddtree", "demo", "demo-ngram")
FIXED_COSTS = {
    "name": "analytic",
    "flops_per_second": 1e11,
    "bytes_per_second": 2e10,
    "overhead_seconds": 0.006,
    "draft_seconds": 0.002,
}


@pytest.fixture(scope="module")
def held():
    return load_model(caddtree.load_recipe("demo").target)


def load(recipe, held, **sections):
    model, tokenizer = held
    # fixed costs: nothing is measured, so the same trees are chosen on every machine
    if recipe in ("demo", "demo-ngram"):
        sections.setdefault("cost_model", FIXED_COSTS)
        # a price would be the measured speed
        sections.setdefault("tree_builder", {"objective": "ratio"})
    return caddtree.load(recipe, sections, model=model, tokenizer=tokenizer)


def decode_all(held):
    """Every shipped recipe on the nine demo prompts."""
    records = read_prompts(FOLDER / "prompts" / "demo.jsonl")
    found = {}
    for recipe in RECIPES:
        decoder = load(recipe, held)
        found[recipe] = [decoder.generate(record.prompt, max_new_tokens=40) for record in records]
    return found


@pytest.fixture(scope="module")
def outputs(held):
    return decode_all(held)


def test_l01_every_recipe_says_what_plain_decoding_says(outputs):
    """Nine prompts of three domains, every shipped demo recipe."""
    for recipe in RECIPES[1:]:
        for plain, other in zip(outputs["demo-plain"], outputs[recipe], strict=True):
            assert other.token_ids == plain.token_ids
            assert other.text == plain.text


def test_l01_plain_decoding_is_transformers_generate(held, outputs):
    """The baseline itself, against ``model.generate``."""
    model, _ = held
    decoder = load("demo-plain", held)
    for record, plain in list(zip(read_prompts(FOLDER / "prompts" / "demo.jsonl"), outputs["demo-plain"], strict=True))[
        ::3
    ]:
        session = decoder.open(record.prompt, max_new_tokens=1)
        prompt = session.tokens[: session.num_prompt_tokens]
        ids = torch.tensor([prompt])
        generated = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)

        assert generated[0, len(prompt) :].tolist() == list(plain.token_ids)


def test_l14_acceptance_is_what_it_was(outputs):
    """Mean acceptance length per recipe within 2 % of the recorded one: the alarm for a drafter gone subtly wrong."""
    reference = json.loads(REFERENCE.read_text())
    for recipe in RECIPES:
        assert tau_over_rounds(outputs[recipe]) == pytest.approx(reference[recipe], rel=0.02)


def test_speculation_is_accepted(outputs):
    """A tree beats the chain, the chain beats nothing."""
    tau = {recipe: tau_over_rounds(outputs[recipe]) for recipe in RECIPES}

    assert tau["demo-plain"] == 1.0
    assert tau["demo-chain"] > 1.5
    assert tau["demo-ddtree"] > tau["demo-chain"]


def test_sampling_with_a_seed_is_plain_sampling(held):
    """Invariant 2 on the real pair."""
    plain, tree = load("demo-plain", held), load("demo", held)
    for seed, record in enumerate(read_prompts(FOLDER / "prompts" / "demo.jsonl")[::4]):
        options = {"max_new_tokens": 30, "temperature": 0.8, "top_p": 0.95, "seed": seed}

        assert tree.generate(record.prompt, **options).token_ids == plain.generate(record.prompt, **options).token_ids


def test_the_drafter_was_trained_for_this_target(held):
    """The fingerprint in the drafter's config is the target's own."""
    decoder = load("demo-chain", held)

    assert decoder.drafter.config.target_fingerprint == decoder.target.fingerprint


def test_the_pair_is_small_and_free_of_code():
    """At most 24 MiB, nothing but JSON, safetensors and text."""
    files = [path for path in FOLDER.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) <= 24 * 2**20
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".safetensors", ".md", ".jinja"}


@pytest.mark.slow
def test_word_problems_of_held_out_templates_are_answered(held):
    """The share of exact answers that the model card states."""
    decoder = load("demo-ddtree", held)
    right = total = 0
    for line in (FOLDER / "prompts" / "reasoning.jsonl").read_text().splitlines():
        entry = json.loads(line)
        text = decoder.generate([{"role": "user", "content": entry["turns"][0]}], max_new_tokens=200).text
        right += stated_answer(text) == int(entry["answer"])
        total += 1
    card = (FOLDER / "README.md").read_text()

    assert f"{right} of {total}" in card
    assert right >= 0.8 * total
