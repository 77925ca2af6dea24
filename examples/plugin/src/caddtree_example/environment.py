"""Fills variables of the environment into a recipe: one file for a laptop, a cluster and a container."""

import os
import re
from collections.abc import Mapping
from typing import Any

import attrs
from attrs.validators import instance_of
from caddtree.core.errors import RecipeError
from caddtree.plugins.hooks import KindRegistry, hookimpl
from caddtree.plugins.nodes import Origin, ScalarNode
from caddtree.plugins.yaml_reader import read_text

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


@attrs.frozen
class Environment:
    """Replace ``${NAME}`` in texts by the variable, and ``${NAME:-word}`` by the word where there is none."""

    prefix: str = attrs.field(default="", validator=instance_of(str))
    """What the names of variables begin with, left out in the recipe: ``APP_`` makes ``${MODEL}`` of ``APP_MODEL``."""

    def process(self, sections: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the sections with every variable filled in."""
        return {name: self._filled(value, name) for name, value in sections.items()}

    def _filled(self, value: Any, path: str) -> Any:
        if isinstance(value, str):
            filled = _VARIABLE.sub(lambda found: self._looked_up(found, path), value)
            # a value that is nothing but a variable may be a number, and is read as if it stood in the file
            return _as_written(filled) if _VARIABLE.fullmatch(value) else filled
        if isinstance(value, list):
            return [self._filled(item, f"{path}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self._filled(item, f"{path}.{key}") for key, item in value.items()}
        return value

    def _looked_up(self, found: re.Match[str], path: str) -> str:
        name = self.prefix + found[1]
        value = os.environ.get(name, found[2])
        if value is None:
            raise RecipeError(f"{path} needs the variable {name}; set it, or write ${{{found[1]}:-WORD}}")
        return value


def _as_written(text: str) -> Any:
    node = read_text(text, Origin("the environment")).root
    return node.value if isinstance(node, ScalarNode) else text


@hookimpl
def register_preprocessors(registry: KindRegistry) -> None:
    """Register the variables of the environment."""
    registry.add("environment", Environment)
