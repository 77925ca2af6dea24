"""What every pre-processor of recipes promises."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import pytest

from caddtree.core.errors import CaddtreeError, one_line
from caddtree.plugins.hooks import STAGES, Kind, hookimpl
from caddtree.plugins.nodes import Origin, Problem, node_from_python
from caddtree.plugins.preprocessing import SECTION, Preprocessor
from caddtree.plugins.recipe import Recipe, load_recipe
from caddtree.plugins.registry import Provider, Registry
from caddtree.testing.claims import BrokenContractError, must_work, require
from caddtree.testing.speed import check_speed
from caddtree.testing.strategy_contract import Contract

Make = Callable[[], Any]
"""A new strategy of the options under test."""

ODD: dict[str, dict[str, Any]] = {
    "nothing at all": {},
    "a target alone": {"target": {"model": "../models/target"}},
    "no target": {"drafter": {"name": "ngram"}, "generation": {"temperature": 0.7}},
    "empty sections": {name: {} for name in ("target", *STAGES, "runtime", "generation")},
    "sections without a value": dict.fromkeys(("description", "target", *STAGES, "observers", "generation")),
    "numbers for sections": dict.fromkeys(("description", "target", *STAGES, "observers", "generation"), 7),
    "words for sections": dict.fromkeys(("target", *STAGES, "observers", "runtime", "generation"), "fast"),
    "lists for sections": {name: [1, {"name": "x"}] for name in ("target", *STAGES, "observers", "generation")},
    "mappings where lists and words belong": {"description": {"text": "x"}, "observers": {"name": "x"}},
    "options of other types": {
        "target": {"model": 7, "dtype": ["float32"], "device": None},
        "drafter": {"name": None, "model": {"folder": "x"}},
        "tree_builder": {"name": ["ddtree"], "node_budget": "many"},
        "generation": {"stop": "x", "max_new_tokens": -1, "seed": 2**70, "temperature": True},
    },
    "unknown sections and options": {"tagret": {"model": "x"}, "target": {"modle": "x"}, "": {"": ""}},
    "texts of every kind": {
        "description": "$HOME ${HOME} ${} {name} %s %(name)s ~ \\ \n né → 四",
        "generation": {"stop": ["", "${", "}", "{{ x }}", "\x00"]},
        "observers": ["loop", {"name": "log", "path": "./a b"}, 3, None],
    },
}
"""What people write before it is checked: a pre-processor runs first."""

_MOST_SHOWN = 100


@attrs.frozen
class _NoChanges:
    """A recipe was refused, or the pre-processor failed over it."""

    message: str


class PreprocessorContract(Contract):
    """The contract of a pre-processor: the sections of a recipe as they were written to what is to be changed.

    A class is ``strategy = YourPreprocessor`` and, where it has options, ``options``; see :class:`Contract` for the
    rest. It is used on the recipe ``recipe`` with ``sections`` laid over it, where there must be something that it
    changes::

        sections = {"target": {"device": "${WHERE}"}}

        @pytest.fixture(autouse=True)
        def variables(self, monkeypatch):
            monkeypatch.setenv("WHERE", "cpu")
    """

    kind: ClassVar[Kind] = "preprocessor"
    recipe: ClassVar[str] = "demo"
    """A recipe that is valid without the pre-processor: a shipped one, or the path of a file."""
    sections: ClassVar[Mapping[str, Any]] = {}
    """Laid over the recipe, as overrides are; what the pre-processor looks for."""
    slowest_allowed: ClassVar[float] = 3.0
    """It may take so many times what loading the recipe takes, and a millisecond."""

    @pytest.fixture
    def target_model(self) -> Any:
        """Return nothing: recipes are read without models."""
        return None

    def observe(self, strategy: Any, target_model: Any) -> object:
        """Return the changes of all recipes."""
        return [self._processed_or_refused(strategy, sections) for sections in self._recipes().values()]

    def test_it_is_a_preprocessor(self, make: Make) -> None:
        """It has the method."""
        made = make()
        require(
            isinstance(made, Preprocessor) and callable(made.process),
            f"{self.strategy.__name__} needs a method process(sections)",
        )

    def test_what_it_returns_is_sections(self, make: Make) -> None:
        """A mapping of values that a recipe can hold, whatever was written."""
        for case, sections in self._recipes().items():
            changes = self._processed_or_refused(make(), sections)
            require(
                isinstance(changes, Mapping | _NoChanges),
                f"process must return a mapping of the sections that change, found {_shown(changes)} for a recipe of "
                f"{case}. Return {{}} to change nothing.",
            )
            problems: list[Problem] = []
            if isinstance(changes, Mapping):
                node_from_python(changes, Origin("process"), problems)
            require(not problems, f"process returns what no recipe can hold: {', '.join(map(str, problems[:3]))}")

    def test_it_adds_no_section_of_its_own(self, make: Make) -> None:
        """Sections are those that a recipe has; what was written may stay as it is."""
        known = [*(field.name for field in attrs.fields(Recipe) if field.name != "label")]
        for case, sections in self._recipes().items():
            changes = self._processed_or_refused(make(), sections)
            if not isinstance(changes, Mapping):
                continue
            unknown = [str(name) for name in changes if name not in known and name not in sections]
            hint = " Which pre-processors run is said by the recipe alone." * (SECTION in unknown)
            require(
                not unknown,
                f"process adds {', '.join(unknown)} to a recipe of {case}; a recipe has the sections "
                f"{', '.join(known)}.{hint}",
            )

    @pytest.mark.parametrize("case", ODD)
    def test_a_recipe_that_is_not_complete_is_taken(self, make: Make, case: str) -> None:
        """Or refused by a CaddtreeError: it is not checked yet, and its author is to be told what is wrong with it."""
        made = make()
        try:
            made.process(copy.deepcopy(ODD[case]))
        except CaddtreeError as error:
            require(
                bool(one_line(error)), f"process refuses a recipe of {case} with {type(error).__name__} and no word"
            )
        except Exception as error:
            message = (
                f"process raised {type(error).__name__}: {one_line(error)} for a recipe of {case} "
                f"({_shown(ODD[case])}). Sections may be missing, or of any type: leave alone what is not as expected, "
                f"it is checked later, or raise RecipeError with what is wrong."
            )
            raise BrokenContractError(message) from error

    def test_the_recipe_is_left_as_it_was(self, make: Make) -> None:
        """What was written belongs to the recipe: changes are returned."""
        for case, sections in self._recipes().items():
            given = copy.deepcopy(sections)
            self._processed_or_refused(make(), given)
            changed = [name for name in {**sections, **given} if given.get(name, ...) != sections.get(name, ...)]
            require(
                not changed,
                f"process changed {', '.join(map(str, changed))} of the recipe in place ({case}). Changes are "
                f"returned: work on a copy, such as copy.deepcopy(sections).",
            )

    def test_the_same_recipe_gives_the_same_changes(self, make: Make) -> None:
        """Asked twice, and of a second pre-processor with the same options."""
        for case, sections in self._recipes().items():
            made = make()
            first = self._processed_or_refused(made, sections)
            again = {"asked twice": made, "asked of a second one with the same options": make()}
            for when, other in again.items():
                _require_same(self._processed_or_refused(other, sections), first, f"of a recipe of {case}, {when}")

    def test_it_remembers_no_recipe(self, make: Make) -> None:
        """After others it makes of a recipe what a new one makes of it."""
        used, recipes = make(), self._recipes()
        for order in (list(recipes), list(recipes)[::-1]):
            for case in order:
                fresh, found = (self._processed_or_refused(each, recipes[case]) for each in (make(), used))
                _require_same(found, fresh, f"of a recipe of {case}, after other recipes")

    def test_it_changes_a_recipe(self, make: Make) -> None:
        """Or nothing would be known about it."""
        sections = self._written()
        changes = self._processed_or_refused(make(), copy.deepcopy(sections))
        require(
            not isinstance(changes, Mapping)
            or any(sections.get(name, ...) != value for name, value in changes.items()),
            f"{self.strategy.__name__} changes nothing in the recipe {self.recipe}, so nothing can be said about it. "
            f"Give `sections` with what it looks for, or `options` by which it changes something.",
        )

    def test_the_recipe_that_comes_out_is_valid(self, make: Make) -> None:
        """As it loads it: merged, checked, and written back without the pre-processor."""
        made = make()
        with must_work(f"loading the recipe {self.recipe} through the pre-processor", "What comes out is checked."):
            found = self._load_with(made.process)
        # as it is stored with a run, and read where no plugin is installed
        again = load_recipe(found.to_mapping())
        _require_same(again.to_mapping(), found.to_mapping(), "when the recipe that came out is loaded again")

    def test_processing_is_fast(self, make: Make) -> None:
        """Once for every recipe that is loaded, against loading one."""
        made, sections = make(), self._written()
        check_speed(
            f"process of the recipe {self.recipe}",
            lambda: made.process(sections),
            lambda: load_recipe(self.recipe),
            f"loading {self.recipe}",
            self.slowest_allowed,
            "whenever a recipe is loaded",
        )

    def _recipes(self) -> dict[str, dict[str, Any]]:
        """Return all recipes of the checks, with one's own sections each."""
        return {f"`{self.recipe}` and `sections`": self._written(), **copy.deepcopy(ODD)}

    def _written(self) -> dict[str, Any]:
        """Return the sections of the recipe under test, as a pre-processor sees them."""
        return copy.deepcopy(self._read)

    @functools.cached_property
    def _read(self) -> dict[str, Any]:
        seen: list[dict[str, Any]] = []

        def look(sections: Mapping[str, Any]) -> Mapping[str, Any]:
            seen.append(dict(sections))
            return {}

        # what comes behind may be refused: placeholders stand where numbers belong
        with contextlib.suppress(CaddtreeError):
            self._load_with(look)
        require(bool(seen), f"the recipe {self.recipe} of the contract class cannot be read")
        return seen[0]

    def _processed_or_refused(self, made: Any, sections: dict[str, Any]) -> Any:
        """Return the changes, or why there are none; whether that may be is for one check alone to judge."""
        try:
            return made.process(sections)
        except Exception as error:
            return _NoChanges(f"{type(error).__name__}: {one_line(error)}")

    def _load_with(self, process: Callable[[Mapping[str, Any]], Any]) -> Recipe:
        """Return the recipe under test, through one function as its only pre-processor."""
        registry = Registry()
        registry.load_built_in()
        registry.load_entry_points()
        under_test = attrs.frozen(type("UnderTest", (), {"process": staticmethod(process), "__doc__": "Under test."}))
        hook = hookimpl(lambda registry: registry.add("under-test", under_test))
        registry.load_plugin(
            types.SimpleNamespace(register_preprocessors=hook), Provider("under-test", "", "under-test")
        )
        return load_recipe(self.recipe, {**self.sections, SECTION: ["under-test"]}, registry=registry)


def _require_same(found: object, expected: object, when: str) -> None:
    require(
        found == expected,
        f"process gave {_shown(found)} and {_shown(expected)} {when}. What comes out follows from the recipe, the "
        f"options and the environment alone: no chance, no clock, and nothing kept from other recipes.",
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
