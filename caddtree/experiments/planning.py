"""From an experiment to its cells: what is run, in which order, under which names."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs

from caddtree.core.options import GenerationOptions
from caddtree.experiments.definition import PLAIN, Experiment, Setting, Variant
from caddtree.experiments.fingerprint import fingerprint
from caddtree.experiments.prompts import PromptRecord
from caddtree.experiments.records import Cell
from caddtree.experiments.store import Plan
from caddtree.plugins.recipe import Recipe

_WARM_UP_PROMPTS = 8
"""Prompts that are tried: the longest may be too long for the context."""


@attrs.frozen(eq=False)
class Block:
    """The cells of one prompt that are compared with each other, run one after another on one worker."""

    prompt: PromptRecord
    request: GenerationOptions
    cells: tuple[Cell, ...]
    """In the order in which they are run."""
    references: tuple[Cell, ...] = ()
    """Plain decoding and the baseline, where they have results already but other cells of the block have not: they are
    run once more, because ratios are taken within one worker. Their first results stay those that count."""


@attrs.frozen(eq=False)
class Job:
    """What a worker needs to know besides its blocks; plain values, so that it travels to other machines."""

    variants: Mapping[str, Recipe]
    plain: str
    baseline: str
    fingerprints: Mapping[str, str]
    requests: tuple[GenerationOptions, ...]
    """Of every setting: each is warmed up."""
    prompts: tuple[PromptRecord, ...]
    """The longest first; the first that can be used is what every variant warms up with."""
    warm_up_tokens: int
    timeout_seconds: float
    attempts: int
    threads: int | None = None
    """Threads of a CPU worker; its own default when None."""
    unusable: Mapping[str, str] = attrs.field(factory=dict)
    """Variants that killed or hung their workers while they were loaded, and how: they are not tried again."""


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
    cells = tuple(cell for block in blocks for cell in block.cells)
    assert len({cell.id for cell in cells}) == len(cells), "two cells are the same"
    plan = Plan(
        label=experiment.label,
        description=experiment.description,
        baseline=experiment.baseline,
        plain=PLAIN,
        variants={variant.name: _sections(variant) for variant in experiment.variants},
        settings={setting.label: _request(setting.options) for setting in experiment.settings},
        datasets=tuple(prompts),
        fingerprints={variant.name: fingerprint(variant) for variant in experiment.variants},
        cells=cells,
        text=experiment.text,
        report_sections=tuple({"name": each.name, **each.options} for each in experiment.report_sections),
    )
    return plan, tuple(blocks)


def what_is_left(block: Block, left: Collection[str], plain: str, baseline: str) -> Block | None:
    """Return a block with the cells that are still to be run, and with those that they are compared with.

    Args:
        block: The block as it was planned.
        left: Ids of the cells that are to be run.
        plain: The variant that decodes plainly.
        baseline: The variant that verdicts are against.
    """
    cells = tuple(cell for cell in block.cells if cell.id in left)
    if not cells:
        return None
    partners = (cell for cell in block.cells if cell.variant in (plain, baseline))
    return attrs.evolve(block, cells=cells, references=tuple(cell for cell in partners if cell.id not in left))


def make_job(experiment: Experiment, plan: Plan, blocks: Sequence[Block]) -> Job:
    """Return what workers need to know."""
    return Job(
        variants={variant.name: variant.recipe for variant in experiment.variants},
        plain=plan.plain,
        baseline=plan.baseline,
        fingerprints=plan.fingerprints,
        requests=tuple(setting.options for setting in experiment.settings),
        prompts=_longest_prompts(blocks),
        warm_up_tokens=experiment.options.warm_up_tokens,
        timeout_seconds=experiment.options.timeout_seconds,
        attempts=experiment.options.attempts,
    )


def _seeds(experiment: Experiment, setting: Setting) -> tuple[int, ...]:
    seeds = experiment.options.seeds or (setting.options.seed,)
    return seeds if setting.options.temperature > 0 else seeds[:1]


def _longest_prompts(blocks: Sequence[Block]) -> tuple[PromptRecord, ...]:
    distinct = {(block.cells[0].dataset, block.prompt.id): block.prompt for block in blocks}
    ordered = sorted(distinct.values(), key=lambda prompt: -len(str(prompt.prompt)))
    return tuple(ordered[:_WARM_UP_PROMPTS])


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
    kept = {name: value for name, value in sections.items() if name not in ("description", "generation")}
    if not kept["observers"]:
        # a cell without observers keeps the id that it had before there were any
        del kept["observers"]
    return kept


def _request(options: GenerationOptions) -> dict[str, Any]:
    return {**attrs.asdict(options), "stop": list(options.stop)}
