"""What the site makes from the code: the reference of recipes, that of the command line, links out of the pages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import attrs
import pytest
from sphinx.application import Sphinx

from caddtree.core.options import GenerationOptions, RuntimeOptions
from caddtree.plugins.options import options_of
from caddtree.plugins.recipe_sections import TargetOptions
from caddtree.plugins.registry import Registry

ROOT = Path(__file__).parents[2]
EXTENSIONS = ROOT / "docs" / "_ext"


def extension(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_ext_{name}", EXTENSIONS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipes():
    return extension("recipe_reference")


@pytest.fixture(scope="module")
def commands():
    return extension("command_line").reference()


def rows(text: str) -> list[list[str]]:
    lines = [line.replace("\\|", "/") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_reference_names_every_section_strategy_and_option(recipes):
    """In the order of a recipe, with a meaning each: what is not documented in the class is missing on the page."""
    registry = Registry()
    registry.load_built_in()
    text = recipes.reference()
    sections = [line[4:-1] for line in text.splitlines() if line.startswith("## ")]
    in_recipes = [info for info in registry.describe() if {info.kind, f"{info.kind}s"} & set(sections)]
    options = [option for info in in_recipes for option in info.options]
    options += [
        option for section in (TargetOptions, RuntimeOptions, GenerationOptions) for option in options_of(section)
    ]
    written = [row for row in rows(text) if row[0] != "option"]

    assert [name for name in sections if name in ("target", "drafter", "tree_builder", "cost_model", "verifier")] == [
        "target", "drafter", "tree_builder", "cost_model", "verifier",
    ]  # fmt: skip
    assert sections[-2:] == ["runtime", "generation"]
    assert {f"### `{info.name}`" for info in in_recipes} <= set(text.splitlines())
    assert sorted(row[0] for row in written) == sorted(f"`{option.name}`" for option in options)
    assert [row[0] for row in written if len(row) != 4 or not row[3]] == []


def test_the_reference_does_not_depend_on_what_is_installed(recipes, monkeypatch):
    """Strategies of plugins are not asked for, and a kind without strategies of ours has no section."""
    load = Registry.load_built_in

    def without_verifiers(self):
        load(self)
        for key in [key for key in self._strategies if key[0] == "verifier"]:
            del self._strategies[key]

    monkeypatch.setattr(Registry, "load_entry_points", lambda self: pytest.fail("looks for plugins"))
    monkeypatch.setattr(Registry, "load_built_in", without_verifiers)
    text = recipes.reference()

    assert "## `drafter`" in text
    assert "## `verifier`" not in text


def test_words_of_docstrings_become_markdown(recipes):
    """Roles, double backticks and pipes."""
    assert recipes._prose("See :class:`~caddtree.core.Round`, ``a``.") == "See `Round`, `a`."
    assert recipes._yaml((1, None, True)) == "[1, null, true]"

    @attrs.frozen
    class Options:
        shape: str = attrs.field(default="a|b", metadata={"doc": "Either | or."})

    assert rows(recipes._options(options_of(Options)))[1] == ["`shape`", "a string", "`a/b`", "Either / or."]


@pytest.mark.parametrize("command", ["generate", "recipe check", "plugins new", "train drafter", "sweep"])
def test_every_command_has_a_section(command, commands):
    """Subcommands below the command that they belong to."""
    assert f"{'#' * (1 + len(command.split()))} caddtree {command}" in commands.splitlines()


def test_every_argument_and_option_has_a_meaning(commands):
    """Help that is missing in the command line is missing here."""
    written = [row for row in rows(commands) if row[0] not in ("option", "argument")]

    assert len(written) > 60
    assert [row for row in written if not row[-1]] == []
    assert ["`--max-new-tokens INTEGER`", "", "Tokens to generate at most."] in written
    assert ["`--recipe TEXT`, `-r`", "`demo`", "A shipped recipe, or the path of a YAML file."] in written


def test_a_link_to_a_markdown_file_outside_the_pages_leads_to_a_copy(tmp_path, monkeypatch):
    """As MyST does for other files; the words of the link stay, and a page that is missing is still a warning."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    pages = tmp_path / "docs"
    (pages / "below").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# Read me\n", encoding="utf-8")
    (pages / "index.md").write_text("# Pages\n\n[gone](gone.md)\n\n```{toctree}\nbelow/page\n```\n", encoding="utf-8")
    (pages / "below" / "page.md").write_text("# Page\n\n[the *figures*](../../README.md#read-me)\n", encoding="utf-8")
    warnings = (tmp_path / "warnings.txt").open("w+", encoding="utf-8")
    site = Sphinx(
        str(pages), None, str(tmp_path / "site"), str(tmp_path / "trees"), "html", status=None, warning=warnings,
        confoverrides={"extensions": ["myst_parser", "repository_links"]},
    )  # fmt: skip
    site.build()
    sys.modules.pop("repository_links", None)
    warnings.seek(0)
    said = warnings.read()
    page = (tmp_path / "site" / "below" / "page.html").read_text(encoding="utf-8")

    assert "gone" in said
    assert "README" not in said
    assert "the <em>figures</em>" in page
    assert len(list((tmp_path / "site" / "_downloads").rglob("README.md"))) == 1
