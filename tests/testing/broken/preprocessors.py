"""Pre-processors of recipes with one fault each, around one that keeps answers short."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

import attrs
from attrs.validators import ge, instance_of

from caddtree.testing import PreprocessorContract

IS = "test_it_is_a_preprocessor"
SECTIONS = "test_what_it_returns_is_sections"
ADDS = "test_it_adds_no_section_of_its_own"
INCOMPLETE = "test_a_recipe_that_is_not_complete_is_taken"
LEFT = "test_the_recipe_is_left_as_it_was"
SAME = "test_the_same_recipe_gives_the_same_changes"
REMEMBERS = "test_it_remembers_no_recipe"
CHANGES = "test_it_changes_a_recipe"
VALID = "test_the_recipe_that_comes_out_is_valid"
FAST = "test_processing_is_fast"
OPTIONS = "test_no_option_is_ignored"


class Contract(PreprocessorContract):
    caught_by: dict[str, str]


@attrs.define(eq=False)
class Short:
    """Let no answer be longer than so many tokens."""

    most: int = attrs.field(default=48, validator=[instance_of(int), ge(1)])

    def process(self, sections: Mapping[str, Any]) -> Any:
        written = sections.get("generation", {})
        return {"generation": {"max_new_tokens": self.most}} if isinstance(written, Mapping) else {}


class TestShort(Contract):
    """It is sound itself."""

    strategy = Short
    caught_by: dict[str, str] = {}


@attrs.define(eq=False)
class WritesIntoTheRecipe(Short):
    """Changes the sections where they are."""

    def process(self, sections: Any) -> Any:
        changes = super().process(sections)
        if isinstance(sections.get("generation"), dict):
            sections["generation"].update(changes["generation"])
        return changes


class TestWritesIntoTheRecipe(Contract):
    strategy = WritesIntoTheRecipe
    caught_by = {LEFT: r"process changed generation of the recipe in place \(`demo` and `sections`\)"}


@attrs.define(eq=False)
class ReturnsNothing(Short):
    """Has done its work in place, and returns nothing."""

    def process(self, sections: Any) -> Any:
        if isinstance(sections.get("generation"), dict):
            sections["generation"].update(max_new_tokens=self.most)


class TestReturnsNothing(Contract):
    strategy = ReturnsNothing
    unobservable_options = ("most",)
    caught_by = {
        SECTIONS: "process must return a mapping of the sections that change, found None",
        LEFT: "process changed generation",
        VALID: "process must return a mapping of sections, found null",
    }


@attrs.define(eq=False)
class AddsASection(Short):
    """Keeps what it knows of a cluster in the recipe."""

    def process(self, sections: Any) -> Any:
        return {**super().process(sections), "cluster": {"nodes": self.most}}


class TestAddsASection(Contract):
    strategy = AddsASection
    caught_by = {
        ADDS: "process adds cluster to a recipe of .*; a recipe has the sections target, drafter",
        VALID: "cluster: is no section of a recipe",
    }


@attrs.define(eq=False)
class AddsAnother(Short):
    """Asks for another pre-processor."""

    def process(self, sections: Any) -> Any:
        return {**super().process(sections), "preprocessors": ["environment"]}


class TestAddsAnother(Contract):
    strategy = AddsAnother
    caught_by = {
        ADDS: "process adds preprocessors to a recipe .* Which pre-processors run is said by the recipe alone",
        VALID: "process must not return preprocessors",
    }


@attrs.define(eq=False)
class CountsOnSections(Short):
    """Believes that a recipe is complete."""

    def process(self, sections: Any) -> Any:
        return {"generation": {"max_new_tokens": min(self.most, sections["generation"]["max_new_tokens"])}}


class TestCountsOnSections(Contract):
    strategy = CountsOnSections
    caught_by = {INCOMPLETE: r"process raised KeyError: 'generation' for a recipe of nothing at all \(\{\}\)"}


@attrs.define(eq=False)
class CountsOnTypes(Short):
    """Believes that what is there has the right type."""

    def process(self, sections: Any) -> Any:
        wanted = (sections.get("generation") or {}).get("max_new_tokens", 10**6)
        return {"generation": {"max_new_tokens": min(self.most, wanted)}}


class TestCountsOnTypes(Contract):
    strategy = CountsOnTypes
    caught_by = {INCOMPLETE: "process raised AttributeError: 'int' object has .* for a recipe of numbers for sections"}


@attrs.define(eq=False)
class Chance(Short):
    """Draws a seed."""

    def process(self, sections: Any) -> Any:
        return {"generation": {"max_new_tokens": self.most, "seed": random.Random().randrange(2**40)}}


class TestChance(Contract):
    strategy = Chance
    caught_by = {
        SAME: "process gave .* asked twice. What comes out follows from the recipe",
        REMEMBERS: "process gave .* after other recipes",
        OPTIONS: "with the same options .* behave differently",
    }


@attrs.define(eq=False)
class RemembersRecipes(Short):
    """Numbers the recipes that it sees."""

    _models: list[str] = attrs.field(factory=list, init=False)

    def process(self, sections: Any) -> Any:
        name = repr(sections)
        if name not in self._models:
            self._models.append(name)
        return {"generation": {"max_new_tokens": self.most, "seed": self._models.index(name)}}


class TestRemembersRecipes(Contract):
    strategy = RemembersRecipes
    caught_by = {REMEMBERS: "process gave .*'seed': 1.* after other recipes"}


@attrs.define(eq=False)
class ChangesNothing:
    """Is not written yet."""

    def process(self, sections: Any) -> Any:
        return dict(sections)


class TestChangesNothing(Contract):
    strategy = ChangesNothing
    caught_by = {CHANGES: "ChangesNothing changes nothing in the recipe demo.*Give `sections`"}


@attrs.define(eq=False)
class WritesWords(Short):
    """Writes a number as a word."""

    def process(self, sections: Any) -> Any:
        return {"generation": {"max_new_tokens": str(self.most)}}


class TestWritesWords(Contract):
    strategy = WritesWords
    caught_by = {VALID: "loading the recipe demo through the pre-processor must work.*max_new_tokens: must be"}


@attrs.define(eq=False)
class HoldsObjects(Short):
    """Returns what no file can hold."""

    def process(self, sections: Any) -> Any:
        return {"generation": {"max_new_tokens": self.most, "stop": {"###"}}}


class TestHoldsObjects(Contract):
    strategy = HoldsObjects
    caught_by = {
        SECTIONS: "process returns what no recipe can hold: .*generation.stop: a recipe cannot hold a set",
        VALID: "a recipe cannot hold a set",
    }


@attrs.define(eq=False)
class Slow(Short):
    """Asks a hub about the model."""

    def process(self, sections: Any) -> Any:
        target = sections.get("target")
        if isinstance(target, Mapping) and "demo" in str(target.get("model")):
            time.sleep(0.3)
        return super().process(sections)


class TestSlow(Contract):
    strategy = Slow
    caught_by = {FAST: "process of the recipe demo is too slow: .* It runs whenever a recipe is loaded"}


@attrs.define(eq=False)
class NoMethod(Short):
    """``process`` is nothing yet."""

    process = None


class TestNoMethod(Contract):
    strategy = NoMethod
    unobservable_options = ("most",)
    caught_by = {
        IS: r"NoMethod needs a method process\(sections\)",
        INCOMPLETE: "TypeError: 'NoneType' object is not callable",
        VALID: "TypeError: 'NoneType' object is not callable",
        FAST: "TypeError: 'NoneType' object is not callable",
    }


@attrs.define(eq=False)
class IgnoresAnOption(Short):
    """Offers a mode and looks at it nowhere."""

    strict: bool = attrs.field(default=False, validator=instance_of(bool))


class TestIgnoresAnOption(Contract):
    strategy = IgnoresAnOption
    caught_by = {OPTIONS: r"IgnoresAnOption ignores strict \(tried True\)"}
