"""What is still to be run, and what becomes of a block whose worker died: the rules that all engines share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import attrs

from caddtree.experiments.engines.messages import Began, Message
from caddtree.experiments.planning import Block, Job, what_is_left
from caddtree.experiments.records import Cell, Difference, Environment, Failed, LoadedVariant, Lost, Record, Result


class Assignment:
    """A block on its way through a worker."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.remaining = {cell.id: cell for cell in block.cells}
        self.running: Cell | None = None
        """The cell that its worker said it began; None before the first and after the last one."""


class WorkQueue:
    """Blocks in order; every message of a worker goes through it.

    Args:
        blocks: What is missing, in the order in which it is to be run.
        job: Says how often a cell may lose its worker.
        num_lost: Workers that a cell has lost already, by cell id.
        write: Keeps a record.
    """

    def __init__(
        self, blocks: Sequence[Block], job: Job, num_lost: Mapping[str, int], write: Callable[[Record], None]
    ) -> None:
        self._blocks = deque(blocks)
        self._job, self._write = job, write
        self._num_lost = dict(num_lost)
        self._given_up: set[str] = set()
        self._num_idle_deaths: dict[tuple[str, str, str, int, int], int] = {}
        """Workers that died with a block while no cell was to blame."""

    def take(self) -> Assignment | None:
        """Return the next block, or None when there is none left; one that is being run may still come back."""
        return Assignment(self._blocks.popleft()) if self._blocks else None

    def receive(self, assignment: Assignment, message: Message) -> None:
        """Take what a worker says about its block."""
        match message:
            case Began():
                assignment.running = message.cell
                return
            case Result():
                self._end(assignment, message.cell)
            case Failed():
                self._given_up.add(message.cell.id)
                self._end(assignment, message.cell)
        self._write(message)

    def receive_loaded(self, record: Record) -> None:
        """Take what a worker says about itself."""
        assert isinstance(record, Environment | LoadedVariant | Difference)
        self._write(record)

    def return_unbegun(self, assignment: Assignment) -> None:
        """Take a block back that no worker saw."""
        self._blocks.appendleft(assignment.block)

    def lose(self, assignment: Assignment, reason: str) -> None:
        """Take a block back whose worker died or hung; the cell that it was running is given up if it is not the first.

        Its other cells are run again by the next worker that asks.
        """
        cell = assignment.running
        if cell is not None:
            self._num_lost[cell.id] = times = self._num_lost.get(cell.id, 0) + 1
            self._write(Lost(cell, self._job.fingerprints[cell.variant], reason))
            if times >= self._job.attempts:
                self._give_up(assignment, cell, f"{reason}, {times} times")
        elif assignment.remaining:
            key = next(iter(assignment.remaining.values())).block
            self._num_idle_deaths[key] = times = self._num_idle_deaths.get(key, 0) + 1
            if times > self._job.attempts:
                for other in list(assignment.remaining.values()):
                    self._give_up(assignment, other, f"{reason}, before it began, {times} times")
        block = assignment.block
        known = attrs.evolve(block, cells=(*block.cells, *block.references), references=())
        left = what_is_left(known, set(assignment.remaining), self._job.plain, self._job.baseline)
        if left is not None:
            usable = tuple(cell for cell in left.references if cell.id not in self._given_up)
            self._blocks.appendleft(attrs.evolve(left, references=usable))

    def _give_up(self, assignment: Assignment, cell: Cell, reason: str) -> None:
        self._given_up.add(cell.id)
        assignment.remaining.pop(cell.id, None)
        self._write(Failed(cell, self._job.fingerprints[cell.variant], reason))

    def _end(self, assignment: Assignment, cell: Cell) -> None:
        assignment.remaining.pop(cell.id, None)
        assignment.running = None
