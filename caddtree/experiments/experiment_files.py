"""From an experiment's YAML to an :class:`Experiment`: read, merged, expanded, every error with its place."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from caddtree.core.errors import InputError, RecipeError
from caddtree.experiments.axes import Axis, Choice, combinations, read_axes, stage_sections
from caddtree.experiments.datasets import DatasetChoice
from caddtree.experiments.definition import PLAIN, Experiment, RunOptions, Setting, Variant
from caddtree.plugins.choices import read_choices
from caddtree.plugins.hooks import STAGES
from caddtree.plugins.merging import merge, read_sets
from caddtree.plugins.nodes import (
    BrokenNode,
    Entry,
    ListNode,
    MappingNode,
    Node,
    Origin,
    Problem,
    ScalarNode,
    join_problems,
    node_from_python,
    plain_value,
    shown,
)
from caddtree.plugins.options import check_options, constructor_arguments, nearest, options_of
from caddtree.plugins.recipe import Recipe, recipe_from_layers
from caddtree.plugins.recipe_files import find_recipe, read_layers
from caddtree.plugins.registry import default_registry
from caddtree.plugins.yaml_reader import read_file
from caddtree.plugins.yaml_writer import write_yaml

_OPTIONS = tuple(field.name for field in attrs.fields(RunOptions))
_KEYS = ("description", "base", "fixed", "axes", "variants", "exclude", "baseline", "datasets", "report", *_OPTIONS)


@functools.cache
def shipped_experiments() -> dict[str, Path]:
    """Return the experiments of the package by name."""
    folder = Path(__file__).parent / "shipped"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def shipped_descriptions() -> dict[str, str]:
    """Return what each shipped experiment is about, by name."""
    found = {}
    for name, path in shipped_experiments().items():
        root = read_file(path).root
        described = root.get("description") if isinstance(root, MappingNode) else None
        found[name] = str(described.value) if isinstance(described, ScalarNode) else ""
    return found


def load_experiment(source: str | os.PathLike[str], sets: Sequence[str] = ()) -> Experiment:
    """Return a checked experiment, expanded into its variants and settings.

    Args:
        source: The name of a shipped experiment, or the path of a YAML file.
        sets: ``a.b=value`` texts that replace single keys, such as ``prompts=4`` or ``axes.temperature=[0]``.

    Raises:
        RecipeError: With every error of the file, one per line.
    """
    problems: list[Problem] = []
    path = _find(source)
    document = read_file(path)
    problems += document.problems
    if not isinstance(document.root, MappingNode):
        if not problems:
            problems.append(Problem(Origin(str(path)), "must be a mapping with base, axes and datasets"))
        raise RecipeError(join_problems(problems))
    root = merge(document.root, read_sets(list(sets), problems)) if sets else document.root
    root = attrs.evolve(root, origin=attrs.evolve(document.root.origin, line=None, column=None))
    experiment = _Reader(root, problems).read(path.stem)
    if problems or experiment is None:
        raise RecipeError(join_problems(problems))
    return experiment


def _find(source: str | os.PathLike[str]) -> Path:
    shipped = shipped_experiments()
    text = os.fspath(source)
    if text in shipped:
        return shipped[text]
    if "/" in text or text.endswith((".yaml", ".yml")) or Path(text).exists():
        return Path(text)
    raise RecipeError(
        f"there is no experiment {shown(text)}; {nearest(text, shipped)}; or give the path of a YAML file"
    )


class _Reader:
    """Reads the sections of one experiment; problems are gathered, not raised."""

    def __init__(self, root: MappingNode, problems: list[Problem]) -> None:
        self.root, self.problems = root, problems

    def read(self, label: str) -> Experiment | None:
        """Return the experiment, or None with at least one problem."""
        for key, entry in self.root.entries.items():
            if key not in _KEYS:
                self._refuse(entry.key_origin, f"is no key of an experiment; {nearest(key, _KEYS)}", shown(key)[1:-1])
        options = self._options()
        base = self._base()
        axes = read_axes(self.root.get("axes"), self.problems)
        if base is None:
            return None
        variants = self._variants(base, [axis for axis in axes if not axis.is_setting])
        settings = self._settings(base, [axis for axis in axes if axis.is_setting])
        datasets = self._datasets(options)
        sections = read_choices(self.root.get("report"), "report_section", "report", default_registry, self.problems)
        baseline = self._text_of("baseline") or PLAIN
        known = [variant.name for variant in variants]
        if variants and baseline not in known:
            node = self.root.get("baseline")
            assert node is not None
            self._refuse(
                node.origin, f"must be a variant, found {shown(baseline)}; {nearest(baseline, known)}", "baseline"
            )
        if self.problems or options is None:
            return None
        return Experiment(
            label=label,
            description=self._text_of("description") or "",
            variants=tuple(variants),
            baseline=baseline,
            settings=tuple(settings),
            datasets=tuple(datasets),
            options=options,
            text=write_yaml(plain_value(self.root)),
            report_sections=sections,
        )

    def _options(self) -> RunOptions | None:
        entries = {key: entry for key, entry in self.root.entries.items() if key in _OPTIONS}
        before = len(self.problems)
        section = MappingNode(entries, self.root.origin)
        values = check_options(options_of(RunOptions), section, "experiment", "an experiment", self.problems)
        return RunOptions(**constructor_arguments(RunOptions, values)) if len(self.problems) == before else None

    def _base(self) -> list[MappingNode] | None:
        """Return the layers that every variant shares, the lowest first."""
        node = self.root.get("base")
        if not isinstance(node, ScalarNode) or not isinstance(node.value, str) or not node.value:
            origin = self.root.origin if node is None else node.origin
            self._refuse(origin, "must be the name of a shipped recipe or the path of one, such as base: demo", "base")
            return None
        found = find_recipe(node.value, node.origin.folder)
        if isinstance(found, str):
            self._refuse(node.origin, found, "base")
            return None
        before = len(self.problems)
        layers = read_layers(found, self.problems)
        fixed = self.root.get("fixed")
        if fixed is not None and not isinstance(fixed, BrokenNode):
            if isinstance(fixed, MappingNode):
                layers.append(_with_named_stages(fixed))
            else:
                self._refuse(
                    fixed.origin, "must be sections of a recipe, as in {generation: {max_new_tokens: 64}}", "fixed"
                )
        if len(self.problems) > before:
            return None
        # the base itself must be sound, or its errors would be told once per variant
        return layers if recipe_from_layers(layers, self.root.origin, "base", self.problems) is not None else None

    def _variants(self, base: list[MappingNode], axes: list[Axis]) -> list[Variant]:
        plain = self._recipe([*base, _plain_sections(self.root.origin)], PLAIN)
        if plain is None:
            return []
        if plain.drafter.name != "none":
            message = (
                f"names a pre-processor that gives plain decoding the drafter {plain.drafter.name}; "
                "let it change options of the drafter that it finds"
            )
            self._refuse(self.root.origin, message, "base")
            return []
        found = {PLAIN: plain}
        excluded = self._excluded(axes)
        for choices in combinations(axes) if axes else ():
            if not any(_matches(rule, axes, choices) for rule in excluded):
                self._add(found, *self._combined(base, axes, choices), axes)
        explicit = self.root.get("variants")
        if isinstance(explicit, MappingNode):
            for name, entry in explicit.entries.items():
                sections = self._explicit(name, entry)
                if sections is not None:
                    self._add_explicit(found, name, self._recipe([*base, sections], name), entry.key_origin)
        elif explicit is not None and not isinstance(explicit, BrokenNode):
            self._refuse(explicit.origin, "must be a mapping of names to sections of a recipe", "variants")
        if len(found) == 1 and not self.problems:
            what = "excludes every combination" if excluded else "holds no variant besides plain decoding"
            self._refuse(self.root.origin, f"{what}; give axes or variants", "exclude" if excluded else "axes")
        return [Variant(name, recipe) for name, recipe in found.items()]

    def _combined(
        self, base: list[MappingNode], axes: list[Axis], choices: tuple[Choice, ...]
    ) -> tuple[str, Recipe | None]:
        """Return a combination's name and recipe; a cost model that nobody asks is left as it is in the base."""
        used = list(zip(axes, choices, strict=True))
        recipe = self._recipe([*base, *_ordered(used)], "variant")
        if recipe is not None and any(axis.section == "cost_model" for axis in axes) and not _needs_cost_model(recipe):
            used = [(axis, choice) for axis, choice in used if axis.section != "cost_model"]
            recipe = self._recipe([*base, *_ordered(used)], "variant")
        several = [choice.label for axis, choice in used if len(axis.choices) > 1] or [c.label for _, c in used]
        name = ", ".join(several)
        return name, None if recipe is None else attrs.evolve(recipe, label=name)

    def _add(self, found: dict[str, Recipe], name: str, recipe: Recipe | None, axes: list[Axis]) -> None:
        """Take a combination, unless it is plain decoding, or another one but for a cost model that nobody asks."""
        if recipe is None:
            return
        twin = _twin(found, recipe)
        if twin is None and name in found:
            self._refuse(self.root.origin, f"makes two variants called {shown(name)}; change one", "axes")
        elif twin is None:
            found[name] = recipe
        elif twin != PLAIN and all(axis.section != "cost_model" for axis in axes):
            self._refuse(self.root.origin, f"makes {twin} and {name}, which are the same; keep one", "axes")

    def _add_explicit(self, found: dict[str, Recipe], name: str, recipe: Recipe | None, origin: Origin) -> None:
        twin = None if recipe is None else _twin(found, recipe)
        if name in found:
            self._refuse(origin, "is the name of another variant; rename one", f"variants.{name}")
        elif twin is not None:
            self._refuse(origin, f"is the same pipeline as {twin}; leave it out", f"variants.{name}")
        elif recipe is not None:
            found[name] = recipe

    def _explicit(self, name: str, entry: Entry) -> MappingNode | None:
        path, node = f"variants.{name}", entry.node
        if isinstance(node, BrokenNode):
            return None
        if not name.strip() or not name.isprintable():
            self._refuse(
                entry.key_origin, f"a variant needs a name of printed characters, found {shown(name)}", "variants"
            )
            return None
        if name == PLAIN:
            self._refuse(node.origin, "is plain decoding, which every experiment has; take another name", path)
            return None
        if not isinstance(node, MappingNode):
            self._refuse(node.origin, "must be sections of a recipe, as in {tree_builder: chain}", path)
            return None
        for section in ("target", "observers", "preprocessors", "generation"):
            if section in node.entries:
                message = "holds for all variants: put it into fixed, or vary request options as an axis"
                self._refuse(node.entries[section].key_origin, message, f"{path}.{section}")
                return None
        return _with_named_stages(node)

    def _excluded(self, axes: list[Axis]) -> list[dict[str, str]]:
        node = self.root.get("exclude")
        if node is None or isinstance(node, BrokenNode):
            return []
        items = node.items if isinstance(node, ListNode) else (node,)
        rules = []
        for item in items:
            if not isinstance(item, MappingNode) or not item.entries:
                self._refuse(
                    item.origin, "must be mappings such as {tree_builder: chain, cost_model: convex}", "exclude"
                )
                continue
            rule = {}
            for key, entry in item.entries.items():
                if not isinstance(entry.node, ScalarNode):
                    self._refuse(entry.node.origin, f"must be one word, the choice of {key} to leave out", "exclude")
                    continue
                word = entry.node.text
                axis = next((axis for axis in axes if axis.key == key), None)
                if axis is None:
                    names = [axis.key for axis in axes]
                    self._refuse(entry.key_origin, f"is no axis that makes variants; {nearest(key, names)}", "exclude")
                elif not any(word in choice.words for choice in axis.choices):
                    words = [choice.label for choice in axis.choices]
                    self._refuse(
                        entry.node.origin, f"{shown(word)} is not on this axis; {nearest(word, words)}", "exclude"
                    )
                rule[key] = word
            rules.append(rule)
        return rules

    def _settings(self, base: list[MappingNode], axes: list[Axis]) -> list[Setting]:
        settings: list[Setting] = []
        for choices in combinations(axes):
            label = ", ".join(choice.label for choice in choices)
            recipe = self._recipe([*base, *(choice.sections for choice in choices)], label)
            if recipe is None:
                continue
            twin = next((other.label for other in settings if other.options == recipe.generation), None)
            if twin is not None:
                self._refuse(choices[-1].sections.origin, f"{label} is the same as {twin}; keep one", "axes")
            settings.append(Setting(label, recipe.generation))
        return settings

    def _datasets(self, options: RunOptions | None) -> list[DatasetChoice]:
        node = self.root.get("datasets")
        if isinstance(node, BrokenNode):
            return []
        items = node.items if isinstance(node, ListNode) else ((node,) if node is not None else ())
        if not items:
            origin = self.root.origin if node is None else node.origin
            self._refuse(origin, "must name at least one, such as datasets: [reasoning, code]", "datasets")
        found: dict[str, DatasetChoice] = {}
        for index, item in enumerate(items):
            choice = self._dataset(item, f"datasets[{index}]")
            if choice is None:
                continue
            if choice.name in found:
                message = f"names {choice.name} twice; keep one, or give another label: {{name: LABEL, path: FILE}}"
                self._refuse(item.origin, message, f"datasets[{index}]")
            if choice.limit is None and options is not None and options.prompts is not None:
                choice = attrs.evolve(choice, limit=options.prompts)
            found[choice.name] = choice
        return list(found.values())

    def _dataset(self, node: Node, path: str) -> DatasetChoice | None:
        try:
            if isinstance(node, ScalarNode) and isinstance(node.value, str):
                return DatasetChoice.parse(_resolved(node.value, node.origin))
            if isinstance(node, MappingNode):
                before = len(self.problems)
                values = check_options(options_of(DatasetChoice), node, path, "a data set", self.problems)
                if len(self.problems) > before:
                    return None
                if values.get("path"):
                    values["path"] = _resolved(values["path"], node.origin)
                return DatasetChoice(**constructor_arguments(DatasetChoice, values))
        except InputError as error:
            self._refuse(node.origin, str(error), path)
            return None
        if not isinstance(node, BrokenNode):
            self._refuse(node.origin, f"must be a name, a path or a mapping, found {shown(plain_value(node))}", path)
        return None

    def _recipe(self, layers: list[MappingNode], label: str) -> Recipe | None:
        recipe = recipe_from_layers(layers, self.root.origin, label, self.problems)
        # the base's own words are about the base
        return None if recipe is None else attrs.evolve(recipe, description=None)

    def _text_of(self, key: str) -> str | None:
        node = self.root.get(key)
        if node is None or isinstance(node, BrokenNode):
            return None
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            return node.value
        self._refuse(node.origin, f"must be a string, found {shown(plain_value(node))}", key)
        return None

    def _refuse(self, origin: Origin, message: str, path: str) -> None:
        self.problems.append(Problem(origin, message, path))


def _plain_sections(origin: Origin) -> MappingNode:
    sections = {"drafter": {"name": "none"}, "tree_builder": {"name": "chain"}}
    node = node_from_python(sections, origin, [])
    assert isinstance(node, MappingNode)
    return node


def _with_named_stages(sections: MappingNode) -> MappingNode:
    """Return sections with every stage that is given by its name alone written out."""
    entries = dict(sections.entries)
    for kind in STAGES:
        if kind in entries and isinstance(entries[kind].node, ScalarNode):
            entries[kind] = stage_sections(entries[kind].node, kind).entries[kind]
    return MappingNode(entries, sections.origin)


def _ordered(used: list[tuple[Axis, Choice]]) -> list[MappingNode]:
    """Return the sections of choices, whole stages first: another strategy would replace an option set before it."""
    return [choice.sections for axis, choice in sorted(used, key=lambda entry: entry[0].option is not None)]


def _needs_cost_model(recipe: Recipe) -> bool:
    builder = default_registry().create("tree_builder", recipe.tree_builder.name, recipe.tree_builder.options)
    return bool(builder.needs_cost_model)


def _twin(found: dict[str, Recipe], recipe: Recipe) -> str | None:
    """Return the variant that is the same pipeline."""
    return next((name for name, known in found.items() if _pipeline(known) == _pipeline(recipe)), None)


def _pipeline(recipe: Recipe) -> dict[str, Any]:
    """Return what makes two variants the same."""
    sections = recipe.to_mapping()
    return {key: value for key, value in sections.items() if key not in ("description", "generation")}


def _matches(rule: dict[str, str], axes: list[Axis], choices: tuple[Choice, ...]) -> bool:
    by_key = {axis.key: choice for axis, choice in zip(axes, choices, strict=True)}
    return all(key in by_key and word in by_key[key].words for key, word in rule.items())


def _resolved(text: str, origin: Origin) -> str:
    """Return a path relative to the file that names it as an absolute one; a name stays a name."""
    is_path = "/" in text or text.lower().endswith((".jsonl", ".jsonl.gz"))
    if not is_path or "\0" in text or text.startswith("~"):
        return text
    return str(((origin.folder or Path.cwd()) / text).resolve())
