from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from attrs.validators import ge

from caddtree.plugins.nodes import MappingNode, Origin, Problem, node_from_python
from caddtree.plugins.options import check_options, constructor_arguments, nearest, options_of
from tests.plugins.fakes import Adaptive, Block


def check(strategy_class: type, **values: Any) -> tuple[dict[str, Any], list[str]]:
    problems: list[Problem] = []
    node = node_from_python(values, Origin("here"), problems)
    assert isinstance(node, MappingNode)
    return check_options(options_of(strategy_class), node, "part", "part x", problems), [str(p) for p in problems]


def test_options_are_the_public_fields_of_the_constructor() -> None:
    """Private fields and those outside the constructor are none."""
    assert [option.name for option in options_of(Block)] == ["model", "draft_length"]


def test_defaults_are_filled_in_and_the_order_is_that_of_the_class() -> None:
    """A checked section says everything that the strategy will run with."""
    values, problems = check(Adaptive, low=1, search="first_stop")

    assert problems == []
    assert list(values) == ["max_node_budget", "search", "share", "exact", "low", "high", "weights", "table"]
    assert (values["search"], values["max_node_budget"], values["weights"]) == ("first_stop", 256, [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_node_budget": True}, "part.max_node_budget: must be an integer, found true, a bool"),
        (
            {"max_node_budget": "64"},
            "part.max_node_budget: must be an integer, found '64', a string; remove the quotes",
        ),
        ({"max_node_budget": 6.0}, "part.max_node_budget: must be an integer, found 6.0, a float"),
        ({"max_node_budget": None}, "part.max_node_budget: must be an integer, found null"),
        ({"max_node_budget": 0}, "part.max_node_budget: must be >= 1: 0"),
        ({"share": True}, "part.share: must be a number, found true, a bool"),
        ({"share": "x"}, "part.share: must be a number, found 'x', a string"),
        ({"exact": 1}, "part.exact: must be true or false, found 1, an integer"),
        ({"exact": "no"}, "part.exact: must be true or false, found 'no', a string"),
        ({"search": "scna"}, "part.search: must be one of scan, first_stop, found 'scna', a string"),
        ({"weights": 1.0}, "part.weights: must be a list, each a number, found 1.0, a float"),
        ({"weights": "ab"}, "part.weights: must be a list, each a number, found 'ab', a string; write ['ab']"),
        ({"weights": [1, "x"]}, "part.weights[1]: must be a number, found 'x', a string"),
        ({"wieghts": []}, "part.wieghts: is no option of part x; did you mean weights?"),
        ({"high": 3, "low": 4}, "part.high: must be at least low, found 3 below 4"),
        ({"table": {"a": 1}}, "part.table: must be a string or null, found a mapping of 1 keys"),
    ],
)
def test_a_wrong_value_says_what_was_found_and_what_is_allowed(values: dict[str, Any], message: str) -> None:
    """No value is converted to fit, but an integer to a float."""
    found, problems = check(Adaptive, **values)

    assert len(problems) == 1, problems
    assert problems[0].startswith(f"here: {message}")
    assert problems[0].split(":")[1].removeprefix(" part.").split("[")[0] not in found


def test_a_mutable_default_is_copied() -> None:
    """What one recipe does to its list is not seen by the next."""
    options = options_of(Adaptive)
    node = node_from_python({}, Origin("here"), [])
    assert isinstance(node, MappingNode)
    check_options(options, node, "part", "part x", [])["weights"].append(1)

    assert check_options(options, node, "part", "part x", [])["weights"] == []


def test_a_missing_option_is_named_with_its_type() -> None:
    """A required option has no default to fall back on."""
    assert check(Block)[1] == ["here: part.model: is missing; part x needs it, a string"]


def test_a_validator_that_looks_at_a_wrong_option_adds_no_noise() -> None:
    """``high`` is compared with ``low``, which is reported alone."""
    assert check(Adaptive, low="x")[1] == ["here: part.low: must be an integer, found 'x', a string"]


def test_paths_refer_to_the_folder_of_the_recipe(tmp_path: Path) -> None:
    """``./`` and ``../`` only; a hub id stays what it is."""
    problems: list[Problem] = []
    node = node_from_python({"model": "../x"}, Origin("here", folder=tmp_path / "a"), problems)
    assert isinstance(node, MappingNode)

    assert check_options(options_of(Block), node, "part", "part x", problems)["model"] == str(tmp_path / "x")
    assert check(Block, model="org/name")[0]["model"] == "org/name"
    assert check(Adaptive, table="./t.json")[0]["table"] == str(Path.cwd() / "t.json")
    assert check(Adaptive, table="t.json")[0]["table"] == "t.json"


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "pt", "pth", "bin", "joblib", "npy", "npz", "py", "PT"])
def test_ft_15_files_that_could_run_code_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    """FT-15: neither a drafter nor a table is ever read from a pickle; the file is not opened."""
    path = tmp_path / f"weights.{suffix}"

    for problems in (check(Block, model=str(path))[1], check(Adaptive, table=str(path))[1]):
        assert len(problems) == 1
        assert "only safetensors and JSON are read" in problems[0]


def test_ft_16_remote_code_cannot_be_asked_for() -> None:
    """FT-16: there is no option for it, and the refusal says so."""
    problems = check(Block, model="x", trust_remote_code=True)[1]

    assert problems == [
        "here: part.trust_remote_code: is refused: caddtree never runs code from a model folder; remove the key"
    ]


def test_constructor_arguments_have_the_declared_types() -> None:
    """Lists, literals, tuples, tables, paths and nested classes of options."""

    @attrs.frozen
    class Inner:
        size: int = 1

    @attrs.frozen
    class Rich:
        pair: tuple[int, float] = (1, 2.0)
        names: tuple[str, ...] = ()
        table: dict[str, int] = attrs.field(factory=dict)
        where: Path | None = None
        mode: Literal[1, "two"] = 1
        either: int | float | str = 0
        inner: Inner = Inner()
        anything: Any = None

    Rich.__annotations__["inner"] = Inner
    attrs.resolve_types(Rich, globals(), {"Inner": Inner})
    given = {
        "pair": [3, 4],
        "names": ["a"],
        "table": {"b": 2},
        "where": "x",
        "mode": "two",
        "either": 1.5,
        "inner": {"size": 5},
        "anything": [None],
    }

    made = Rich(**constructor_arguments(Rich, given))

    assert made == Rich((3, 4.0), ("a",), {"b": 2}, Path("x"), "two", 1.5, Inner(5), [None])
    assert check(Rich, mode=True)[1] == ["here: part.mode: must be one of 1, two, found true, a bool"]
    assert check(Rich, pair=[1])[1] == ["here: part.pair: must be a list of 2, found a list of 1"]
    assert check(Rich, table={"b": "c"})[1] == ["here: part.table.b: must be an integer, found 'c', a string"]
    assert "inner" in check(Rich, inner={"size": "c"})[1][0]
    assert "sise" in check(Rich, inner={"sise": 1})[1][0]


def test_stock_validators_read_well() -> None:
    """The name in front of a message is dropped, because the path says it."""

    @attrs.frozen
    class Bounded:
        size: int = attrs.field(default=1, validator=ge(1))

    assert check(Bounded, size=0)[1] == ["here: part.size: must be >= 1: 0"]


def test_nearest_names_no_more_than_helps() -> None:
    """A hint for a typing error, none for a megabyte."""
    assert nearest("drafer", ["drafter", "target"]) == "did you mean drafter? allowed: drafter, target"
    assert nearest("x" * 1_000_000, ["drafter"]) == "allowed: drafter"
    assert nearest("x", []) == "there are none"
