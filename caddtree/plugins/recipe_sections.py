"""The sections of a recipe as values."""

from __future__ import annotations

import re
from typing import Any, Literal

import attrs
from attrs.validators import optional

from caddtree.core.options import GenerationOptions, RuntimeOptions
from caddtree.plugins.hooks import STAGES, Stage
from caddtree.plugins.nodes import shown
from caddtree.plugins.yaml_writer import write_yaml


def _not_empty(_instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if not value:
        raise ValueError(f"{attribute.name} must not be empty; name a folder or a hub id")


def _device(_instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if not re.fullmatch(r"[a-z]+(:[0-9]+)?", value):
        raise ValueError(f"{attribute.name} must be auto or a device such as cpu or cuda:0, found {shown(value)}")


def _at_least_one(_instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if value < 1:
        raise ValueError(f"{attribute.name} must be at least 1, found {shown(value)}")


@attrs.frozen
class TargetOptions:
    """The ``target`` section: the model whose output is preserved."""

    model: str = attrs.field(validator=_not_empty, metadata={"path": True})
    """Folder or hub id of the model."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Type of its weights; ``auto`` takes that of the checkpoint."""
    device: str = attrs.field(default="auto", validator=_device)
    """Where it runs, such as ``cpu`` or ``cuda:0``; ``auto`` takes one accelerator if there is one, and where several
    processes share the model each its own."""
    parallel: Literal["auto", "none", "tensor"] = "auto"
    """How the processes of one ``torchrun`` share the model: ``tensor`` shards every layer over them, and they answer
    together; with ``none`` each holds all of it and answers on its own; ``auto`` means a single process."""
    prefill_chunk: int = attrs.field(default=512, validator=_at_least_one)
    """Tokens of the prompt that one forward carries."""
    context_limit: int | None = attrs.field(default=None, validator=optional(_at_least_one))
    """Positions to use at most; the model's own limit when None."""


@attrs.frozen
class StageChoice:
    """A strategy with its options: of one stage, or one of a list."""

    name: str
    options: dict[str, Any] = attrs.field(factory=dict)
    """Plain values, defaults included, as the recipe holds them."""


@attrs.frozen
class Recipe:
    """One pipeline, checked and fully merged."""

    target: TargetOptions
    drafter: StageChoice
    tree_builder: StageChoice
    cost_model: StageChoice
    verifier: StageChoice
    observers: tuple[StageChoice, ...] = ()
    """In the order in which they are told."""
    runtime: RuntimeOptions = attrs.field(factory=RuntimeOptions)
    generation: GenerationOptions = attrs.field(factory=GenerationOptions)
    description: str | None = None
    label: str = attrs.field(default="recipe", eq=False)
    """What to call it in a table: the name of a shipped recipe, or of its file."""

    def stage(self, kind: Stage) -> StageChoice:
        """Return the strategy of one kind."""
        choice: StageChoice = getattr(self, kind)
        return choice

    def to_mapping(self) -> dict[str, Any]:
        """Return the sections as plain values, in the order of the pipeline."""
        sections: dict[str, Any] = {} if self.description is None else {"description": self.description}
        sections["target"] = attrs.asdict(self.target)
        for kind in STAGES:
            choice = self.stage(kind)
            sections[kind] = {"name": choice.name, **choice.options}
        sections["observers"] = [{"name": each.name, **each.options} for each in self.observers]
        buckets = self.runtime.buckets
        sections["runtime"] = {**attrs.asdict(self.runtime), "buckets": None if buckets is None else list(buckets)}
        sections["generation"] = {**attrs.asdict(self.generation), "stop": list(self.generation.stop)}
        return sections

    def to_yaml(self) -> str:
        """Return the recipe as YAML that loads as an equal recipe from any folder."""
        return write_yaml(self.to_mapping())
