"""Writes the package of a new plugin: one class of one kind, a test by the kit, a recipe, the commands.

A section of a report has an experiment in place of the recipe.

The files beside this one are its templates: those without a kind in their name are part of every package.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

import attrs

import caddtree
from caddtree.core.errors import PluginError
from caddtree.plugins.hooks import PROJECT_NAME, Kind
from caddtree.plugins.nodes import Origin, ScalarNode, shown
from caddtree.plugins.registry import Registry
from caddtree.plugins.yaml_reader import read_text

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST_NAME = 40
"""The name stands in file names and within lines of code."""

_IN_WORDS: Mapping[Kind, str] = {"preprocessor": "pre-processor"}
"""Kinds whose name in a sentence is not their own word with spaces."""
_STAGE_USE = "The last decodes with it; the text is the target's own whatever it does."
_USES: Mapping[Kind, str] = {
    "observer": "The last decodes with it; it changes no token, but may say which one is the last.",
    "preprocessor": "The last decodes by a recipe that names it.",
    "report_section": "The fourth runs a small experiment, and the last writes its report, with the section in it.",
}
"""What the last commands do."""


@attrs.frozen
class Scaffold:
    """A plugin that is about to be written."""

    name: str
    """What recipes, or experiments, call it."""
    kind: Kind

    @property
    def distribution(self) -> str:
        """The name that installers know."""
        return f"{PROJECT_NAME}-{self.name.replace('_', '-')}"

    @property
    def module(self) -> str:
        """The module that holds the strategy."""
        return self.distribution.replace("-", "_")

    @property
    def class_name(self) -> str:
        """The strategy's class; it ends with the kind, so that it hides nothing that the module imports."""
        return "".join(word.capitalize() for word in re.split("[-_]", f"{self.name}_{self.kind}"))

    @property
    def commands(self) -> tuple[str, ...]:
        """What to type in the package's folder, in order."""
        use: tuple[str, ...] = (f'{PROJECT_NAME} generate "def main(" --recipe {self.name}.yaml',)
        if self.kind == "report_section":
            use = (f"{PROJECT_NAME} sweep {self.name}.yaml", f"{PROJECT_NAME} report runs/{self.name}")
        return (
            "python -m pip install --editable '.[test]'",
            "python -m pytest",
            f"{PROJECT_NAME} plugins list {self.name}",
            *use,
        )

    @property
    def requirement(self) -> str:
        """What the package needs of caddtree; a report is drawn by an extra."""
        extra = "[report]" if self.kind == "report_section" else ""
        return f"{PROJECT_NAME}{extra}>={caddtree.__version__}"

    def files(self) -> dict[str, str]:
        """Return the text of every file by its path in the package."""
        templates = {
            "pyproject.toml": "pyproject.toml",
            "README.md": "README.md",
            f"{self.module}.py": f"{self.kind}.py",
            f"{self.name}.yaml": f"{self.kind}.yaml",
            f"tests/test_{self.module}.py": f"{self.kind}_test.py",
        }
        return {path: self._filled(template) for path, template in templates.items()}

    def _filled(self, template: str) -> str:
        text = files(__name__).joinpath(f"{template}.template").read_text(encoding="utf-8")
        return Template(text).substitute(
            name=self.name,
            kind=self.kind,
            kind_in_words=_IN_WORDS.get(self.kind, self.kind.replace("_", " ")),
            class_name=self.class_name,
            module=self.module,
            distribution=self.distribution,
            requirement=self.requirement,
            use=_USES.get(self.kind, _STAGE_USE),
            commands="\n".join(f"    {command}" for command in self.commands),
        )


def write_plugin(scaffold: Scaffold, folder: Path, registry: Registry) -> list[Path]:
    """Write the package into ``folder``, which is made, and return its files.

    Args:
        scaffold: What is written.
        folder: Where the files go; one that exists must be empty.
        registry: Knows which names are taken.

    Raises:
        PluginError: If the name cannot be used, or there is something in the folder.
    """
    problem = next(_problems(scaffold, registry), None)
    if problem is not None:
        raise PluginError(problem)
    if folder.exists() and not folder.is_dir():
        raise PluginError(f"the folder {folder} is a file; choose another --folder")
    if folder.exists() and any(folder.iterdir()):
        raise PluginError(
            f"the folder {folder} is not empty, and nothing in it is overwritten; choose another --folder"
        )
    written = []
    for path, text in scaffold.files().items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # never over what somebody else writes meanwhile
        with target.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        written.append(target)
    return written


def _problems(scaffold: Scaffold, registry: Registry) -> Iterator[str]:
    """Yield why a name cannot be used."""
    name, kind = scaffold.name, scaffold.kind
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        yield (
            f"the name of a plugin must be at most {_LONGEST_NAME} lower-case letters and digits in words joined by "
            f"'-' or '_', a letter first, found {shown(name)}; choose one such as wide-tree"
        )
        return
    in_recipe = read_text(name, Origin("the name")).root
    if not isinstance(in_recipe, ScalarNode) or in_recipe.value != name:
        yield f"{shown(name)} is no word in a recipe, where YAML reads it as another value; choose another name"
    if name in registry.names(kind):
        yield f"{kind} {shown(name)} is that of {registry.info(kind, name).provider}; choose another name"
    if importlib.util.find_spec(scaffold.module) is not None:
        yield f"a module {scaffold.module} is installed already; choose another name than {shown(name)}"
