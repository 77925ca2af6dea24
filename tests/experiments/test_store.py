"""The folder of a run: whole lines or none, one writer, the present state alone."""

from __future__ import annotations

import json
import subprocess
import sys

import attrs
import pytest

from caddtree.core.errors import InputError
from caddtree.experiments import store
from caddtree.experiments.records import (
    Cell,
    Difference,
    Environment,
    Failed,
    LoadedVariant,
    Lost,
    Reliability,
    Result,
    RoundColumns,
    from_line_values,
    to_line_values,
)
from caddtree.experiments.store import Plan, RunFolder

CELLS = tuple(
    Cell(f"{variant}{index}", variant, "", "set", str(index), 0, 0)
    for index in range(3)
    for variant in ("plain", "mine")
)


def plan(**changes):
    made = Plan(
        label="small",
        description="",
        baseline="plain",
        plain="plain",
        variants={"plain": {}, "mine": {}},
        settings={"": {"temperature": 0.0}},
        datasets=("set",),
        fingerprints={"plain": "now", "mine": "now"},
        cells=CELLS,
        text="",
    )
    return attrs.evolve(made, **changes)


def result(cell, tokens=(1, 2), fingerprint="now"):
    rounds = RoundColumns([5], [3], [2], [2], [1], [0.7], [0.1], [0.1], [0.1], [0.1], [None])
    return Result(cell, fingerprint, "e", 0, "", "length", 5, list(tokens), 0.1, 0.0, rounds, None)


@pytest.fixture
def run(tmp_path):
    made = RunFolder(tmp_path / "run")
    with made.locked():
        made.write_plan(plan())
    return made


@pytest.mark.parametrize(
    "record",
    [
        result(CELLS[0]),
        attrs.evolve(result(CELLS[0]), reliability=Reliability([1] * 20, [0] * 20, [0.5] * 20)),
        Failed(CELLS[0], "now", "why"),
        Lost(CELLS[0], "now", "why"),
        Difference(CELLS[0], "now", 3, None),
        Environment("e", {"device": "cpu"}),
        LoadedVariant("mine", "now", "e", {}, None, 1, None, 3, 0.1, 0.2),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_survives_its_line(record):
    """Written and read back, equal."""
    back = from_line_values(json.loads(json.dumps(to_line_values(record))))

    assert type(back) is type(record)
    assert attrs.asdict(back) == attrs.asdict(record)


def test_a_line_that_was_not_finished_is_cut_and_its_cell_is_missing(run):
    """As a killed process leaves it; what came before stays as it is, byte for byte."""
    run.append(result(CELLS[0]))
    before = run.records_path.read_bytes()
    with run.records_path.open("ab") as file:
        file.write(b'{"kind":"result","cell":{"id":')

    assert set(run.read().results) == {CELLS[0].id}
    run.repair()
    assert run.records_path.read_bytes() == before
    run.append(result(CELLS[1]))
    assert set(run.read().results) == {CELLS[0].id, CELLS[1].id}


def test_a_file_that_is_one_long_unfinished_line_becomes_empty(run):
    """Longer than one step of the search for its beginning."""
    run.records_path.write_bytes(b"x" * 200_000)
    run.repair()
    assert run.records_path.read_bytes() == b""


def test_a_full_disk_leaves_whole_lines_and_says_so(run, monkeypatch):
    """FT-19: half of the line is written, then no more; the half goes."""
    run.append(result(CELLS[0]))
    before = run.records_path.read_bytes()

    def full(file, line):
        file.write(line[: len(line) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_write_all", full)
    with pytest.raises(
        InputError, match=r"records.jsonl: cannot be written: No space left.*run the same command again"
    ):
        run.append(result(CELLS[1]))

    assert run.records_path.read_bytes() == before


def test_a_damaged_line_is_named(run):
    """File and line, and what to do."""
    run.append(result(CELLS[0]))
    with run.records_path.open("ab") as file:
        file.write(b"rubbish\n")
    with pytest.raises(InputError, match=r"records.jsonl:2: is no record of a run"):
        run.read()


def test_only_results_of_the_present_state_count(run):
    """FT-42: those of other code or model files are stale, kept in the file, and their cells are missing."""
    run.append(result(CELLS[0], fingerprint="before"))
    run.append(result(CELLS[1]))
    data = run.read()

    assert set(data.results) == {CELLS[1].id}
    assert data.num_stale == 1
    assert CELLS[0] in data.missing
    run.append(result(CELLS[0]))
    assert run.read().num_stale == 0


def test_cells_that_are_not_planned_any_more_do_not_count(run):
    """A smaller experiment in the same folder; the larger one finds its results again."""
    run.append(result(CELLS[5]))
    with run.locked():
        run.write_plan(plan(cells=CELLS[:2]))
    assert not run.read().results
    with run.locked():
        run.write_plan(plan())
    assert set(run.read().results) == {CELLS[5].id}


def test_a_result_replaces_a_failure_and_the_first_result_counts(run):
    """Failed, then run again; what is run once more is there for its worker's other cells alone."""
    run.append(Failed(CELLS[0], "now", "why"))
    assert set(run.read().failed) == {CELLS[0].id}
    run.append(result(CELLS[0], (1, 1)))
    run.append(attrs.evolve(result(CELLS[0], (2, 2)), environment="later"))
    run.append(Failed(CELLS[0], "now", "as a reference"))
    data = run.read()

    assert not data.failed
    assert [entry.token_ids for entry in data.results.values()] == [[1, 1]]
    assert data.references[CELLS[0].id, "later"].token_ids == [2, 2]


def test_a_run_of_other_cells_is_not_written_over(run):
    """Another base or other request options under the same name: the folder is kept as it is."""
    run.append(result(CELLS[0]))
    others = tuple(attrs.evolve(cell, id=f"other-{cell.id}") for cell in CELLS)
    with pytest.raises(InputError, match="of which no cell is in the present experiment"):
        run.write_plan(plan(cells=others))
    run.write_plan(plan(cells=CELLS[2:]))
    assert run.read().num_unplanned == 1


def test_outputs_that_differ_from_plain_decoding_are_found_by_their_tokens(run):
    """Whichever of the two came first, and whatever a worker said."""
    run.append(result(CELLS[1], (1, 3)))
    assert run.read().differing == ()
    run.append(result(CELLS[0], (1, 2)))
    run.append(result(CELLS[2], (7,)))
    run.append(result(CELLS[3], (7,)))

    assert run.read().differing == (CELLS[1],)


def test_a_folder_has_one_writer(run):
    """Another process is refused; when the first is killed its lock is gone."""
    code = (
        "import sys, time; from pathlib import Path; from caddtree.experiments.store import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): print('in', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(run.folder)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(InputError, match="being written by another sweep"), run.locked():
            pass
    finally:
        other.kill()
        other.wait()
    with run.locked():
        pass


def test_a_folder_keeps_to_one_experiment(run):
    """Another name is refused, the same one goes on."""
    with pytest.raises(InputError, match="holds the run of the experiment 'small', not 'other'"):
        run.write_plan(plan(label="other"))
    run.write_plan(plan(description="new words"))
    assert run.read().plan.description == "new words"


def test_what_is_no_run_says_so(tmp_path):
    """An empty folder, a plan of another format, rubbish."""
    with pytest.raises(InputError, match="is no folder of a run"):
        RunFolder(tmp_path).read()
    (tmp_path / "experiment.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="must be a plan of format 1, found 99"):
        RunFolder(tmp_path).read()
    (tmp_path / "experiment.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="is no plan of a run"):
        RunFolder(tmp_path).read()
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        RunFolder(tmp_path).read()
