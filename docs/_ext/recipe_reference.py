"""``{recipe-reference}``: the sections, strategies and options of a recipe, from their classes and the registry.

Only what is built in, so that the page does not depend on what is installed beside caddtree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from caddtree.core.options import GenerationOptions, RuntimeOptions
from caddtree.plugins import hooks
from caddtree.plugins.hooks import KINDS, Kind
from caddtree.plugins.options import OptionInfo, one_line_doc, options_of
from caddtree.plugins.recipe import DEFAULT_STRATEGIES
from caddtree.plugins.recipe_schema import recipe_schema
from caddtree.plugins.recipe_sections import TargetOptions
from caddtree.plugins.registry import Registry, StrategyInfo
from caddtree.plugins.strict_types import type_words

_BEFORE = {"target": TargetOptions}
_BEHIND = {"runtime": RuntimeOptions, "generation": GenerationOptions}


def reference() -> str:
    """Return the reference as Markdown, in the order of a recipe."""
    registry = Registry()
    registry.load_built_in()
    strategies = registry.describe()
    keys = recipe_schema(registry)["properties"]
    parts = [_section(name, section) for name, section in _BEFORE.items()]
    for kind in KINDS:
        infos = [info for info in strategies if info.kind == kind]
        # a stage is a key of its own name; what a recipe lists has the plural; the rest is no matter of recipes
        key = next((key for key in (kind, f"{kind}s") if key in keys), None)
        if infos and key:
            parts.append(_kind(kind, key, infos))
    parts += [_section(name, section) for name, section in _BEHIND.items()]
    return "\n\n".join(parts) + "\n"


def _section(name: str, section: type) -> str:
    return f"## `{name}`\n\n{_prose(one_line_doc(section))}\n\n{_options(options_of(section))}"


def _kind(kind: Kind, key: str, infos: Iterable[StrategyInfo]) -> str:
    default = {**DEFAULT_STRATEGIES}.get(kind)
    said = "" if key != kind else f"`{default}` where a recipe names none." if default else "A recipe has to name one."
    parts = [f"## `{key}`", _kind_doc(kind), said]
    for info in infos:
        parts += [f"### `{info.name}`", _prose(info.doc), _options(info.options)]
    return "\n\n".join(part for part in parts if part)


def _kind_doc(kind: Kind) -> str:
    """Return what strategies of a kind do, in the words of the hook that registers them."""
    doc = getattr(getattr(hooks, f"register_{kind}s", None), "__doc__", None) or ""
    words = doc.split("\n\n")[0].strip().removeprefix("Add ")
    return _prose(words[:1].upper() + words[1:])


def _options(options: Iterable[OptionInfo]) -> str:
    rows = list(_rows(options))
    if not rows:
        return "No options."
    return "\n".join(["| option | type | default | meaning |", "|---|---|---|---|", *rows])


def _rows(options: Iterable[OptionInfo]) -> Iterator[str]:
    for option in options:
        default = "required" if option.is_required else f"`{_yaml(option.default)}`"
        cells = (f"`{option.name}`", _type(option.type), default, _prose(option.doc))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(annotation: Any) -> str:
    """Return a type in the words of a recipe's errors, its values as code."""
    words = type_words(annotation)
    if not words.startswith("one of "):
        return words
    return "one of " + ", ".join(f"`{value}`" for value in words.removeprefix("one of ").split(", "))


def _yaml(value: Any) -> str:
    """Return a default as a recipe would write it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value)


def _prose(text: str) -> str:
    """Return the text of a docstring as Markdown: roles become code, double backticks single ones."""
    text = re.sub(r":\w+(?::\w+)?:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`").replace(" -> ", " → ")


class RecipeReference(SphinxDirective):
    """The directive."""

    def run(self) -> list[nodes.Node]:
        """Return the reference as parsed Markdown."""
        return self.parse_text_to_nodes(reference(), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("recipe-reference", RecipeReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
