"""A run that was never run: plausible rounds with planted speeds, so that reports can be judged against the truth."""

from __future__ import annotations

import hashlib
from pathlib import Path

import attrs
import numpy as np

from caddtree.experiments.records import (
    RELIABILITY_BINS,
    Cell,
    Environment,
    LoadedVariant,
    Reliability,
    Result,
    RoundColumns,
)
from caddtree.experiments.store import Plan, RunData, RunFolder

DATASETS = {"reasoning": 0.93, "instructions": 0.88, "code": 0.65}
"""Name to the probability that a chain's next node is right."""
SETTINGS = {
    "temperature=0": {"temperature": 0.0, "max_new_tokens": 96},
    "temperature=1": {"temperature": 1.0, "max_new_tokens": 96},
}
PLAIN_SPEED = 370.0
DEPTH = 15


@attrs.frozen
class Planted:
    """A variant and its true speed."""

    builder: str | None
    """Name of its tree builder; None decodes plainly."""
    node_budget: int | None = None
    """Of every round; None draws one per round, as an adaptive builder chooses."""
    speedup: float | None = None
    """True speed over plain decoding; None leaves what the rounds cost."""
    options: dict = attrs.field(factory=dict)

    @property
    def sections(self):
        """The sections of its recipe."""
        budget = {} if self.node_budget is None or self.builder != "ddtree" else {"node_budget": self.node_budget}
        return {
            "target": {"model": "target"},
            "drafter": {"name": "none"} if self.builder is None else {"name": "dflash", "model": "drafter"},
            "tree_builder": {"name": self.builder or "chain", **budget, **self.options},
            "cost_model": {"name": "table"},
            "verifier": {"name": "sdpa"},
        }


PLANTED = {
    "plain": Planted(None),
    "chain": Planted("chain", DEPTH, speedup=2.0),
    "ddtree-16": Planted("ddtree", 16, speedup=2.5),
    "ddtree-64": Planted("ddtree", 64, speedup=2.5),
    "caddtree": Planted("caddtree", speedup=2.75),
}
"""Against ``ddtree-16``: caddtree is 10 % faster, the chain 20 % slower, and of ``ddtree-64`` nothing can be said."""


def synthetic_run(
    planted=None,
    *,
    baseline="ddtree-16",
    settings=None,
    datasets=tuple(DATASETS),
    num_prompts=8,
    seeds=(0,),
    repeats=1,
    noise=0.03,
    seed=0,
):
    """Return a whole run.

    Args:
        planted: Name to variant, :data:`PLANTED` when left out; the first decodes plainly.
        baseline: Of the verdicts.
        settings: Label to request options.
        datasets: Names from :data:`DATASETS`.
        num_prompts: Of every data set.
        seeds: Of every setting.
        repeats: Of every cell.
        noise: Standard deviation of a cell's log speed.
        seed: Of everything that is drawn.
    """
    planted, settings = planted or PLANTED, settings or SETTINGS
    rng = np.random.default_rng(seed)
    cells, results = [], {}
    for repeat in range(repeats):
        for index in range(num_prompts):
            for dataset in datasets:
                for setting in settings:
                    for request_seed in seeds:
                        block = (setting, dataset, f"p{index}", request_seed, repeat)
                        for position, (name, variant) in enumerate(planted.items()):
                            cell = Cell(_id(name, *block), name, *block)
                            cells.append(cell)
                            results[cell.id] = _result(cell, variant, position, noise, rng)
    plan = Plan(
        label="synthetic",
        description="Variants of one pipeline with planted speeds.",
        baseline=baseline,
        plain=next(iter(planted)),
        variants={name: variant.sections for name, variant in planted.items()},
        settings=settings,
        datasets=tuple(datasets),
        fingerprints=dict.fromkeys(planted, "now"),
        cells=tuple(cells),
        text="label: synthetic\nprompts: 8\n",
    )
    return RunData(
        plan=plan,
        results=results,
        failed={},
        differences={},
        num_lost={},
        environments={"worker": Environment("worker", FACTS)},
        loaded={name: _loaded(name, variant) for name, variant in planted.items()},
        num_stale=0,
    )


FACTS = {
    "device": "An Imaginary Processor",
    "threads": 2,
    "host": "lab",
    "process": 7,
    "python": "3.11.2",
    "versions": {"caddtree": "0.1.0", "torch": "2.13.0"},
    "commit": "0123456789ab",
    "dtype": "float32",
}


def write_run(data, folder: Path):
    """Keep a run in a folder, as a sweep does."""
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run.write_plan(data.plan)
    for group in (data.environments, data.loaded, data.results, data.failed, data.differences):
        for record in group.values():
            run.append(record)


def _id(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _loaded(name, variant):
    drafter_bytes = 0 if variant.builder is None else 20_000_000
    return LoadedVariant(name, "now", "worker", variant.sections, None, 60_000_000, drafter_bytes, 8192, 0.5, 2.0)


def _result(cell, variant, position, noise, rng):
    block_rng = np.random.default_rng(list(_id(*cell.block).encode()))
    plain_speed = PLAIN_SPEED * np.exp(block_rng.normal(0, 0.08))
    tokens = block_rng.integers(0, 4096, 97).tolist()
    nodes, gained = _rounds(cell, variant, rng)
    seconds = _stage_seconds(nodes, variant, rng)
    predicted = seconds.sum(axis=0) * np.exp(rng.normal(0.01, 0.06, len(nodes)))
    if variant.speedup is not None or variant.builder is None:
        speed = plain_speed * (variant.speedup or 1.0) * np.exp(rng.normal(0, noise))
        scale = gained.sum() / speed / seconds.sum()
        seconds, predicted = seconds * scale, predicted * scale
    contexts = 40 + np.concatenate([[0], np.cumsum(gained)[:-1]])
    depth = np.minimum(nodes, DEPTH)
    draft, build, verify, commit = seconds.tolist()
    columns = RoundColumns(
        context_length=contexts.tolist(),
        num_draft_nodes=nodes.tolist(),
        tree_depth=depth.tolist(),
        num_gained=gained.tolist(),
        num_accepted=(gained - 1).tolist(),
        expected_acceptance=(0.9 * depth).tolist(),
        draft_seconds=draft,
        build_seconds=build,
        verify_seconds=verify,
        commit_seconds=commit,
        predicted_seconds=predicted.tolist() if variant.builder == "caddtree" else [None] * len(nodes),
    )
    reliability = None if variant.builder is None else _reliability(rng)
    return Result(
        cell, "now", "worker", position, "2031-05-04T03:02:01.000+00:00", "length", 40, tokens, 0.012, 0.001,
        columns, reliability,
    )  # fmt: skip


def _rounds(cell, variant, rng):
    """Return draft nodes and tokens gained of every round; 96 tokens together."""
    chain = DATASETS[cell.dataset]
    nodes, gained, left = [], [], 96
    while left:
        if variant.builder is None:
            count = 0
        elif variant.node_budget is not None:
            count = variant.node_budget
        else:
            spread = {"reasoning": 14, "instructions": 20, "code": 8}[cell.dataset]
            count = int(np.clip(rng.lognormal(np.log(spread), 0.6), 0, 128))
        right = 1 - (1 - chain) ** (1 + 0.3 * np.log2(max(1, count / DEPTH)))
        accepted = 0
        while accepted < min(count, DEPTH) and rng.random() < right:
            accepted += 1
        took = min(left, accepted + 1)
        nodes.append(count)
        gained.append(took)
        left -= took
    return np.array(nodes), np.array(gained)


def _stage_seconds(nodes, variant, rng):
    """Return ``(stages, rounds)`` seconds: a staircase in the nodes, with noise."""
    rows = 8 * np.ceil((nodes + 1) / 8)
    drafts = np.where(nodes > 0, 1.6e-3, 2e-5)
    stages = np.stack([drafts, 1e-4 + 6e-6 * nodes, 2.4e-3 + 5e-5 * rows, np.full(len(nodes), 2.5e-4)])
    return stages * np.exp(rng.normal(0, 0.05, stages.shape))


def _reliability(rng):
    """Return observations of a drafter that is a little too sure."""
    middle = (np.arange(RELIABILITY_BINS) + 0.5) / RELIABILITY_BINS
    weights = (0.6 * np.exp(-middle / 0.07) + 0.4 * np.exp((middle - 1) / 0.1)) + 0.01
    count = rng.poisson(120 * weights / weights.sum())
    right = rng.binomial(count, middle**1.25)
    return Reliability(count.tolist(), right.tolist(), (count * middle).tolist())
