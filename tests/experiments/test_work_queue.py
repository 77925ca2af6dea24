"""The queue's rules: what a dead worker leaves is run again, but not for ever."""

from __future__ import annotations

import attrs

from caddtree.core.options import GenerationOptions
from caddtree.experiments.engines.messages import Began
from caddtree.experiments.planning import Block, Job
from caddtree.experiments.prompts import PromptRecord
from caddtree.experiments.records import Cell, Failed, Lost, Result, RoundColumns
from caddtree.experiments.work_queue import WorkQueue

CELLS = tuple(Cell(f"c{index}", variant, "", "set", "0", 0, 0) for index, variant in enumerate(("a", "plain", "b")))
BLOCK = Block(PromptRecord("0", "set", "text"), GenerationOptions(), CELLS)


def make_queue(blocks=(BLOCK,), attempts=2, num_lost=None):
    fingerprints = dict.fromkeys(("a", "plain", "b"), "now")
    job = Job({}, "plain", "plain", fingerprints, (), (), 1, 60.0, attempts)
    written = []
    return WorkQueue(blocks, job, num_lost or {}, written.append), written


def result(cell):
    return Result(cell, "now", "e", 0, "", "length", 3, [7, 8], 0.0, 0.0, RoundColumns(*([] for _ in range(11))), None)


def test_what_is_done_is_not_run_again():
    """The worker dies in the second of three cells: that one and the third come back, beside plain decoding."""
    queue, written = make_queue()
    assignment = queue.take()
    for message in (Began(CELLS[0]), result(CELLS[0]), Began(CELLS[1])):
        queue.receive(assignment, message)
    queue.lose(assignment, "died")
    again = queue.take()

    assert [cell.id for cell in again.block.cells] == ["c1", "c2"]
    assert [type(record) for record in written] == [Result, Lost]
    assert written[1].cell == CELLS[1]
    assert again.block.references == ()
    for message in (Began(CELLS[1]), result(CELLS[1]), Began(CELLS[2])):
        queue.receive(again, message)
    queue.lose(again, "died")
    last = queue.take()
    assert [cell.id for cell in last.block.cells] == ["c2"]
    # ratios are taken within one worker: the new one runs plain decoding once more
    assert [cell.id for cell in last.block.references] == ["c1"]


def test_a_reference_that_kills_its_workers_is_left_out():
    """It has a result already; the cell beside it is run without it in the end."""
    queue, written = make_queue([attrs.evolve(BLOCK, cells=CELLS[2:], references=CELLS[1:2])])
    for _ in range(2):
        assignment = queue.take()
        queue.receive(assignment, Began(CELLS[1]))
        queue.lose(assignment, "died")
    last = queue.take()

    assert [type(record) for record in written] == [Lost, Lost, Failed]
    assert (last.block.cells, last.block.references) == (CELLS[2:], ())


def test_a_block_that_kills_its_workers_before_any_cell_begins_is_given_up():
    """There is no cell to blame, but no end either otherwise."""
    queue, written = make_queue()
    for _ in range(3):
        queue.lose(queue.take(), "died")

    assert [type(record) for record in written] == [Failed] * 3
    assert "before it began, 3 times" in written[0].reason
    assert queue.take() is None


def test_a_cell_that_kills_its_workers_is_given_up():
    """FT-40: after two, with the reason; the others of its block go on."""
    queue, written = make_queue()
    for _ in range(2):
        assignment = queue.take()
        queue.receive(assignment, Began(CELLS[0]))
        queue.lose(assignment, "the worker died (SIGSEGV)")

    assert [type(record) for record in written] == [Lost, Lost, Failed]
    assert written[2].reason == "the worker died (SIGSEGV), 2 times"
    assert [cell.id for cell in queue.take().block.cells] == ["c1", "c2"]


def test_workers_that_earlier_runs_lost_count():
    """A cell that lost one worker yesterday is given up after one more."""
    queue, written = make_queue(num_lost={"c0": 1})
    assignment = queue.take()
    queue.receive(assignment, Began(CELLS[0]))
    queue.lose(assignment, "died")

    assert [type(record) for record in written] == [Lost, Failed]


def test_a_worker_that_dies_between_cells_blames_none():
    """Nothing is written; the block comes back whole."""
    queue, written = make_queue()
    queue.lose(queue.take(), "died")

    assert not written
    assert queue.take().block.cells == CELLS
    assert queue.take() is None


def test_a_block_whose_last_cell_is_given_up_does_not_come_back():
    """Empty blocks are no work."""
    queue, _ = make_queue(attempts=1)
    assignment = queue.take()
    for cell in CELLS[:2]:
        queue.receive(assignment, Began(cell))
        queue.receive(assignment, Failed(cell, "now", "raised"))
    queue.receive(assignment, Began(CELLS[2]))
    queue.lose(assignment, "died")

    assert queue.take() is None
