"""``recipe check``, ``recipe show`` and ``recipe schema``: what a recipe amounts to."""

from __future__ import annotations

import json

import pytest

from caddtree.plugins.recipe import load_recipe
from caddtree.plugins.recipe_schema import recipe_schema
from tests.cli.runner import caddtree, lines


@pytest.mark.parametrize("name", ["demo", "caddtree-qwen3-8b"])
def test_a_sound_recipe_is_fine(name):
    """One word for a reader, an empty list for a script."""
    shown, listed = caddtree("recipe", "check", name), caddtree("recipe", "check", name, "--json")

    assert (shown.exit_code, shown.stdout) == (0, f"{name}: fine\n")
    assert listed.exit_code == 0
    assert json.loads(listed.stdout) == {"recipe": name, "errors": []}


def test_a_wrong_recipe_lists_every_error_with_its_place(tmp_path):
    """On stderr line by line, in --json as a list; exit code 2 both times."""
    path = tmp_path / "wrong.yaml"
    path.write_text("extends: demo\ntree_builder: {name: ddtree, node_budget: 0}\ngeneration: {sede: 1}\n")
    shown, listed = caddtree("recipe", "check", path), caddtree("recipe", "check", path, "--json")
    errors = json.loads(listed.stdout)["errors"]

    assert shown.exit_code == listed.exit_code == 2
    assert len(errors) == 2
    assert errors[0].startswith(f"{path}:2:43: tree_builder.node_budget: must be at least 1, found 0")
    assert errors[1].startswith(f"{path}:3:14: generation.sede: is no option of generation; did you mean seed?")
    assert lines(shown.stderr) == lines("error: " + "\n".join(errors))
    assert listed.stderr == shown.stdout == ""


def test_a_recipe_is_shown_merged_and_loads_again(tmp_path):
    """Defaults included, --set counts; YAML and JSON say the same."""
    change = ["--set", "tree_builder.max_node_budget=9"]
    path = tmp_path / "shown.yaml"
    path.write_text(caddtree("recipe", "show", "demo", *change).stdout, encoding="utf-8")
    listed = json.loads(caddtree("recipe", "show", "demo", *change, "--json").stdout)

    assert load_recipe(path) == load_recipe("demo", sets=change[1:])
    assert load_recipe(path).to_mapping() == listed
    assert listed["tree_builder"] == {
        "name": "caddtree",
        "max_node_budget": 9,
        "search": "scan",
        "objective": "price",
    }
    assert {"target", "drafter", "cost_model", "verifier", "generation"} <= set(listed)


@pytest.mark.parametrize("command", ["check", "show"])
def test_a_missing_recipe_is_one_line_and_exit_code_2(command):
    """The path is named."""
    found = caddtree("recipe", command, "missing.yaml")

    assert found.exit_code == 2
    assert lines(found.stderr) == ["error: missing.yaml: no such file; check the path"]


def test_the_schema_is_printed_as_json():
    """For a file beside the recipes; the same text every time."""
    first, second = caddtree("recipe", "schema"), caddtree("recipe", "schema")

    assert (first.exit_code, first.stdout) == (0, second.stdout)
    assert json.loads(first.stdout) == recipe_schema()
