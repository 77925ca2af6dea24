from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from caddtree.core.errors import PluginError, RecipeError
from caddtree.plugins.combination import Conflict, check_combination
from caddtree.plugins.recipe import load_recipe
from caddtree.plugins.registry import Provider, Registry
from tests.plugins.fakes import Adaptive, Block, ChainOnly, Dense, Line, NoScores, Table, plugin

RECIPE = "target: {model: m}\ndrafter: {name: dflash, model: d}\n"


def test_ft_12_a_builder_is_refused_with_a_verifier_that_lacks_its_need(tmp_path: Path, registry: Registry) -> None:
    """FT-12: both part names, at the place of the builder's name, and what could take their places."""
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE + "tree_builder: {name: caddtree}\nverifier: {name: chain-only}\n")

    with pytest.raises(RecipeError) as error:
        load_recipe(path, registry=registry)

    assert str(error.value) == (
        f"{path}:3:22: tree_builder.name: tree_builder caddtree needs 'branches', which verifier chain-only lacks; "
        "choose another verifier (sdpa) or another tree_builder (chain)"
    )


def test_ft_12_a_builder_is_refused_with_a_drafter_without_scores(registry: Registry) -> None:
    """FT-12: found for any pair of stages, from overrides too."""
    with pytest.raises(RecipeError, match="tree_builder caddtree needs 'scores', which drafter none lacks"):
        load_recipe({"target": {"model": "m"}, "drafter": {"name": "none"}}, registry=registry)


def test_ft_12_is_found_beside_other_errors(registry: Registry) -> None:
    """A wrong option does not hide that the parts cannot work together."""
    with pytest.raises(RecipeError) as error:
        load_recipe(
            {"target": {"model": "m", "dtype": 3}, "drafter": {"name": "none"}, "generation": {"sed": 1}},
            registry=registry,
        )

    assert len(str(error.value).splitlines()) == 3


def test_parts_that_declare_nothing_work_together() -> None:
    """Declarations are optional on both sides."""
    assert check_combination({"drafter": Block, "tree_builder": Line, "cost_model": Table, "verifier": Dense}) == []
    assert check_combination({"drafter": NoScores, "tree_builder": Line, "verifier": ChainOnly}) == []


def test_every_conflict_is_returned() -> None:
    """One entry per missing word."""
    assert check_combination({"drafter": NoScores, "tree_builder": Adaptive, "verifier": ChainOnly}) == [
        Conflict("tree_builder", "verifier", "branches"),
        Conflict("tree_builder", "drafter", "scores"),
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("requires", {"verifiers": ("x",)}, "requires must map kinds"),
        ("requires", ("x",), "requires must map kinds"),
        ("requires", {"verifier": "branches"}, "hold collections of words, found 'branches'"),
        ("lacks", "branches", "hold collections of words, found 'branches'"),
        ("lacks", (1,), "hold collections of words"),
    ],
)
def test_a_malformed_declaration_refuses_the_plugin(name: str, value: Any, message: str) -> None:
    """A typing error would otherwise switch the check off."""
    declared = attrs.frozen(type("Declared", (Line,), {name: value}))

    with pytest.raises(PluginError, match=message):
        Registry().load_plugin(plugin(tree_builder={"declared": declared}), Provider("third", "1", "third"))
