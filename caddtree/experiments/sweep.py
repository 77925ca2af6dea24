"""Runs an experiment, or what is left of it: plan, queue, engine, store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from caddtree.experiments.datasets import load_prompts
from caddtree.experiments.definition import Experiment
from caddtree.experiments.engines.local import run_local
from caddtree.experiments.planning import Block, Job, make_job, make_plan, what_is_left
from caddtree.experiments.prompts import PromptRecord
from caddtree.experiments.records import Cell, Failed, Record, Result
from caddtree.experiments.store import RunData, RunFolder
from caddtree.experiments.work_queue import WorkQueue

Engine = Callable[[Job, WorkQueue], None]
"""Runs everything in the queue; the models are its workers' business."""

OnProgress = Callable[[int, int], None]
"""Cells that are done, and all cells."""


def load_all_prompts(experiment: Experiment) -> dict[str, list[PromptRecord]]:
    """Return the prompts of every data set of an experiment.

    Raises:
        InputError: If a data set cannot be read, or has no prompt left.
    """
    return {choice.name: load_prompts(choice) for choice in experiment.datasets}


def run_sweep(
    experiment: Experiment,
    folder: Path,
    *,
    engine: Engine = run_local,
    retry_failed: bool = False,
    on_progress: OnProgress | None = None,
) -> RunData:
    """Run what is missing of an experiment and return the whole run.

    Args:
        experiment: The experiment.
        folder: Holds the run; one that was begun goes on.
        engine: Carries the blocks to workers.
        retry_failed: Run cells again that were given up.
        on_progress: Called before the first cell and after every one.

    Raises:
        InputError: If a data set or the folder cannot be used, or another sweep uses the folder.
        CaddtreeError: If the target cannot be loaded.
    """
    prompts = load_all_prompts(experiment)
    plan, blocks = make_plan(experiment, prompts)
    run = RunFolder(folder)
    with run.locked():
        run.write_plan(plan)
        run.repair()
        data = run.read()
        missing = _missing(blocks, data, retry_failed=retry_failed)
        if missing:
            job = make_job(experiment, plan, blocks)
            lost = {} if retry_failed else data.num_lost
            with _written(run, data, on_progress) as write:
                engine(job, WorkQueue(missing, job, lost, write))
        return run.read()


def _missing(blocks: Sequence[Block], data: RunData, *, retry_failed: bool) -> list[Block]:
    """Return the blocks with the cells that have no result yet."""
    settled = set(data.results) if retry_failed else {*data.results, *data.failed}
    left = {cell.id for cell in data.plan.cells} - settled
    found = [what_is_left(block, left, data.plan.plain, data.plan.baseline) for block in blocks]
    return [
        attrs.evolve(block, references=tuple(cell for cell in block.references if cell.id in data.results))
        for block in found
        if block is not None
    ]


@contextlib.contextmanager
def _written(run: RunFolder, data: RunData, on_progress: OnProgress | None) -> Iterator[Callable[[Record], None]]:
    """Give a function that keeps records and tells how far the run is."""
    done = set(data.results)
    total = len(data.plan.cells)

    def write(record: Record) -> None:
        run.append(record)
        if isinstance(record, Result | Failed):
            done.add(record.cell.id)
            if on_progress is not None:
                on_progress(len(done), total)

    if on_progress is not None:
        on_progress(len(done), total)
    yield write


def found_problems(data: RunData) -> list[str]:
    """Return what a user must look at, one line each: cells that failed or are missing, outputs that differ.

    In float32 and float64 a token that differs from plain decoding's is a fault; elsewhere near ties may fall either
    way when the shape of a batch changes, which the report shows and nobody need repair.
    """
    problems = [
        f"{failed.cell.variant} on {failed.cell.dataset} {failed.cell.prompt}: {failed.reason}"
        for failed in data.failed.values()
    ]
    if data.failed:
        problems.append(f"{len(data.failed)} cells failed; run the same command with --retry-failed to run them again")
    if data.missing:
        problems.append(f"{len(data.missing)} cells are missing; run the same command again to go on")
    if {environment.facts.get("dtype") for environment in data.environments.values()} <= {"float32", "float64"}:
        problems += [_shown_difference(cell, data) for cell in data.differing]
    return problems


def _shown_difference(cell: Cell, data: RunData) -> str:
    known = data.differences.get(cell.id)
    where = "its output" if known is None else f"token {known.position}"
    return f"{cell.variant} on {cell.dataset} {cell.prompt}: {where} differs from plain decoding; please report this"
