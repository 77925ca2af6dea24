from __future__ import annotations

from pathlib import Path

import pytest

import caddtree
from caddtree.core.errors import RecipeError
from caddtree.plugins.hooks import STAGES, Kind
from caddtree.plugins.recipe import load_recipe, shipped_recipes
from caddtree.plugins.registry import default_registry

FOLDER = Path(caddtree.__file__).parent / "recipes"
FILES = sorted(FOLDER.rglob("*.y*ml"))
FRAGMENTS = {"base"}
"""Shipped for ``extends`` only."""
PIPELINES = [path for path in FILES if path.stem not in FRAGMENTS]


def test_every_file_is_a_shipped_recipe() -> None:
    """No recipe is out of reach by name."""
    assert sorted(shipped_recipes().values()) == FILES
    assert {"demo", "demo-plain", "demo-chain", "demo-ddtree", "demo-ngram"} <= set(shipped_recipes())
    assert {"caddtree-qwen3-4b", "caddtree-qwen3-8b"} <= set(shipped_recipes())


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    """By name and by path, with strategies and options that exist."""
    name = path.relative_to(FOLDER).with_suffix("").as_posix()
    recipe = load_recipe(name)

    assert recipe == load_recipe(path)
    assert recipe.label == name
    assert recipe.description


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_shipped_recipe_survives_being_shown(path: Path, tmp_path: Path) -> None:
    """``recipe show`` prints a recipe that loads as the same one."""
    recipe = load_recipe(path)
    shown = tmp_path / "shown.yaml"
    shown.write_text(recipe.to_yaml(), encoding="utf-8")

    assert load_recipe(shown) == recipe


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_recipe_opens_with_a_comment(path: Path) -> None:
    """What it shows, the command that runs it, the hardware that it was run on."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])

    assert "Hardware: " in comment
    if path.stem not in FRAGMENTS:
        assert f"--recipe {path.stem}" in comment


@pytest.mark.parametrize("name", sorted(FRAGMENTS))
def test_a_fragment_lacks_only_its_target_and_drafter(name: str) -> None:
    """What it says is right."""
    with pytest.raises(RecipeError) as error:
        load_recipe(name)

    lines = str(error.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["target", "drafter"]


def test_the_demo_recipes_share_a_target_inside_the_package() -> None:
    """Paths are resolved against the recipe, wherever the user stands."""
    models = FOLDER.parent / "models" / "demo"
    recipes = [load_recipe(name) for name in shipped_recipes() if name.startswith("demo")]

    assert {recipe.target.model for recipe in recipes} == {str((models / "target").resolve())}
    assert load_recipe("demo").drafter.options["model"] == str((models / "drafter").resolve())


def test_the_demo_recipes_are_the_pipelines_that_they_are_called() -> None:
    """Only the stage in the name differs from ``demo``."""
    chosen = {name: load_recipe(name) for name in shipped_recipes() if name.startswith("demo")}
    stages = {name: (recipe.drafter.name, recipe.tree_builder.name) for name, recipe in chosen.items()}

    assert stages["demo"] == ("dflash", "caddtree")
    assert stages["demo-plain"] == ("none", "chain")
    assert stages["demo-chain"] == ("dflash", "chain")
    assert stages["demo-ddtree"] == ("dflash", "ddtree")
    assert stages["demo-ngram"] == ("ngram", "caddtree")
    assert chosen["demo-ddtree"].tree_builder.options["node_budget"] == 32
    assert len({recipe.generation for recipe in chosen.values()}) == 1


def test_the_qwen_recipes_keep_the_published_names() -> None:
    """Hub ids are not taken for paths."""
    for size in ("4b", "8b"):
        recipe = load_recipe(f"caddtree-qwen3-{size}")

        assert recipe.target.model == f"Qwen/Qwen3-{size.upper()}"
        assert recipe.drafter.options["model"] == f"z-lab/Qwen3-{size.upper()}-DFlash-b16"
        assert (recipe.target.dtype, recipe.tree_builder.options["max_node_budget"]) == ("bfloat16", 512)


@pytest.mark.parametrize("kind", STAGES)
def test_every_built_in_strategy_can_be_put_into_the_demo_recipe(kind: Kind) -> None:
    """One strategy swapped is one line changed; nothing built in refuses another part."""
    for name in default_registry().names(kind):
        options = {"model": "x"} if name == "dflash" else {}
        recipe = load_recipe("demo", {kind: {"name": name, **options}})

        assert recipe.stage(kind).name == name


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_stage_of_a_shipped_recipe_can_be_made(path: Path) -> None:
    """From the checked options, without loading weights."""
    registry = default_registry()
    recipe = load_recipe(path)

    for kind in STAGES:
        choice = recipe.stage(kind)
        made = registry.create(kind, choice.name, choice.options)
        assert isinstance(made, registry.get(kind, choice.name))
        assert all(getattr(made, name) == value for name, value in choice.options.items())
