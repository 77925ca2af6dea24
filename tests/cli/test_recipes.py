"""``recipe check``, ``recipe show`` and ``plugins``: what is installed, and what a recipe amounts to."""

from __future__ import annotations

import json

import pytest

from caddtree.plugins import registry as registry_module
from caddtree.plugins.recipe import load_recipe, shipped_recipes
from caddtree.plugins.registry import Provider, Registry, default_registry
from tests.cli.runner import caddtree, lines


def test_plugins_lists_every_strategy_with_options_and_defaults():
    """--json holds what the registry knows, defaults as values."""
    listed = json.loads(caddtree("plugins", "--json").stdout)
    found = {(entry["kind"], entry["name"]): entry for entry in listed["strategies"]}

    assert {
        ("drafter", "dflash"), ("drafter", "ngram"), ("drafter", "none"),
        ("tree_builder", "caddtree"), ("tree_builder", "chain"), ("tree_builder", "ddtree"),
        ("cost_model", "analytic"), ("cost_model", "convex"), ("cost_model", "table"),
        ("verifier", "sdpa"),
    } <= set(found)  # fmt: skip
    for info in default_registry().describe():
        entry = found[info.kind, info.name]
        assert entry["summary"]
        assert [option["name"] for option in entry["options"]] == [option.name for option in info.options]
        for option, known in zip(entry["options"], info.options, strict=True):
            assert option["required"] == known.is_required
            assert option["default"] == (None if known.is_required else known.default)
            assert option["doc"]
            assert option["type"]
    assert listed["broken"] == []
    assert listed["recipes"] == list(shipped_recipes())


def rows_of(shown):
    """Kind, name, options and summary of every row, without the spaces that wrapping moves."""
    rows = []
    for line in shown.splitlines():
        cells = ["".join(cell.split()) for cell in line.strip("│").split("│")]
        if not line.startswith("│"):
            continue
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [above + below for above, below in zip(rows[-1], cells, strict=True)]
    return rows


def test_plugins_prints_the_same_as_a_table():
    """Names, options with type and default, summaries, in a width that a file can take."""
    shown = caddtree("plugins").stdout
    expected = []
    for info in default_registry().describe():
        options = [
            f"{option.name}: {option.type_text} {'required' if option.is_required else f'= {option.default!r}'}"
            for option in info.options
        ]
        expected.append(["".join(cell.split()) for cell in (info.kind, info.name, "".join(options), info.doc)])

    assert rows_of(shown) == expected
    assert max(map(len, shown.splitlines()[:-1])) <= 120
    assert shown.splitlines()[-1] == f"recipes: {', '.join(shipped_recipes())}"


def test_plugins_names_a_broken_one_and_its_reason(monkeypatch):
    """Listed in both forms, and the sound ones stay."""
    broken = Registry()
    broken.load_built_in()
    broken._stage(lambda: object(), Provider("somebody", "1.2", "some_plugin"))
    monkeypatch.setattr(registry_module, "default_registry", lambda: broken)
    listed = json.loads(caddtree("plugins", "--json").stdout)
    shown = caddtree("plugins")

    assert [entry["plugin"] for entry in listed["broken"]] == ["somebody 1.2"]
    assert "implements no hook" in listed["broken"][0]["reason"]
    assert "broken: somebody 1.2: implements no hook" in shown.stdout
    assert shown.exit_code == 0
    assert {"ddtree", "dflash"} <= {entry["name"] for entry in listed["strategies"]}


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
