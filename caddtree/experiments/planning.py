"""From an experiment to its cells: what is run, in which order, under which names."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from caddtree.core.options import GenerationOptions
from caddtree.experiments.definition import PLAIN, Experiment, Setting, Variant
from caddtree.experiments.fingerprint import fingerprint
from caddtree.experiments.prompts import PromptRecord
from caddtree.experiments.records import Cell
from caddtree.experiments.store import Plan
from caddtree.plugins.recipe import Recipe


@attrs.frozen(eq=False)
class Block:
    """The cells of one prompt that are compared with each other, run one after another on one worker."""

    prompt: PromptRecord
    request: GenerationOptions
    cells: tuple[Cell, ...]
    """In the order in which they are run."""
    plain_tokens: tuple[int, ...] | None = None
    """What plain decoding gave, where it ran already."""


@attrs.frozen(eq=False)
class Job:
    """What a worker needs to know besides its blocks; plain values, so that it travels to other machines."""

    variants: Mapping[str, Recipe]
    plain: str
    fingerprints: Mapping[str, str]
    warm_up: Block
    """The first block, of whose prompt every variant decodes a few tokens before anything counts."""
    warm_up_tokens: int
    timeout_seconds: float
    attempts: int
    threads: int | None = None
    """Threads of a CPU worker; its own default when None."""


def make_plan(experiment: Experiment, prompts: Mapping[str, Sequence[PromptRecord]]) -> tuple[Plan, tuple[Block, ...]]:
    """Return the plan of a run and its blocks, in the order in which they are run.

    Prompts of the data sets take turns, repeats come one after another: a run that is stopped early has seen
    something of everything. The variants of a block are shuffled by the experiment's ``order_seed``, so that no variant
    always profits from what the one before it left in caches and clocks.

    Args:
        experiment: The experiment.
        prompts: The prompts of every data set, by its name.
    """
    blocks = []
    for repeat in range(experiment.options.repeats):
        for index in range(max(len(records) for records in prompts.values())):
            for dataset, records in prompts.items():
                if index >= len(records):
                    continue
                for setting in experiment.settings:
                    blocks += [
                        _block(experiment, setting, dataset, records[index], seed, repeat)
                        for seed in _seeds(experiment, setting)
                    ]
    plan = Plan(
        label=experiment.label,
        description=experiment.description,
        baseline=experiment.baseline,
        plain=PLAIN,
        variants={variant.name: _sections(variant) for variant in experiment.variants},
        settings={setting.label: _request(setting.options) for setting in experiment.settings},
        datasets=tuple(prompts),
        fingerprints={variant.name: fingerprint(variant) for variant in experiment.variants},
        cells=tuple(cell for block in blocks for cell in block.cells),
        text=experiment.text,
    )
    return plan, tuple(blocks)


def make_job(experiment: Experiment, plan: Plan, blocks: Sequence[Block]) -> Job:
    """Return what workers need to know."""
    return Job(
        variants={variant.name: variant.recipe for variant in experiment.variants},
        plain=plan.plain,
        fingerprints=plan.fingerprints,
        warm_up=blocks[0],
        warm_up_tokens=experiment.options.warm_up_tokens,
        timeout_seconds=experiment.options.timeout_seconds,
        attempts=experiment.options.attempts,
    )


def _seeds(experiment: Experiment, setting: Setting) -> tuple[int, ...]:
    seeds = experiment.options.seeds
    return seeds if setting.options.temperature > 0 else seeds[:1]


def _block(
    experiment: Experiment, setting: Setting, dataset: str, prompt: PromptRecord, seed: int, repeat: int
) -> Block:
    request = attrs.evolve(setting.options, seed=seed)
    cells = [
        Cell(
            id=_cell_id(variant, request, dataset, prompt, repeat),
            variant=variant.name,
            setting=setting.label,
            dataset=dataset,
            prompt=prompt.id,
            seed=seed,
            repeat=repeat,
        )
        for variant in experiment.variants
    ]
    order = (experiment.options.order_seed, setting.label, dataset, prompt.id, seed, repeat)
    random.Random(json.dumps(order)).shuffle(cells)
    return Block(prompt, request, tuple(cells))


def _cell_id(variant: Variant, request: GenerationOptions, dataset: str, prompt: PromptRecord, repeat: int) -> str:
    # the name of a variant is in it: what is renamed is another row of the table
    spec = [variant.name, _sections(variant), _request(request), dataset, attrs.asdict(prompt), repeat]
    return hashlib.sha256(json.dumps(spec, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _sections(variant: Variant) -> dict[str, Any]:
    """Return the pipeline of a variant; what a request asks for is said by the setting."""
    sections = variant.recipe.to_mapping()
    return {name: value for name, value in sections.items() if name not in ("description", "generation")}


def _request(options: GenerationOptions) -> dict[str, Any]:
    return {**attrs.asdict(options), "stop": list(options.stop)}
