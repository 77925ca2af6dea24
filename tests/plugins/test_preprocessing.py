"""Pre-processors of recipes: what they change is checked like what was written; a broken one is named."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from caddtree.core.errors import RecipeError
from caddtree.plugins.hooks import KindRegistry, hookimpl
from caddtree.plugins.recipe import Recipe, load_recipe
from caddtree.plugins.registry import Provider, Registry
from tests.plugins.fakes import fake_registry
from tests.plugins.test_recipe_errors import GOOD


def registry(**processes: Callable[[Mapping[str, Any]], Any]) -> Registry:
    """Return the fakes with a pre-processor of a plugin per function."""

    def register(registry: KindRegistry) -> None:
        for name, process in processes.items():
            registry.add(name, attrs.frozen(type(name, (), {"process": staticmethod(process), "__doc__": "One."})))

    known = fake_registry()
    known.load_plugin(types.SimpleNamespace(register_preprocessors=hookimpl(register)), Provider("site", "2.0", "site"))
    return known


def load(tmp_path: Path, text: str, known: Registry, **changes: Any) -> Recipe:
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, registry=known, **changes)


def test_what_it_returns_is_laid_over_the_recipe(tmp_path: Path) -> None:
    """Key by key; a stage whose name changes is replaced whole; nothing else is touched."""
    changes = {"generation": {"seed": 7}, "tree_builder": {"name": "chain"}, "target": {"dtype": "auto"}}
    known = registry(site=lambda sections: changes)
    plain = load(tmp_path, GOOD, known)
    found = load(tmp_path, "preprocessors: [site]\n" + GOOD, known)

    assert (found.generation.seed, found.target.dtype) == (7, "auto")
    assert found.tree_builder.name == "chain" != plain.tree_builder.name
    assert attrs.evolve(found.target, dtype=plain.target.dtype) == plain.target
    assert found.drafter == plain.drafter


def test_they_run_in_order_and_see_overrides_and_each_other(tmp_path: Path) -> None:
    """The second one sees what the first one made; all see ``--set``; none sees the list of them."""
    seen = []

    def first(sections: Mapping[str, Any]) -> Any:
        seen.append(sections)
        return {"generation": {"seed": sections["generation"]["seed"] + 1}}

    def second(sections: Mapping[str, Any]) -> Any:
        seen.append(sections)
        return {"generation": {"seed": sections["generation"]["seed"] * 10}}

    known = registry(first=first, second=second)
    found = load(tmp_path, "preprocessors: [first, {name: second}]\n" + GOOD, known, sets=["generation.seed=4"])

    assert found.generation.seed == 50
    assert [sections["generation"] for sections in seen] == [{"seed": 4}, {"seed": 5}]
    assert not any("preprocessors" in sections for sections in seen)


def test_the_recipe_that_comes_out_needs_them_no_more(tmp_path: Path) -> None:
    """As YAML it loads as an equal recipe where they are not installed."""
    known = registry(site=lambda sections: {"generation": {"seed": 7}})
    found = load(tmp_path, "preprocessors: [site]\n" + GOOD, known)

    (tmp_path / "again.yaml").write_text(found.to_yaml(), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml", registry=fake_registry()) == found


def test_what_it_makes_is_checked_where_it_was_written(tmp_path: Path) -> None:
    """The place of the value that it replaced; the name of the pre-processor where nothing was written."""
    known = registry(site=lambda sections: {"target": {"model": 7}, "generation": {"sead": 1}})
    with pytest.raises(RecipeError) as error:
        load(tmp_path, "preprocessors: [site]\n" + GOOD, known)

    first, second = sorted(str(error.value).splitlines())
    assert first.startswith(f"{tmp_path / 'my.yaml'}:2:")
    assert "target.model: must be" in first
    assert second.startswith("preprocessor site: generation.sead: ")


def test_a_relative_path_in_what_it_makes_is_relative_to_the_file(tmp_path: Path) -> None:
    """Whether it replaces one or adds one."""
    known = registry(site=lambda sections: {"target": {"model": "./other"}})
    found = load(tmp_path, "preprocessors: [site]\n" + GOOD, known)

    assert found.target.model == str(tmp_path / "other")


def raising(sections: Mapping[str, Any]) -> Any:
    raise KeyError("cluster")


def complaining(sections: Mapping[str, Any]) -> Any:
    raise RecipeError("the cluster is closed")


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (raising, "site of site 2.0 raised KeyError: 'cluster'"),
        (complaining, "site of site 2.0 says: the cluster is closed"),
        (lambda sections: None, "process must return a mapping of sections, found null"),
        (lambda sections: {"target": {"model": object()}}, "a recipe cannot hold a object"),
        (lambda sections: {"tagret": {}}, "tagret: is no section of a recipe"),
        (lambda sections: sections["nonsense"], "raised KeyError"),
        (lambda sections: {"preprocessors": ["boom"]}, "process must not return preprocessors"),
    ],
)
def test_a_broken_one_is_named_with_its_plugin_and_place(tmp_path: Path, process: Any, message: str) -> None:
    """One line, no second error about what it would have changed."""
    with pytest.raises(RecipeError) as error:
        load(tmp_path, "preprocessors: [site]\n" + GOOD, registry(site=process))

    (line,) = str(error.value).splitlines()
    assert message in line
    assert line.startswith((f"{tmp_path / 'my.yaml'}:1:17: preprocessors[0]: ", "preprocessor site: "))


def test_it_cannot_change_the_recipe_behind_its_back(tmp_path: Path) -> None:
    """What it does to its argument stays there."""

    def spoiling(sections: Any) -> Any:
        sections["target"]["model"] = "spoilt"
        return {}

    known = registry(site=spoiling)
    assert load(tmp_path, "preprocessors: [site]\n" + GOOD, known) == load(tmp_path, GOOD, known)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("site", "preprocessors: must be a list such as [{name: NAME}], found 'site'"),
        ("[sight]", "preprocessors[0].name: unknown preprocessor 'sight'; did you mean site?"),
        ("[{}]", "preprocessors[0].name: is missing; add one of site"),
        ("[7]", "preprocessors[0]: must be a name or a mapping, found 7"),
        ("[{name: site, depth: 2}]", "preprocessors[0].depth: is no option of preprocessor site"),
        ("[{name: [site]}]", "preprocessors[0].name: must be a string, found a list of 1"),
    ],
)
def test_a_list_that_is_wrong_is_refused_by_place(tmp_path: Path, written: str, message: str) -> None:
    """Observers are read by the same code, and have the same errors."""
    known = registry(site=lambda sections: {})
    with pytest.raises(RecipeError) as error:
        load(tmp_path, f"preprocessors: {written}\n" + GOOD, known)
    assert message in str(error.value)

    with pytest.raises(RecipeError, match="observers"):
        load(tmp_path, f"observers: {written}\n" + GOOD, known)


def test_nothing_runs_unless_a_recipe_names_it(tmp_path: Path) -> None:
    """Being installed changes no recipe."""
    load(tmp_path, GOOD, registry(site=raising))
    load(tmp_path, "preprocessors: null\n" + GOOD, registry(site=raising))
    load(tmp_path, "preprocessors: []\n" + GOOD, registry(site=raising))


def test_the_next_one_is_not_blamed_for_what_the_first_made(tmp_path: Path) -> None:
    """It would be shown a value that could not be read."""
    known = registry(
        mangle=lambda sections: {"target": {"model": object()}},
        needs=lambda sections: {"target": {"model": sections["target"]["model"].upper()}},
    )
    with pytest.raises(RecipeError) as error:
        load(tmp_path, "preprocessors: [mangle, needs]\n" + GOOD, known)

    (line,) = str(error.value).splitlines()
    assert line.startswith("preprocessor mangle: target.model: a recipe cannot hold")
