"""Whole runs in processes of their own: killed, resumed, ruined by a plugin, and complete all the same."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from caddtree.experiments.experiment_files import load_experiment
from caddtree.experiments.records import Environment, Lost, Result, from_line_values
from caddtree.experiments.store import RunFolder
from caddtree.experiments.summary import summarise
from caddtree.experiments.sweep import run_sweep
from tests.experiments.tiny_experiment import write_experiment

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def start(experiment, run, *options):
    """Start a run in a process group of its own, under the deterministic clock and with the faulty plugin."""
    paths = [str(ROOT), str(HERE / "deterministic_clock"), str(HERE / "faulty_plugin")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "CADDTREE_LOG": "ERROR"}
    command = [sys.executable, "-m", "tests.experiments.sweep_process", str(experiment), str(run), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def finish(experiment, run, *options):
    """Run to the end and return the problems that were found."""
    process = start(experiment, run, *options)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(output)


def lines(run):
    path = Path(run) / "records.jsonl"
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def records(run, kind):
    return [record for record in map(from_line_values, map(json.loads, lines(run))) if isinstance(record, kind)]


def table(run):
    """What was decoded, how fast, in which rounds; predictions follow a scale that a process learns from its rounds."""
    data = RunFolder(run).read()
    return {
        cell.id: (
            data.results[cell.id].token_ids,
            data.results[cell.id].tokens_per_second,
            data.results[cell.id].prefill_seconds,
            data.results[cell.id].rounds.num_draft_nodes,
            data.results[cell.id].rounds.total_seconds,
            data.results[cell.id].finish_reason,
        )
        for cell in data.plan.cells
    }


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    """The run that nobody killed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert finish(experiment, run) == []
    return run


def test_a_run_holds_every_cell_once_and_all_outputs_are_identical(whole):
    """48 cells, greedy and sampled."""
    data = RunFolder(whole).read()

    assert len(records(whole, Result)) == len(data.results) == len(data.plan.cells) == 48
    assert data.missing == data.differing == ()
    assert len(data.environments) == 1
    assert set(data.loaded) == {"plain", "chain", "ddtree-4", "caddtree objective=ratio"}
    assert data.loaded["caddtree objective=ratio"].recipe["tree_builder"]["objective"] == "ratio"


def test_a_complete_run_is_not_touched_again(experiment, whole):
    """Nothing is loaded, nothing is written."""
    before = lines(whole)
    assert finish(experiment, whole) == []
    assert lines(whole) == before


def counted(run):
    """Check that every cell has a result; only plain decoding has more, once more per worker that finished a block."""
    again = Counter(record.cell.id for record in records(run, Result))
    assert len(again) == 48
    variants = {record.cell.id: record.cell.variant for record in records(run, Result)}
    assert {variants[id_] for id_, count in again.items() if count > 1} <= {"plain"}
    assert len(records(run, Result)) <= 48 + len(records(run, Environment))


def kill_and_resume(experiment, run, whole, seed, num_kills):
    """Kill the run ``num_kills`` times at random moments; check that nothing written is lost or counted twice."""
    choose = random.Random(seed)
    landed, kept = 0, []
    for _ in range(num_kills):
        process = start(experiment, run)
        # most kills wait for new records: loading takes most of the time, and is survived easily
        if choose.random() < 0.7:
            deadline = time.monotonic() + 120
            while len(lines(run)) <= len(kept) + 5 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(choose.random() * 0.15)
        else:
            time.sleep(choose.random() * 4)
        landed += process.poll() is None
        process.kill()
        process.communicate()
        now = lines(run)
        assert now[: len(kept)] == kept
        kept = now
    assert finish(experiment, run) == []
    assert lines(run)[: len(kept)] == kept
    counted(run)
    assert table(run) == table(whole)
    return landed


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_table(experiment, whole, tmp_path):
    """FT-19, FT-40: two kills here, twenty in the slow test; times included, by the deterministic clock."""
    assert kill_and_resume(experiment, tmp_path / "run", whole, seed=1, num_kills=2) >= 1


@pytest.mark.slow
def test_twenty_random_kills(experiment, whole, tmp_path):
    """The final table is equal, and most kills found the run at work."""
    assert kill_and_resume(experiment, tmp_path / "run", whole, seed=2, num_kills=20) >= 10


def test_a_worker_that_dies_is_replaced_and_its_cell_run_again(experiment, whole, tmp_path):
    """FT-40: only the worker is killed, the run notices by itself."""
    run = tmp_path / "run"
    process = start(experiment, run)
    try:
        while len(lines(run)) < 8:
            assert process.poll() is None
            time.sleep(0.005)
        worker = next(iter(RunFolder(run)._records())).facts["process"]
        os.kill(worker, signal.SIGKILL)
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()

    assert json.loads(output) == []
    assert len(records(run, Lost)) <= 1
    assert len(RunFolder(run).read().environments) == 2
    counted(run)
    assert table(run) == table(whole)


def test_an_orphaned_worker_ends_with_its_parent(experiment, tmp_path):
    """The run is killed, and soon nothing of it is left."""
    run = tmp_path / "run"
    process = start(experiment, run)
    while not lines(run):
        assert process.poll() is None
        time.sleep(0.01)
    worker = next(iter(RunFolder(run)._records())).facts["process"]
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)

    assert not is_alive(worker)


def is_alive(process):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


STRIKES = {"raise": 1, "exhaust": 2, "kill": 2, "hang": 2}
"""What a cell does, and how often until it is given up."""


@pytest.mark.parametrize("kinds", [("raise", "kill"), pytest.param(tuple(STRIKES), marks=pytest.mark.slow)], ids=len)
def test_cells_that_ruin_their_workers_are_given_up_and_the_others_finish(tmp_path, kinds):
    """FT-41: one raises, one runs out of memory, one kills its worker, one hangs; all are run again when asked for."""
    write_experiment(tmp_path, prompts=1)
    strikes = {kind: STRIKES[kind] for kind in kinds}
    stages = [
        f"{{name: faulty, do: {do}, at_context: {first_context(tmp_path)}, times: {times}, counter: {tmp_path / do}}}"
        for do, times in strikes.items()
    ]
    path = write_experiment(tmp_path, prompts=2, builders=f"[{', '.join(stages)}]", extra="timeout_seconds: 6\n")
    path.write_text(path.read_text().replace("temperature: [0, 1]", "temperature: [0]").replace(", ./second.jsonl", ""))
    run = tmp_path / "run"
    problems = finish(path, run)
    data = RunFolder(run).read()
    reasons = {failed.cell.variant.split()[1]: failed.reason for failed in data.failed.values()}

    assert {cell.prompt for cell in (failed.cell for failed in data.failed.values())} == {"first-0"}
    said = {
        "raise": r"tree_builder.*Faulty.*planted",
        "exhaust": "out of memory",
        "kill": r"^the worker died \(SIGKILL; out of memory\?\), 2 times$",
        "hang": "^the worker said nothing for 6 seconds, 2 times$",
    }
    for kind in kinds:
        assert re.search(said[kind], reasons[f"do={kind}"])
    assert len(data.results) == len(data.plan.cells) - len(kinds) == len(kinds) + 2
    assert f"{len(kinds)} cells failed" in problems[len(kinds)]
    before = lines(run)
    assert finish(path, run) == problems
    assert lines(run) == before
    assert finish(path, run, "--retry-failed") == []
    assert len(RunFolder(run).read().results) == len(data.plan.cells)


def first_context(folder):
    """Tokens of the first prompt of the tiny experiment."""
    from transformers import AutoTokenizer

    from tests.experiments.tiny_experiment import TEXTS

    return len(AutoTokenizer.from_pretrained(folder / "target").encode(TEXTS[0]))


def test_a_variant_that_cannot_be_loaded_fails_and_the_others_finish(tmp_path):
    """A drafter that is not there: its cells say so, the rest of the table is there."""
    path = write_experiment(tmp_path, prompts=1, builders="[chain]")
    path.write_text(path.read_text() + "variants: {broken: {drafter: {name: dflash, model: ./nowhere}}}\n")
    run = tmp_path / "run"
    problems = finish(path, run)
    data = RunFolder(run).read()

    assert {failed.cell.variant for failed in data.failed.values()} == {"broken"}
    assert "cannot be loaded" in problems[0]
    assert "nowhere" in problems[0]
    assert {result.cell.variant for result in data.results.values()} == {"plain", "chain"}


def test_a_target_that_cannot_be_loaded_is_one_error(tmp_path):
    """Nothing can be run: the error is the loader's own."""
    from caddtree.core.errors import CheckpointError

    path = write_experiment(tmp_path, prompts=1, builders="[chain]")
    (tmp_path / "target" / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"target.model .*target: cannot be loaded"):
        run_sweep(load_experiment(path), tmp_path / "run")


def test_what_changed_is_run_again_and_nothing_else(tmp_path):
    """More prompts go on where fewer ended; FT-42: cells of a drafter that changed are run again."""
    path = write_experiment(tmp_path, prompts=1, builders="[chain]")
    run = tmp_path / "run"
    assert finish(path, run) == []
    before = lines(run)
    path.write_text(path.read_text().replace("prompts: 1", "prompts: 2"))
    assert finish(path, run) == []
    assert lines(run)[: len(before)] == before
    assert len(records(run, Result)) == len(RunFolder(run).read().results) == 2 * 8

    config = tmp_path / "drafter" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert finish(path, run) == []
    new = Counter(record.cell.variant for record in records(run, Result)[16:])
    assert new == {"chain": 8, "plain": 8}
    data = RunFolder(run).read()
    # the first results of plain decoding count; the new ones are what the new cells are compared with
    workers = {
        variant: {result.environment for result in data.results.values() if result.cell.variant == variant}
        for variant in ("plain", "chain")
    }
    assert workers["plain"].isdisjoint(workers["chain"])
    assert all(row.overall.speedup.num_pairs == 4 for row in summarise(data).rows)
    assert RunFolder(run).read().missing == ()


@pytest.mark.parametrize("kinds", [("hang",), pytest.param(("kill", "hang"), marks=pytest.mark.slow)], ids=len)
def test_variants_that_kill_or_hang_their_workers_while_they_load_are_given_up(tmp_path, kinds):
    """FT-41: they strike in the warm-up already; their cells fail, the others are run."""
    write_experiment(tmp_path, prompts=1)
    context = first_context(tmp_path)
    stages = ", ".join(f"{{name: faulty, do: {do}, at_context: {context}}}" for do in kinds)
    path = write_experiment(tmp_path, prompts=1, builders=f"[{stages}]", extra="timeout_seconds: 8\nattempts: 1\n")
    path.write_text(path.read_text().replace("temperature: [0, 1]", "temperature: [0]").replace(", ./second.jsonl", ""))
    run = tmp_path / "run"
    finish(path, run)
    data = RunFolder(run).read()
    reasons = {failed.cell.variant.split()[1]: failed.reason for failed in data.failed.values()}

    said = {"kill": "the worker died (SIGKILL", "hang": "the worker said nothing for 8 seconds"}
    for kind in kinds:
        assert f"cannot be loaded: {said[kind]}" in reasons[f"do={kind}"]
    assert {result.cell.variant for result in data.results.values()} == {"plain"}
