"""``demo`` with a tiny pair in the place of the shipped one: an answer, a tree, a table, an honest exit code."""

from __future__ import annotations

import json

import attrs
import pytest

import caddtree as package
from caddtree.cli import commands
from caddtree.cli.demo import DEMO_PROMPTS, DEMO_RECIPES
from caddtree.experiments.prompts import read_prompts
from tests.cli.runner import caddtree, lines

STAGES = {
    "demo-plain": {"drafter": {"name": "none"}},
    "demo-chain": {"tree_builder": {"name": "chain"}},
    "demo-ddtree": {},
    "demo": {"tree_builder": {"name": "caddtree", "max_node_budget": 4}},
}


@pytest.fixture(autouse=True)
def decoders(recipe, monkeypatch):
    """What the command is given for the recipes it asks for."""
    found = {name: package.load(recipe, {"generation": {"ignore_eos": True}, **STAGES[name]}) for name in DEMO_RECIPES}
    monkeypatch.setattr(commands, "load_all", lambda names: {name: found[name] for name in names})
    return found


def test_the_demo_shows_an_answer_its_best_tree_and_a_table(decoders):
    """The first shipped prompt, the round and its tree, one row per recipe; exit code 0."""
    prompt = read_prompts(DEMO_PROMPTS)[0].prompt
    found = caddtree("demo", "--max-new-tokens", 6)
    shown = found.stdout

    assert found.exit_code == 0, found.stderr
    assert lines(shown)[0].startswith("> ")
    assert decoders["demo"].generate(prompt, max_new_tokens=6).text in shown
    assert "then the bonus token" in shown
    assert "\n* '" in shown
    for name in DEMO_RECIPES:
        assert f"│ {name} " in shown
    assert " no " not in shown[shown.index("identical") :]


def test_the_demo_in_json_is_one_object():
    """The comparison of the four recipes and nothing else."""
    found = caddtree("demo", "--max-new-tokens", 3, "--json")

    assert [variant["recipe"] for variant in json.loads(found.stdout)["variants"]] == list(DEMO_RECIPES)


def test_an_output_that_differs_is_said_and_is_exit_code_1(decoders, monkeypatch):
    """The demo checks its own claim."""

    right = decoders["demo-chain"]

    class Wrong:
        unwatched = right.unwatched

        def generate(self, prompt, **options):
            found = right.generate(prompt, **options)
            return attrs.evolve(found, token_ids=(*found.token_ids[:-1], 0))

    monkeypatch.setitem(decoders, "demo-chain", Wrong())
    found = caddtree("demo", "--max-new-tokens", 3, "--json")

    assert found.exit_code == 1
    assert lines(found.stderr)[-1] == "error: an output differs from plain decoding; please report this"
