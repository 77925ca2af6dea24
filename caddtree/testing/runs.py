"""Runs of an experiment that never ran, whole ones and those at the edges: what sections of a report are given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

if TYPE_CHECKING:
    from caddtree.experiments.records import Cell, Result, RoundColumns
    from caddtree.experiments.store import RunData

_VARIANTS: dict[str, int | None] = {
    "plain": 0,
    "chain": 15,
    "tree_builder=ddtree, node_budget=16": 16,
    "caddtree": None,
}
"""Draft nodes of every round by variant; None draws some for each, and 0 decodes plainly."""
_DEPTH, _NUM_TOKENS, _PROMPT_TOKENS = 15, 32, 40
_STATE = "now"


def made_up_run(
    *,
    variants: tuple[str, ...] = tuple(_VARIANTS),
    settings: tuple[str, ...] = ("temperature=0", "temperature=1"),
    datasets: tuple[str, ...] = ("reasoning", "code"),
    num_prompts: int = 3,
    num_repeats: int = 1,
    num_tokens: int = _NUM_TOKENS,
) -> RunData:
    """Return a whole run.

    Args:
        variants: Names of those that run: the first decodes plainly.
        settings: Labels of request options; one of them may be empty, as where an experiment has one setting.
        datasets: Names.
        num_prompts: Of every data set.
        num_repeats: Of every cell.
        num_tokens: Of every answer; with 1 it ends in prefill, and there are no rounds.
    """
    # imported here: who tests no report needs none of it
    from caddtree.experiments.records import Cell, Environment
    from caddtree.experiments.store import Plan, RunData

    cells = [
        Cell(_digest(name, setting, dataset, number, repeat), name, setting, dataset, f"p{number}", 0, repeat)
        for repeat in range(num_repeats)
        for number in range(num_prompts)
        for dataset in datasets
        for setting in settings
        for name in variants
    ]
    plan = Plan(
        label="made-up",
        description="A run that never ran.",
        baseline=variants[-1],
        plain=variants[0],
        variants={name: _sections(name) for name in variants},
        settings={setting: {"temperature": float(setting[-1:] or 0), "max_new_tokens": 96} for setting in settings},
        datasets=datasets,
        fingerprints=dict.fromkeys(variants, _STATE),
        cells=tuple(cells),
        text="base: demo\n",
    )
    facts = {"device": "cpu", "threads": 2, "dtype": "float32", "versions": {"caddtree": "0.1.0"}}
    return RunData(
        plan=plan,
        results={cell.id: _result(cell, num_tokens) for cell in cells},
        failed={},
        differences={},
        num_lost={},
        environments={"worker": Environment("worker", facts)},
        loaded={name: _loaded(name) for name in variants},
        num_stale=0,
    )


def _nothing_run() -> RunData:
    """Planned, and killed before the first cell."""
    return attrs.evolve(made_up_run(), results={}, environments={}, loaded={})


def _missing() -> RunData:
    """Killed on the way: of some variants every cell is missing, of others some."""
    data = made_up_run()
    kept = [cell.id for cell in data.plan.cells if cell.variant in ("plain", "chain")][:-3]
    return attrs.evolve(data, results={id_: data.results[id_] for id_ in kept})


def _failed(variants: tuple[str, ...] = ("chain",)) -> RunData:
    """Every cell of some variants was given up."""
    from caddtree.experiments.records import Failed

    data = made_up_run()
    failed = {
        cell.id: Failed(cell, _STATE, "StageError: out of luck") for cell in data.plan.cells if cell.variant in variants
    }
    results = {id_: result for id_, result in data.results.items() if id_ not in failed}
    return attrs.evolve(data, results=results, failed=failed, num_lost=dict.fromkeys(failed, 2))


def _different() -> RunData:
    """Some outputs are not those of plain decoding."""
    from caddtree.experiments.records import Difference

    data = made_up_run()
    wrong = [result for result in data.results.values() if result.cell.variant == "chain"][:2]
    changed = {each.cell.id: attrs.evolve(each, token_ids=[*each.token_ids[:-1], 4000]) for each in wrong}
    differences = {each.cell.id: Difference(each.cell, _STATE, len(each.token_ids) - 1, 0.5) for each in wrong}
    return attrs.evolve(data, results={**data.results, **changed}, differences=differences)


def _nothing_drafted() -> RunData:
    """All variants decoded plainly: no draft nodes, no predictions, no reliability."""
    data = made_up_run()
    rounds = next(result.rounds for result in data.results.values() if result.cell.variant == "plain")
    results = {
        id_: attrs.evolve(result, rounds=_copied(rounds), reliability=None) for id_, result in data.results.items()
    }
    return attrs.evolve(data, results=results)


RUNS: dict[str, Callable[[], RunData]] = {
    "a whole run": made_up_run,
    "a run of which nothing ran": _nothing_run,
    "a run with missing cells": _missing,
    "a run with failed cells": _failed,
    "a run all of whose cells failed": lambda: _failed(tuple(_VARIANTS)),
    "a run whose plain decoding failed": lambda: _failed(("plain",)),
    "a run with different outputs": _different,
    "a run of plain decoding alone": lambda: made_up_run(variants=("plain",)),
    "a run that drafted nothing": _nothing_drafted,
    "a run whose texts ended in prefill": lambda: made_up_run(num_tokens=1),
    "a run of one prompt without settings": lambda: made_up_run(settings=("",), datasets=("code",), num_prompts=1),
    "a run of several repeats": lambda: made_up_run(num_repeats=2, settings=("temperature=0",)),
    "a run with names full of signs": lambda: made_up_run(variants=("plain", "a|b_c*<d>&%$"), datasets=("#1 [x]{y}",)),
}
"""Runs at the edges and in between."""


def with_records_reversed(data: RunData) -> RunData:
    """Return the same run, as if its records had come in the opposite order."""
    return attrs.evolve(
        data,
        results=dict(reversed(data.results.items())),
        failed=dict(reversed(data.failed.items())),
        differences=dict(reversed(data.differences.items())),
        loaded=dict(reversed(data.loaded.items())),
    )


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _sections(name: str) -> dict[str, Any]:
    """Return the sections of a variant's recipe."""
    is_plain = _budget(name) == 0
    return {
        "target": {"model": "target"},
        "drafter": {"name": "none"} if is_plain else {"name": "dflash", "model": "drafter"},
        "tree_builder": {"name": "chain" if is_plain else "ddtree"},
        "cost_model": {"name": "table"},
        "verifier": {"name": "sdpa"},
    }


def _budget(name: str) -> int | None:
    return _VARIANTS.get(name, 16)


def _loaded(name: str) -> Any:
    from caddtree.experiments.records import LoadedVariant

    drafter_bytes = 0 if _budget(name) == 0 else 20_000_000
    return LoadedVariant(name, _STATE, "worker", _sections(name), None, 60_000_000, drafter_bytes, 8192, 0.5, 2.0)


def _result(cell: Cell, num_tokens: int) -> Result:
    from caddtree.experiments.records import RELIABILITY_BINS, Reliability, Result

    block, own = (np.random.default_rng(int(_digest(*parts), 16)) for parts in (cell.block, (cell.id,)))
    is_plain = _budget(cell.variant) == 0
    tokens = block.integers(0, 4096, num_tokens).tolist()
    middle = (np.arange(RELIABILITY_BINS) + 0.5) / RELIABILITY_BINS
    count = np.full(RELIABILITY_BINS, 4)
    known = Reliability(count.tolist(), np.rint(4 * middle).astype(int).tolist(), (count * middle).tolist())
    return Result(
        cell=cell,
        fingerprint=_STATE,
        environment="worker",
        position=0,
        started="2031-05-04T03:02:01.000+00:00",
        finish_reason="length",
        num_prompt_tokens=_PROMPT_TOKENS,
        token_ids=tokens,
        prefill_seconds=0.012,
        harness_seconds=0.001,
        rounds=_rounds(_budget(cell.variant), num_tokens - 1, own),
        reliability=None if is_plain else known,
    )


def _rounds(budget: int | None, num_tokens: int, rng: np.random.Generator) -> RoundColumns:
    """Return rounds that gain so many tokens together."""
    from caddtree.experiments.records import RoundColumns

    rows = list(_drawn(budget, num_tokens, rng))
    return RoundColumns(*(list(column) for column in (zip(*rows, strict=True) if rows else [()] * 11)))


def _drawn(budget: int | None, num_tokens: int, rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of :class:`RoundColumns`, round by round."""
    gained = 0
    while gained < num_tokens:
        # a builder that chooses takes the root alone now and then
        nodes = int(rng.integers(0, 64)) * int(rng.random() < 0.9) if budget is None else budget
        depth = min(nodes, _DEPTH)
        took = min(num_tokens - gained, 1 + int(rng.integers(0, depth + 1) * (rng.random() < 0.8)))
        verify = 0.003 + 5e-5 * nodes * (1 + 0.05 * rng.random())
        seconds = (0.0016 if nodes else 2e-5, 1e-4 + 6e-6 * nodes, verify, 2.5e-4)
        predicted = sum(seconds) * (1 + 0.1 * rng.random()) if budget is None else None
        yield _PROMPT_TOKENS + gained, nodes, depth, took, took - 1, 0.6 * depth, *seconds, predicted
        gained += took


def _copied(rounds: RoundColumns) -> RoundColumns:
    return attrs.evolve(
        rounds, **{field.name: list(getattr(rounds, field.name)) for field in attrs.fields(type(rounds))}
    )
