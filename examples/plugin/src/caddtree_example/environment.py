"""Fills variables of the environment into a recipe: one file for a laptop, a cluster and a container."""

import os
import re
from collections.abc import Mapping
from typing import Any

import attrs
from attrs.validators import instance_of
from caddtree.core.errors import RecipeError
from caddtree.plugins.hooks import KindRegistry, hookimpl

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
            return _VARIABLE.sub(lambda found: self._looked_up(found, path), value)
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


@hookimpl
def register_preprocessors(registry: KindRegistry) -> None:
    """Register the variables of the environment."""
    registry.add("environment", Environment)
