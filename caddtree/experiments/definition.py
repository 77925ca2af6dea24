"""An experiment as a value: variants of one pipeline, settings of the request, data sets, seeds, repeats."""

from __future__ import annotations

from typing import Any

import attrs
from attrs.validators import ge, gt, instance_of, le, optional

from caddtree.core.errors import InputError
from caddtree.core.options import GenerationOptions
from caddtree.experiments.datasets import DatasetChoice
from caddtree.plugins.recipe import Recipe, StageChoice

PLAIN = "plain"
"""The variant that every experiment has: plain decoding of the same target, in the same loop."""


def _seeds(_instance: object, attribute: attrs.Attribute[Any], value: tuple[int, ...] | None) -> None:
    if value is None:
        return
    if not value or len(set(value)) < len(value):
        raise InputError(f"{attribute.name} must be at least one seed, none twice, found {list(value)}")
    for seed in value:
        if not 0 <= seed < 2**64:
            raise InputError(f"{attribute.name} must be at least 0 and below 2**64, found {seed}")


@attrs.frozen
class RunOptions:
    """How an experiment is run; every field is a key of its file."""

    prompts: int | None = attrs.field(default=None, validator=optional([instance_of(int), ge(1)]))
    """Prompts of every data set at most; a data set's own ``limit`` wins."""
    seeds: tuple[int, ...] | None = attrs.field(default=None, validator=_seeds)
    """Seeds of sampling, the recipe's own when None; greedy settings run with the first alone, because no other would
    change anything."""
    repeats: int = attrs.field(default=1, validator=[instance_of(int), ge(1)])
    """Times that everything is run; the median of a prompt counts."""
    warm_up_tokens: int = attrs.field(default=32, validator=[instance_of(int), ge(1)])
    """Tokens that every variant decodes before anything counts."""
    timeout_seconds: float = attrs.field(default=1800.0, validator=[gt(0), le(7 * 86400)])
    """A cell, or the loading of a variant, that takes longer hangs: its worker is ended and it is tried again."""
    attempts: int = attrs.field(default=2, validator=[instance_of(int), ge(1)])
    """Workers that may die of, or hang in, one cell before it is given up."""
    order_seed: int = attrs.field(default=0, validator=[instance_of(int), ge(0)])
    """Seed of the order in which the variants of a prompt are run."""


@attrs.frozen
class Variant:
    """One pipeline under its name in the tables."""

    name: str
    recipe: Recipe


@attrs.frozen
class Setting:
    """Request options that all variants are run with, in turn."""

    label: str
    """Such as ``temperature=1``; empty where the experiment has one setting."""
    options: GenerationOptions


@attrs.frozen
class Experiment:
    """One experiment, checked and expanded."""

    label: str
    description: str
    variants: tuple[Variant, ...]
    """Plain decoding first."""
    baseline: str
    """The variant that ratios and verdicts are against."""
    settings: tuple[Setting, ...]
    datasets: tuple[DatasetChoice, ...]
    options: RunOptions
    text: str
    """As it was written."""
    report_sections: tuple[StageChoice, ...] = ()
    """Sections that plugins add to its report."""
