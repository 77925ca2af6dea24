"""The pre-processor keeps its contract, fills variables into texts, and says which one is missing."""

import caddtree
import pytest
from caddtree import CaddtreeError
from caddtree.testing import PreprocessorContract

from caddtree_example.environment import Environment


class TestEnvironment(PreprocessorContract):
    strategy = Environment
    sections = {"target": {"device": "${WHERE}"}, "generation": {"seed": "${SEED:-7}"}}
    other_options = {"prefix": "APP_"}

    @pytest.fixture(autouse=True)
    def variables(self, monkeypatch):
        """Set what the recipe needs, another value with the prefix."""
        monkeypatch.setenv("WHERE", "cpu")
        monkeypatch.setenv("APP_WHERE", "auto")


def loaded(**sections):
    """Return a recipe on the demo pair."""
    return caddtree.load_recipe("demo", {"preprocessors": ["environment"], **sections})


def test_a_variable_is_filled_in_wherever_a_text_stands(monkeypatch):
    """Also in the middle of a text, and in a list; the pre-processor itself is gone from the recipe."""
    monkeypatch.setenv("WHERE", "cpu")
    monkeypatch.setenv("END", "###")
    recipe = loaded(target={"device": "${WHERE}"}, generation={"stop": ["<${END}>"]})

    assert recipe.target.device == "cpu"
    assert recipe.generation.stop == ("<###>",)
    assert "preprocessors" not in recipe.to_mapping()


def test_a_default_stands_in_for_a_variable_that_is_not_set(monkeypatch):
    """Also with a prefix, which the recipe leaves out."""
    monkeypatch.delenv("WHERE", raising=False)
    monkeypatch.setenv("APP_WHERE", "cpu")

    assert loaded(target={"device": "${WHERE:-cpu}"}).target.device == "cpu"
    prefixed = [{"name": "environment", "prefix": "APP_"}]
    assert loaded(preprocessors=prefixed, target={"device": "${WHERE}"}).target.device == "cpu"


def test_a_missing_variable_is_named_with_its_place(monkeypatch):
    """And how to do without it."""
    monkeypatch.delenv("WHERE", raising=False)
    with pytest.raises(
        CaddtreeError, match=r"target\.device needs the variable WHERE; set it, or write \$\{WHERE:-WORD\}"
    ):
        loaded(target={"device": "${WHERE}"})
