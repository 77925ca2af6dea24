from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from caddtree.core.errors import RecipeError
from caddtree.core.options import GenerationOptions, RuntimeOptions
from caddtree.plugins.recipe import Recipe, StageChoice, TargetOptions, load_recipe
from caddtree.plugins.registry import Registry

RECIPE = "target: {model: m}\ndrafter: {name: dflash, model: d}\n"


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def errors(source: Any, registry: Registry, **more: Any) -> list[str]:
    with pytest.raises(RecipeError) as error:
        load_recipe(source, registry=registry, **more)
    return str(error.value).splitlines()


def test_target_and_drafter_are_enough(tmp_path: Path, registry: Registry) -> None:
    """Every other stage has a first choice, every option a default."""
    recipe = load_recipe(write(tmp_path, "small.yaml", RECIPE), registry=registry)

    assert recipe.target == TargetOptions(model="m")
    assert recipe.drafter == StageChoice("dflash", {"model": "d", "draft_length": None})
    assert (recipe.tree_builder.name, recipe.cost_model.name, recipe.verifier.name) == ("caddtree", "table", "sdpa")
    assert recipe.tree_builder.options["max_node_budget"] == 256
    assert recipe.generation == GenerationOptions()
    assert recipe.label == "small"


def test_an_option_of_a_stage_that_was_left_out_goes_to_its_first_choice(tmp_path: Path, registry: Registry) -> None:
    """``tree_builder: {max_node_budget: 5}`` needs no name."""
    path = write(tmp_path, "r.yaml", RECIPE + "tree_builder: {max_node_budget: 5}\n")

    assert load_recipe(path, registry=registry).tree_builder.options["max_node_budget"] == 5
    assert load_recipe(path, sets=["tree_builder.low=2"], registry=registry).tree_builder.options["low"] == 2


@pytest.mark.parametrize("how", ["extends", "overrides", "sets"])
def test_extends_overrides_and_sets_merge_alike(tmp_path: Path, registry: Registry, how: str) -> None:
    """One rule, three ways to use it."""
    base = write(
        tmp_path, "base.yaml", RECIPE + "tree_builder: {name: caddtree, low: 3}\ngeneration: {seed: 5, top_k: 2}\n"
    )
    more: dict[str, Any] = {}
    source = base
    if how == "extends":
        over = (
            "extends: base.yaml\ntree_builder: {name: chain, length: 4}\ngeneration: {seed: 6}\ntarget: {dtype: auto}\n"
        )
        source = write(tmp_path, "over.yaml", over)
    elif how == "overrides":
        more["overrides"] = {
            "tree_builder": {"name": "chain", "length": 4},
            "generation": {"seed": 6},
            "target": {"dtype": "auto"},
        }
    else:
        more["sets"] = ["tree_builder.length=4", "tree_builder.name=chain", "generation.seed=6", "target.dtype=auto"]

    recipe = load_recipe(source, registry=registry, **more)

    assert recipe.tree_builder == StageChoice("chain", {"length": 4})
    assert (recipe.generation.seed, recipe.generation.top_k) == (6, 2)
    assert recipe.target == TargetOptions(model="m", dtype="auto")


def test_sets_come_after_overrides(tmp_path: Path, registry: Registry) -> None:
    """The command line has the last word."""
    path = write(tmp_path, "r.yaml", RECIPE)

    recipe = load_recipe(path, {"generation": {"seed": 1, "top_k": 3}}, ["generation.seed=2"], registry=registry)

    assert (recipe.generation.seed, recipe.generation.top_k) == (2, 3)


def test_a_file_extends_a_file_that_extends_a_shipped_recipe(tmp_path: Path, registry: Registry) -> None:
    """Relative paths refer to the file that names them."""
    write(tmp_path / "a", "one.yaml", "extends: base\ndescription: one\n" + RECIPE)
    path = write(tmp_path / "b", "two.yaml", "extends: ../a/one.yaml\ngeneration: {seed: 7}\n")

    recipe = load_recipe(str(path), registry=registry)

    assert (recipe.generation.seed, recipe.generation.max_new_tokens) == (7, 256)
    assert recipe.description is None


def test_model_paths_refer_to_the_recipe_that_writes_them(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file its own folder, in overrides the current directory, otherwise left alone."""
    write(tmp_path / "a", "one.yaml", "target: {model: ./t}\ndrafter: {name: dflash, model: ../d}\n")
    path = write(tmp_path / "b", "two.yaml", "extends: ../a/one.yaml\ncost_model: {path: ./p.json}\n")
    monkeypatch.chdir(tmp_path / "b")

    recipe = load_recipe(path, registry=registry)

    assert recipe.target.model == str(tmp_path / "a" / "t")
    assert recipe.drafter.options["model"] == str(tmp_path / "d")
    assert recipe.cost_model.options["path"] == str(tmp_path / "b" / "p.json")
    assert load_recipe("two.yaml", sets=["target.model=./x"], registry=registry).target.model == str(
        tmp_path / "b" / "x"
    )
    assert load_recipe(path, {"target": {"model": "org/x"}}, registry=registry).target.model == "org/x"


def test_a_shown_recipe_loads_as_the_same_recipe(tmp_path: Path, registry: Registry) -> None:
    """``to_yaml`` holds everything, strings that look like numbers included."""
    text = RECIPE + (
        "description: '1e-3'\n"
        "tree_builder: {share: 1e-3, weights: [1, 2.5], exact: false, table: ../t.json}\n"
        "runtime: {graphs: never, buckets: [1, 16, 64]}\n"
        "generation: {stop: ['016', no, \"\\n\\n\"], temperature: 1, top_p: 0.9, max_new_tokens: 7}\n"
    )
    recipe = load_recipe(write(tmp_path / "a", "r.yaml", text), registry=registry)
    shown = write(tmp_path / "b" / "c", "shown.yaml", recipe.to_yaml())

    assert load_recipe(shown, registry=registry) == recipe
    assert recipe.generation.stop == ("016", "no", "\n\n")
    assert recipe.runtime == RuntimeOptions(graphs="never", compile="auto", buckets=(1, 16, 64))
    assert recipe.to_yaml() == load_recipe(shown, registry=registry).to_yaml()


def test_a_recipe_or_its_sections_load_too(registry: Registry) -> None:
    """A Recipe comes back as it is, and can be overridden like a file."""
    sections = {"target": {"model": "m"}, "drafter": {"name": "dflash", "model": Path("d")}}
    recipe = load_recipe(sections, registry=registry)

    assert load_recipe(recipe, registry=registry) is recipe
    changed = load_recipe(recipe, {"generation": {"stop": ["x"]}}, registry=registry)
    assert changed == attrs.evolve(recipe, generation=GenerationOptions(stop=("x",)))
    assert isinstance(changed, Recipe)


def test_errors_name_the_layer_that_is_wrong(tmp_path: Path, registry: Registry) -> None:
    """All of them at once: two files, the overrides, and a set."""
    base = write(tmp_path, "base.yaml", RECIPE + "generation: {seed: -1}\n")
    path = write(tmp_path, "over.yaml", "extends: base.yaml\ntarget:\n  dtype: f32\n")

    found = errors(
        path,
        registry,
        overrides={"tree_builder": {"max_node_budget": "abc"}},
        sets=["generation.top_k=none", "verifer.name=sdpa"],
    )

    assert sorted(found) == sorted(
        [
            f"{base}:3:20: generation.seed: must be at least 0 and at most 18446744073709551615, found -1",
            f"{path}:3:10: target.dtype: must be one of float32, bfloat16, float16, auto, found 'f32', a string",
            "overrides: tree_builder.max_node_budget: must be an integer, found 'abc', a string",
            "--set generation.top_k=none: generation.top_k: must be an integer or null, found 'none', a string",
            "--set verifer.name=sdpa: verifer: is no section of a recipe; did you mean verifier? allowed: cost_model, "
            "description, drafter, extends, generation, observers, preprocessors, runtime, target, tree_builder, "
            "verifier",
        ]
    )


def test_extends_cannot_go_in_a_circle(tmp_path: Path, registry: Registry) -> None:
    """Neither directly, nor through another file, nor through a link."""
    write(tmp_path, "a.yaml", "extends: b.yaml\n" + RECIPE)
    path = write(tmp_path, "b.yaml", "extends: link.yaml\n")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "a.yaml")

    found = errors(path, registry)

    assert found == [
        f"{tmp_path / 'link.yaml'}:1:10: extends: goes in a circle: b.yaml -> a.yaml -> b.yaml; remove one"
    ]
    own = write(tmp_path, "own.yaml", "extends: own.yaml\n" + RECIPE)
    assert errors(own, registry) == [f"{own}:1:10: extends: goes in a circle: own.yaml -> own.yaml; remove one"]


def test_a_long_row_of_extends_ends(tmp_path: Path, registry: Registry) -> None:
    """A machine may write a thousand files that extend one another."""
    for index in range(40):
        write(tmp_path, f"{index}.yaml", f"extends: {index + 1}.yaml\n" + RECIPE)

    assert "more than 16" in errors(tmp_path / "0.yaml", registry)[0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("demoo", "extends: there is no recipe 'demoo'; did you mean demo?"),
        ("../x.yaml", "extends: no such file"),
        ("[demo]", "extends: must be the name of a shipped recipe or a relative path"),
        ("", "extends: must be the name"),
        ('"a\\0b.yaml"', "extends: no such file"),
    ],
)
def test_what_cannot_be_extended_is_refused_at_its_place(
    tmp_path: Path, registry: Registry, value: str, message: str
) -> None:
    """The rest of the file is checked all the same."""
    path = write(tmp_path, "r.yaml", f"extends: {value}\n{RECIPE}generation: {{seed: x}}\n")

    found = errors(path, registry)

    assert found[0].startswith(f"{path}:1:{9 if not value else 10}: {message}")
    assert found[1].startswith(f"{path}:4:20: generation.seed")


def test_extends_belongs_in_a_file(registry: Registry) -> None:
    """An override cannot change what a recipe is made from."""
    sections = {"target": {"model": "m"}, "drafter": {"name": "dflash", "model": "d"}}

    assert errors(sections, registry, overrides={"extends": "demo"}) == [
        "overrides: extends: belongs in a file; load that recipe and override it"
    ]
    assert errors(sections, registry, sets=["extends=demo"]) == [
        "--set extends=demo: extends: belongs in a file, not in an override"
    ]


def test_an_unknown_recipe_lists_those_that_ship(registry: Registry) -> None:
    """A name without a suffix is looked for among the shipped ones."""
    (found,) = errors("demo-chian", registry)

    assert found.startswith(
        "there is no recipe 'demo-chian'; did you mean demo-chain? allowed: base, caddtree-qwen3-4b"
    )
    assert "a recipe is a name, a path, a mapping or a Recipe, found int" in errors(3, registry)[0]


def test_ft_16_a_recipe_cannot_ask_for_remote_code(tmp_path: Path, registry: Registry) -> None:
    """FT-16: refused in every section that loads something."""
    text = "target: {model: m, trust_remote_code: true}\ndrafter: {name: dflash, model: d, trust_remote_code: yes}\n"
    path = write(tmp_path, "r.yaml", text)

    refused = "is refused: caddtree never runs code from a model folder; remove the key"
    assert errors(path, registry) == [
        f"{path}:1:20: target.trust_remote_code: {refused}",
        f"{path}:2:35: drafter.trust_remote_code: {refused}",
    ]


def test_ft_15_a_recipe_cannot_name_a_pickle(tmp_path: Path, registry: Registry) -> None:
    """FT-15: target, drafter and table, before anything is opened."""
    text = "target: {model: ./t.bin}\ndrafter: {name: dflash, model: ./d.pt}\ncost_model: {path: ./c.pkl}\n"
    found = errors(write(tmp_path, "r.yaml", text), registry)

    assert len(found) == 3
    assert all("only safetensors and JSON are read" in line for line in found)
