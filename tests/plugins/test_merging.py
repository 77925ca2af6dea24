from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from caddtree.plugins.merging import merge, read_sets
from caddtree.plugins.nodes import MappingNode, Origin, Problem, node_from_python, plain_value


def node(values: dict[str, Any], source: str = "x") -> MappingNode:
    found = node_from_python(values, Origin(source), [])
    assert isinstance(found, MappingNode)
    return found


def sets(*arguments: str) -> tuple[Any, list[str]]:
    problems: list[Problem] = []
    found = read_sets(arguments, problems)
    return plain_value(found), [str(problem) for problem in problems]


BASE = {
    "target": {"model": "a", "dtype": "float32"},
    "tree_builder": {"name": "ddtree", "node_budget": 8},
    "generation": {"seed": 1, "stop": ["x", "y"]},
}


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"tree_builder": {"node_budget": 9}}, {"tree_builder": {"name": "ddtree", "node_budget": 9}}),
        ({"tree_builder": {"name": "ddtree"}}, {"tree_builder": {"name": "ddtree", "node_budget": 8}}),
        ({"tree_builder": {"name": "chain"}}, {"tree_builder": {"name": "chain"}}),
        ({"tree_builder": {"name": "chain", "length": 2}}, {"tree_builder": {"name": "chain", "length": 2}}),
        ({"tree_builder": None}, {"tree_builder": None}),
        ({"target": {"model": "b"}}, {"target": {"model": "b", "dtype": "float32"}}),
        ({"target": {"name": "b"}}, {"target": {"model": "a", "dtype": "float32", "name": "b"}}),
        ({"generation": {"stop": ["z"]}}, {"generation": {"seed": 1, "stop": ["z"]}}),
        ({"verifier": {"name": "sdpa"}}, {"verifier": {"name": "sdpa"}}),
        ({}, {}),
    ],
)
def test_a_stage_whose_name_changes_is_replaced_whole_and_the_rest_key_by_key(
    over: dict[str, Any], expected: dict[str, Any]
) -> None:
    """The one rule of extends, overrides and ``--set``."""
    assert plain_value(merge(node(BASE), node(over))) == {**BASE, **expected}


def test_a_merged_value_keeps_the_place_where_it_was_written() -> None:
    """Errors point at the layer that is wrong."""
    merged = merge(node(BASE, "base"), node({"tree_builder": {"node_budget": 9}}, "over"))

    section = merged.get("tree_builder")
    assert isinstance(section, MappingNode)
    assert section.get("node_budget").origin.source == "over"  # type: ignore[union-attr]
    assert section.get("name").origin.source == "base"  # type: ignore[union-attr]


def test_sets_mean_the_same_in_every_order() -> None:
    """A name given after an option does not throw the option away."""
    arguments = ["tree_builder.node_budget=5", "tree_builder.name=ddtree", "generation.seed=3", "target.device=cuda:0"]
    expected, problems = sets(*arguments)

    assert problems == []
    assert expected["tree_builder"] == {"node_budget": 5, "name": "ddtree"}
    for seed in range(5):
        assert sets(*random.Random(seed).sample(arguments, 4)) == (expected, [])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64", 64),
        ("016", 16),
        ("1e-3", 0.001),
        ("no", "no"),
        ("true", True),
        ("'64'", "64"),
        ('"a: b # c"', "a: b # c"),
        ("", None),
        ("null", None),
        ("[a, 'b c', 3]", ["a", "b c", 3]),
        ("[]", []),
        ("{x: 1}", {"x": 1}),
        ("org/name", "org/name"),
        ("a=b", "a=b"),
        ("cuda:0", "cuda:0"),
    ],
)
def test_the_value_of_a_set_follows_the_rules_of_the_files(text: str, value: Any) -> None:
    """The same scalars, and lists in brackets."""
    assert sets(f"a.b={text}") == ({"a": {"b": value}}, [])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("a.b", "--set a.b: must be KEY=VALUE; write it as in --set tree_builder.max_node_budget=64"),
        ("=1", "--set =1: must be KEY=VALUE"),
        ("a..b=1", "--set a..b=1: must be KEY=VALUE"),
        ("a.b=x: y", "--set a.b=x: y: the value 'x: y' is not a single value; put it in quotes"),
        ("a.b=- x", "--set a.b=- x: the value '- x' is not a single value"),
        ("a.b=x #y", "--set a.b=x #y: the value 'x #y' is not a single value"),
        ("a.b=#y", "--set a.b=#y: the value '#y' is not a single value"),
        ("a.b=[1", "--set a.b=[1: is not YAML"),
        ("a.b=*x", "--set a.b=*x: found the alias 'x'"),
        ("a.b=!!python/name:os.system", "--set a.b=!!python/name:os.system: found the tag"),
        ("a.b=" + "9" * 5000, "--set a.b=" + "9" * 76 + "...: found a number of 5000 characters"),
        ("a.b=\udcff", "--set a.b=\udcff: character '\\udcff' is not allowed"),
    ],
)
def test_a_bad_set_is_named_as_it_was_given(argument: str, message: str) -> None:
    """No line number: there is no file."""
    problems = sets(argument)[1]

    assert len(problems) == 1
    assert problems[0].startswith(message), problems[0]


def test_a_key_set_twice_is_refused() -> None:
    """No option is ignored."""
    assert sets("a.b=1", "a.b=2")[1] == ["--set a.b=2: a.b: is set twice, first by --set a.b=1; keep one"]
    assert "is set twice" in sets("a=1", "a.b=2")[1][0]


def test_values_given_in_code_may_be_paths_but_no_objects() -> None:
    """What a recipe cannot hold is refused with its key."""
    problems: list[Problem] = []
    found = node_from_python({"a": Path("x"), "b": [object()], 3: 1, "c": b"x"}, Origin("overrides"), problems)

    assert plain_value(found)["a"] == "x"
    assert [str(problem) for problem in problems] == [
        "overrides: b[0]: a recipe cannot hold a object; give a number, a string or a list",
        "overrides: keys must be strings, found 3",
        "overrides: c: a recipe cannot hold a bytes; give a number, a string or a list",
    ]
