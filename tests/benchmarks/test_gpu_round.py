"""The benchmark of rounds on a GPU: its script at toy sizes, its floors by hand, and what it calls reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.gpu import floors, targets
from benchmarks.gpu.attention_alone import AttentionShape
from benchmarks.gpu.floors import Ceilings
from benchmarks.gpu.papers_round import grow_tree, walk
from benchmarks.gpu.plan import FULL, TOY
from benchmarks.gpu.record import Record
from benchmarks.gpu.shapes import QWEN3_4B, QWEN3_8B, TOY_TIED, TOY_UNTIED, random_drafter, random_target
from benchmarks.gpu.stages import STAGES, StageClock, Timing, accepted_path
from caddtree.core.frontier import heaviest_prefixes
from caddtree.core.marginals import Marginals
from caddtree.drafters.dflash_network import DFlashNetwork

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Everything a toy run prints and writes."""
    path = tmp_path_factory.mktemp("toy") / "gpu_round.json"
    command = [sys.executable, "-m", "tests.kernels.interpreter", "benchmarks/gpu_round.py", "--toy"]
    command += ["--out", str(path), "--commit", "abc"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    return done, json.loads(path.read_text())


@pytest.mark.slow
def test_a_toy_run_is_complete_and_says_what_it_is(toy):
    """All parts are there, nothing failed, was skipped or fell back."""
    done, found = toy

    assert done.returncode == 0, done.stderr[-3000:]
    assert (found["benchmark"], found["is_toy"], found["commit"]) == ("gpu_round", True, "abc")
    assert set(found["versions"]) == {"python", "torch", "transformers", "triton", "numpy"}
    assert found["failures"] == found["skipped"] == found["fallbacks"] == []
    assert len(found["checks"]) >= 20
    assert all(check["passed"] for check in found["checks"])
    assert list(found["models"]) == [shape.name for shape in TOY.shapes]


@pytest.mark.slow
def test_every_cell_of_a_toy_run_has_all_its_figures(toy):
    """Ours, its stages, the floor, and the eager round beside it."""
    _, found = toy
    for model in found["models"].values():
        assert [(cell["context_length"], cell["rows"]) for cell in model["cells"]] == [
            (context, rows) for context in TOY.contexts for rows in TOY.rows
        ]
        for cell in model["cells"]:
            assert list(cell["stages"]) == list(STAGES)
            assert list(cell["eager_stages"]) == list(STAGES)
            assert cell["ratio"] == pytest.approx(cell["round_seconds"]["median"] / cell["floor_seconds"])
            assert cell["speedup"] == pytest.approx(cell["eager_seconds"]["median"] / cell["round_seconds"]["median"])
            assert cell["tree"]["nodes"] == cell["rows"] == cell["num_draft_nodes"] + 1
        for cell in model["plain"]:
            assert cell["graph_seconds"]["median"] > 0
            assert cell["eager_seconds"]["median"] > 0
    for cell in found["attention"]:
        assert {"kernel", "sdpa", "flex"} <= set(cell)


@pytest.mark.slow
def test_a_toy_reaches_no_target(toy):
    """Neither in the file nor in the table."""
    done, found = toy

    assert found["targets"]
    assert all(target["reached"] is None for target in found["targets"])
    assert "\nreached" not in done.stdout
    assert "MISSED" not in done.stdout


@pytest.mark.slow
def test_floors_of_a_toy_run_are_its_bytes_over_its_bandwidth(toy):
    """By hand for the untied toy: 5 layers of 48, 2 heads and 1 key/value head of 16, float32, 2 draft layers."""
    _, found = toy
    layer = 48 * 32 + 2 * 48 * 16 + 32 * 48 + 3 * 48 * 64 + 2 * 48 + 2 * 16
    target, head = 4 * (5 * layer + 48), 4 * 96 * 48
    drafter = 4 * (2 * layer + 2 * 48 * 48 + 2 * 48)
    row = 4 * 2 * 16
    expected = {
        "target_layers": target,
        "head": head,
        "head_reads": 2,
        "drafter": drafter,
        "target_row": 5 * row,
        "draft_row": 2 * row,
    }
    bandwidth = found["ceilings"]["bytes_per_second"]

    assert found["models"]["toy-untied"]["bytes"] == expected
    for cell in found["models"]["toy-untied"]["cells"]:
        num_bytes = target + 2 * head + drafter + cell["context_length"] * 7 * row
        assert cell["floor_bytes"] == num_bytes
        assert cell["floor_seconds"] == pytest.approx(num_bytes / bandwidth)
    for cell in found["models"]["toy-untied"]["plain"]:
        assert cell["floor_bytes"] == target + head + cell["context_length"] * 5 * row


def test_a_tied_table_counts_as_the_head_alone():
    """An untied one is not counted at all; the operations are those of matrices and of pairs of rows."""
    tied = floors.round_bytes(random_target(TOY_TIED, CPU, torch.float32), None)
    model = random_target(TOY_UNTIED, CPU, torch.float32)
    network = random_drafter(TOY_UNTIED, CPU, torch.float32)
    flops = floors.round_flops(model, network)
    layer = 48 * 32 + 2 * 48 * 16 + 32 * 48 + 3 * 48 * 64

    assert tied.head == 4 * 96 * 32
    assert tied.target_layers == 4 * (32 * 64 + 2 * 32 * 32 + 64 * 32 + 3 * 32 * 48 + 3 * 32 + 2 * 16)
    assert flops.target_row == 2 * (5 * layer + 96 * 48)
    assert flops.draft == 2 * 4 * (2 * layer + 2 * 48 * 48 + 96 * 48)
    assert flops.total(3, 10) == 3 * (flops.target_row + 13 * 5 * 4 * 32) + flops.draft + 10 * 4 * 2 * 4 * 32


@pytest.mark.parametrize(("shape", "milliseconds"), [(QWEN3_4B, 2.1), (QWEN3_8B, 3.9)])
def test_real_shapes_have_the_known_floors(shape, milliseconds):
    """Of METHOD: at 4.8 TB/s, to the digit given there, and without memory for a single weight."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.target_config, dtype=torch.bfloat16)
        network = DFlashNetwork(shape.draft_config).to(torch.bfloat16)
    seconds = floors.round_bytes(model, network).total(0) / 4.8e12

    assert shape.target_layer_ids == (1, 9, 17, 25, 33)
    assert seconds * 1e3 == pytest.approx(milliseconds, abs=0.1)


def test_the_floor_of_attention_is_the_larger_of_two():
    """By hand: 2 heads, 1 key/value head of 8, 6 committed rows, 2 nodes, 2 bytes a number."""
    shape = AttentionShape(2, 1, 8, 6, 2)
    bytes_seconds, flops_seconds = shape.floor_seconds(Ceilings(100.0, 1000.0, ()), 2)

    assert bytes_seconds == (2 * 8 * 8 + 2 * 2 * 2 * 8) * 2 / 100
    assert flops_seconds == 4 * 2 * 2 * 8 * 8 / 1000


def results(**changes):
    cell = {
        "context_length": 1024,
        "rows": 64,
        "ratio": 1.4,
        "speedup": 5.0,
        "overhead_seconds": 2e-4,
    }
    return {"is_toy": False, "models": {"qwen3-8b": {"cells": [{**cell, **changes}]}}, "attention": []}


def test_targets_are_judged_by_what_was_measured():
    """Reached, missed, and open where there is no figure."""
    reached = {target["name"]: target["reached"] for target in targets.find_targets(results())}

    assert reached["qwen3-8b: round of 64 rows at 1k over its byte floor"] is True
    assert reached["qwen3-8b: eager round over ours, 64 rows at 1k"] is False
    assert reached["qwen3-8b: seconds of candidates, tree, walk and commit, 64 rows at 1k"] is True
    assert reached["qwen3-8b: round of 64 rows at 16k over its byte floor"] is None
    assert all(value is None for name, value in reached.items() if name.startswith("qwen3-4b"))


def test_the_targets_cells_are_among_those_of_a_full_run():
    """A target that nobody measures would stay open for ever."""
    assert {1024, 16_384} <= set(FULL.contexts)
    assert 64 in FULL.rows
    assert {shape.name for shape in FULL.shapes} == {"qwen3-4b", "qwen3-8b"}
    assert 16_384 in FULL.attention_contexts


def test_what_fails_or_finds_no_time_is_named(tmp_path):
    """The rest goes on; the file holds the last lines of the traceback, but not where the files lie."""
    record = Record(tmp_path / "new" / "run.json", 100.0)
    ran = []
    record.attempt("broken", lambda: json.loads("{"))
    record.attempt("too long", lambda: ran.append(1), needed_seconds=101.0)
    record.attempt("good", lambda: ran.append(2))
    record.save()
    found = json.loads(record.path.read_text())

    assert ran == [2]
    assert found["skipped"] == ["too long"]
    assert [failure["part"] for failure in found["failures"]] == ["broken"]
    assert "JSONDecodeError" in found["failures"][0]["traceback"][-1]
    assert str(ROOT) not in record.path.read_text()
    assert not record.is_good


def test_an_accepted_path_leaves_the_chain_where_the_tree_does():
    """A commit then has rows to move."""
    assert accepted_path([-1]) == (0,)
    assert accepted_path([-1, 0, 1, 2]) == (0, 1, 2, 3)
    assert accepted_path([-1, 0, 1, 2, 1, 4, 0]) == (0, 1, 4)


def test_the_papers_tree_is_the_heaviest():
    """By weight the same nodes as ours; the walk follows the target's choices through them."""
    torch.manual_seed(0)
    marginals = Marginals.from_logits(3 * torch.randn(5, 40), 16)
    tree = grow_tree(7, marginals.log_probs.tolist(), marginals.tokens.tolist(), 12)
    ours = heaviest_prefixes(marginals, 12)
    choices = [-1] * 13
    choices[0], choices[1] = tree.tokens[1], tree.tokens[tree.parents.index(1)]

    assert sorted(zip(tree.depths[1:], tree.tokens[1:], strict=True)) == sorted(
        zip(ours.depths.tolist(), ours.tokens.tolist(), strict=True)
    )
    assert walk(tree, choices) == [0, 1, tree.parents.index(1)]


def test_a_clock_that_is_off_notes_nothing():
    """And waits for nothing."""
    waits = []
    clock = StageClock(lambda: waits.append(1))
    clock.start()
    clock.mark("draft")
    off = clock.timings(), len(waits)
    clock.is_on = True
    clock.start()
    clock.mark("draft")

    assert off == ({}, 0)
    assert list(clock.timings()) == ["draft"]
    assert len(waits) == 2
    assert clock.timings() == {}


def test_a_timing_gives_median_and_quartiles():
    """Of one sample, and of several."""
    assert attrs.astuple(Timing.of([2.0])) == (2.0, 2.0, 2.0, 1)
    assert attrs.astuple(Timing.of([1.0, 2.0, 3.0, 4.0, 5.0])) == (3.0, 2.0, 4.0, 5)
