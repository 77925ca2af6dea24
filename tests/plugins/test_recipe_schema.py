"""The JSON Schema of recipes: says yes to every sound recipe, and no where a schema can know better."""

from __future__ import annotations

import enum
import json
import math
import types
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from attrs.validators import ge, in_, le, lt, min_len, optional
from jsonschema import Draft202012Validator

from caddtree.core.options import GenerationOptions, RuntimeOptions
from caddtree.plugins.hooks import STAGES, KindRegistry, hookimpl
from caddtree.plugins.nodes import MappingNode, Origin, Problem, node_from_python, plain_value
from caddtree.plugins.options import OptionInfo, check_options, options_of
from caddtree.plugins.recipe import load_recipe, shipped_recipes
from caddtree.plugins.recipe_schema import recipe_schema
from caddtree.plugins.recipe_sections import TargetOptions
from caddtree.plugins.registry import Provider, Registry, default_registry
from caddtree.plugins.yaml_reader import read_text
from tests.plugins.fakes import Line, fake_registry, plugin
from tests.plugins.test_recipe_errors import BROKEN, BUILDER, DRAFTER, GOOD, TARGET

VISIBLE = (
    "type", "type-bool", "type-float", "type-quoted", "type-list", "range", "range-target", "range-generation",
    "unknown-key", "unknown-section", "unknown-kind", "missing-key", "missing-name", "missing-drafter",
    "missing-target", "wrong-nesting", "wrong-nesting-list", "empty-section", "nested-option", "name-is-a-number",
    "no", "octal-look", "sexagesimal", "empty", "only-comments", "list-at-top", "scalar-at-top", "long-value",
    "remote-code", "empty-model", "stop-is-text", "stop-of-numbers", "description",
)  # fmt: skip
"""Of the broken recipes, those that are broken in what a schema sees: keys, types and bounds, not the YAML itself."""


def parsed(text: str) -> Any:
    root = read_text(text, Origin("recipe")).root
    return None if root is None else plain_value(root)


def complaints(content: Any, registry: Registry | None = None) -> list[str]:
    validator = Draft202012Validator(recipe_schema(registry))
    return [error.message for error in validator.iter_errors(content)]


@pytest.fixture(scope="module")
def fakes() -> Registry:
    return fake_registry()


def test_it_is_a_schema_of_draft_2020_12() -> None:
    """By its own meta-schema; every reference leads somewhere."""
    schema = recipe_schema()
    text = json.dumps(schema)

    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for part in text.split('"$ref": "#/$defs/')[1:]:
        assert part.partition('"')[0] in schema["$defs"]


def test_the_same_installation_gives_the_same_text() -> None:
    """Byte for byte, JSON without infinities."""
    first, second = (json.dumps(recipe_schema(), indent=2, allow_nan=False) for _ in range(2))

    assert first == second


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    """As it stands in its file, and, where it is whole, as ``recipe show`` prints it."""
    assert complaints(parsed(shipped_recipes()[name].read_text(encoding="utf-8"))) == []
    if name != "base":
        assert complaints(load_recipe(name).to_mapping()) == []


@pytest.mark.parametrize("kind", STAGES)
def test_every_strategy_with_its_defaults_is_valid(kind: str) -> None:
    """Inside a whole recipe, and inside one that extends another."""
    for info in default_registry().describe():
        if info.kind != kind:
            continue
        options = {option.name: "x" if option.is_required else option.default for option in info.options}
        stage = json.loads(json.dumps({"name": info.name, **options}))
        whole = {"target": {"model": "m"}, "drafter": {"name": "none"}, kind: stage}

        assert complaints(whole) == []
        assert complaints({"extends": "demo", kind: stage}) == []
        assert complaints({"extends": "demo", kind: {**stage, "nonsense": 1}}) != []


@pytest.mark.parametrize("name", VISIBLE)
def test_a_broken_recipe_is_refused(name: str, fakes: Registry) -> None:
    """The same recipes that loading refuses."""
    content = BROKEN[name][0]
    assert isinstance(content, str)

    assert complaints(parsed(content), fakes) != []


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        BUILDER + "  max_node_budget: 1\n  search: first_stop\n  share: 1\n  weights: [1, 0.5]\n  table: null\n",
        GOOD + "tree_builder: {max_node_budget: 5}\n",  # of the default builder
        GOOD + "generation: {temperature: 0.5, stop: [END], top_p: 1}\nruntime: {buckets: [1, 8]}\n",
        "extends: ./other.yaml\n",
        "extends: demo\ndrafter: {draft_length: 3}\n",
        "extends: demo\ndrafter: {name: dflash, draft_length: 3}\n",  # the model may come from what is extended
        "extends: demo\ntarget: {dtype: bfloat16}\ndescription: null\n",
        "tree_builder: {name: chain}\n",  # a fragment
    ],
)
def test_a_sound_recipe_is_not_complained_about(text: str, fakes: Registry) -> None:
    """Whole ones, fragments, and changes of another recipe."""
    assert complaints(parsed(text), fakes) == []


@pytest.mark.parametrize(
    "text",
    [
        "extends: demo\ntree_builder: {nod_budget: 5}\n",
        "extends: demo\ntree_builder: {name: chain, max_node_budget: 5}\n",
        "extends: ''\n",
        GOOD + "tree_builder: {length: 5}\n",  # of the chain, but the default is another
        TARGET + "drafter: {name: none, model: d}\n",
        "target: {dtype: float32}\n" + DRAFTER,
    ],
)
def test_a_key_of_another_strategy_is_refused(text: str, fakes: Registry) -> None:
    """Options go with the name, or with the default of the stage."""
    assert complaints(parsed(text), fakes) != []


def test_strategies_of_plugins_appear_with_their_options() -> None:
    """As soon as they are registered, with the types of their options."""
    fakes = fake_registry()
    whole = {"target": {"model": "m"}, "drafter": {"name": "none"}}
    before = complaints({**whole, "tree_builder": {"name": "odd", "length": 3}}, fakes)
    fakes.load_plugin(plugin(tree_builder={"odd": Line}), Provider("odd-plugin", "1", "odd"))

    assert before != []
    assert complaints({**whole, "tree_builder": {"name": "odd", "length": 3}}, fakes) == []
    assert complaints({**whole, "tree_builder": {"name": "odd", "length": "3"}}, fakes) != []
    assert "odd" in recipe_schema(fakes)["$defs"]["tree_builder"]["properties"]["name"]["enum"]
    assert "odd: Build a chain." in recipe_schema(fakes)["$defs"]["tree_builder"]["properties"]["name"]["description"]


def test_docs_and_defaults_of_options_are_in_the_schema() -> None:
    """What ``caddtree plugins`` says, an editor shows."""
    definitions = recipe_schema()["$defs"]
    for info in default_registry().describe():
        for option in info.options:
            shown = definitions[f"{info.kind}.{info.name}"]["properties"][option.name]
            assert shown["description"] == option.doc
            assert ("default" in shown) == (not option.is_required)
    assert definitions["target"]["properties"]["dtype"]["enum"] == ["float32", "bfloat16", "float16", "auto"]
    assert definitions["drafter.dflash"]["properties"]["dtype"]["enum"] == ["auto", "float32", "bfloat16", "float16"]
    assert definitions["tree_builder.caddtree"]["properties"]["max_node_budget"] == {
        "description": "Draft nodes of a round at most, the root not counted.",
        "type": "integer",
        "minimum": 1,
        "default": 256,
    }


def loads(option: OptionInfo, value: Any) -> bool:
    problems: list[Problem] = []
    node = node_from_python({option.name: value}, Origin("here"), problems)
    assert isinstance(node, MappingNode)
    check_options([option], node, "part", "part x", problems)
    return not problems


def bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """Every keyword of an option, those inside ``anyOf`` too."""
    together = dict(schema)
    for part in schema.get("anyOf", []):
        together |= part
    return together


def test_every_bound_is_what_loading_says() -> None:
    """No option, built in or of a section, is bounded more tightly than its validators do, or less."""
    owners = {"target": TargetOptions, "runtime": RuntimeOptions, "generation": GenerationOptions}
    classes = owners | {f"{info.kind}.{info.name}": info.strategy_class for info in default_registry().describe()}
    definitions, found = recipe_schema()["$defs"], set()
    for name, options_class in classes.items():
        for option in options_of(options_class):
            limits = bounds(definitions[name]["properties"][option.name])
            for keyword, inside, outside in (
                ("minimum", limits.get("minimum"), limits.get("minimum", 0) - 1),
                ("exclusiveMinimum", math.ulp(1.0), 0.0),
                ("maximum", 1.0, 1.0 + 1e-6),
                ("minLength", "x", ""),
            ):
                # a string that is long enough may be wrong for other reasons
                if keyword in limits:
                    found.add((name, option.name, keyword))
                    assert keyword == "minLength" or loads(option, inside), (name, option.name)
                    assert not loads(option, outside), (name, option.name)
    assert {("generation", "top_p", "maximum"), ("generation", "top_p", "exclusiveMinimum")} <= found
    assert {("tree_builder.ddtree", "node_budget", "minimum"), ("target", "model", "minLength")} <= found


class Pace(enum.Enum):
    SLOW = "slow"
    FAST = "fast"


@attrs.frozen
class Inner:
    size: int
    label: str | None = None


def _not_below_other(instance: Any, attribute: Any, value: Any) -> None:
    if value < instance.low:
        raise ValueError


@attrs.frozen
class Everything:
    """Have an option of every type."""

    low: int = attrs.field(default=-5)
    depends: int = attrs.field(default=0, validator=_not_below_other)
    share: float = attrs.field(default=0.5, validator=[ge(0), le(1)])
    below: int = attrs.field(default=0, validator=lt(2))
    word: str = attrs.field(default="a", validator=in_(["a", "b"]))
    maybe: str | None = attrs.field(default=None, validator=optional(min_len(1)))
    many: list[int] = attrs.field(factory=list)
    pair: tuple[int, str] = (1, "x")
    table: dict[str, float] = attrs.field(factory=dict)
    inner: Inner | None = None
    pace: Pace = Pace.SLOW
    mode: Literal["x", 3] = "x"
    anything: Any = None
    endless: float = math.inf
    converted: int = attrs.field(default=1, converter=abs, validator=ge(0))

    needs_cost_model = False

    def build(self, marginals: Any, context: Any) -> None: ...


@pytest.fixture(scope="module")
def everything() -> Any:
    registry = fake_registry()
    registry.load_plugin(plugin(tree_builder={"everything": Everything}), Provider("p", "1", "p"))
    whole = {"target": {"model": "m"}, "drafter": {"name": "none"}}
    return lambda **options: complaints({**whole, "tree_builder": {"name": "everything", **options}}, registry)


@pytest.mark.parametrize(
    ("option", "sound", "wrong"),
    [
        ("depends", [-3, 9], ["x"]),  # depends on another option: loading judges
        ("share", [0, 0.5, 1], [-0.5, 1.5]),
        ("below", [-7, 1], [1.5]),
        ("word", ["a", "b"], ["c", 1]),
        ("maybe", [None, "x"], ["", 1]),
        ("many", [[], [1, 2]], [1, ["x"]]),
        ("pair", [[1, "x"]], [[1], [1, "x", 2], ["x", 1]]),
        ("table", [{}, {"a": 1}], [{"a": "b"}, []]),
        ("inner", [None, {"size": 1}, {"size": 1, "label": "l"}], [{}, {"size": 1, "lable": "l"}]),
        ("pace", ["slow"], ["slower"]),
        ("mode", ["x", 3], ["3", 4]),
        ("anything", [1, "x", None, []], []),
        ("endless", [1.5], ["x"]),
        ("converted", [-3, 3], ["x"]),
    ],
)
def test_every_type_of_option_has_a_schema(everything: Any, option: str, sound: list[Any], wrong: list[Any]) -> None:
    """Lists, tables, unions, enums, nested classes, and bounds only where they hold."""
    assert [value for value in sound if everything(**{option: value})] == []
    assert [value for value in wrong if not everything(**{option: value})] == []


def test_the_schema_stands_in_no_file(tmp_path: Path) -> None:
    """It is made from what is installed, so that it cannot be out of date."""
    package = Path(recipe_schema.__code__.co_filename).parent.parent

    assert list(package.rglob("*.schema.json")) == []


def test_lists_of_observers_and_preprocessors_are_checked_entry_by_entry() -> None:
    """A name, or a mapping with a name and its options; nothing where none is installed."""
    fakes = fake_registry()

    @attrs.frozen
    class Watch:
        below: int = 1

        def on_round(self, round_: object) -> None: ...

    @attrs.frozen
    class Log:
        path: str

        def on_finish(self, generation: object) -> None: ...

    def register(registry: KindRegistry) -> None:
        registry.add("watch", Watch)
        registry.add("log", Log)

    fakes.load_plugin(types.SimpleNamespace(register_observers=hookimpl(register)), Provider("p", "1", "p"))

    for observers in ("[]", "[watch]", "[{name: watch, below: 3}, {name: log, path: x}]", "null"):
        assert complaints(parsed(GOOD + f"observers: {observers}\n"), fakes) == []
    for observers in ("watch", "[wach]", "[log]", "[{below: 3}]", "[{name: watch, path: x}]", "[{name: log}]"):
        assert complaints(parsed(GOOD + f"observers: {observers}\n"), fakes) != []
    assert complaints(parsed(GOOD + "preprocessors: [watch]\n"), fakes) != []
