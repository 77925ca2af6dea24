"""The workers of a Ray cluster, seen from the process that plans and stores: who is where, who does what, who is gone.

One thread does everything here: it hands out blocks, takes messages as they come, and starts workers again.
"""

from __future__ import annotations

import logging
import os
import re
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from caddtree.core.errors import ResourceError
from caddtree.experiments.engines.messages import Finished, Loading, Refused
from caddtree.experiments.engines.ray_actor import RayWorker
from caddtree.experiments.engines.ray_seats import Seat, shown_resources
from caddtree.experiments.fingerprint import software
from caddtree.experiments.planning import Job
from caddtree.experiments.work_queue import Assignment, WorkQueue

logger = logging.getLogger(__name__)

PLACEMENT_SECONDS = 60.0
"""A cluster that gives no worker a place for so long is too small, or too busy."""
NOTICE_SECONDS = 10.0
"""After so long it is said that a worker waits for its place."""
_LOOK_SECONDS = 0.5
"""How often clocks are looked at while nobody says anything."""
_DEATHS = 2
"""A worker that dies so often in a row while no cell is to blame is not started again."""


class Crew:
    """All workers of a run.

    Args:
        seats: One per worker.
        job: What they run.
        queue: Where blocks come from and messages go.
    """

    def __init__(self, seats: Sequence[Seat], job: Job, queue: WorkQueue) -> None:
        self._members = [_Member(seat, job) for seat in seats]
        self._job, self._queue = job, queue
        self._deaths_loading: Counter[str] = Counter()
        self._next: Assignment | None = None
        """Taken from the queue, and waiting for a worker."""
        self._has_said_who_waits = False

    def run(self) -> None:
        """Run everything in the queue.

        Raises:
            CaddtreeError: What a worker raised when it could not load the target.
            ResourceError: If no worker finds a place, or all of them die while no cell is to blame.
        """
        try:
            # a block that is being run may come back, so the end is where nobody runs any
            while self._has_work() or any(member.assignment is not None for member in self._members):
                self._hand_out()
                self._listen()
                self._check_places()
        finally:
            for member in self._members:
                member.dismiss()

    def _has_work(self) -> bool:
        self._next = self._next or self._queue.take()
        return self._next is not None

    def _hand_out(self) -> None:
        for member in self._members:
            if member.is_idle and self._has_work():
                assert self._next is not None
                member.begin(self._next)
                self._next = None
        for member in self._members:
            if member.actor is None and self._has_work():
                member.start()

    def _listen(self) -> None:
        """Take one message of everyone who said something, and lose those who were silent for too long."""
        streams = [member.stream for member in self._members if member.stream is not None]
        ray.wait(streams, timeout=_LOOK_SECONDS)
        ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0)
        heard = {id(stream) for stream in ready}
        for member in list(self._members):
            if id(member.stream) in heard:
                self._hear(member)
            elif member.is_timed and member.waited_seconds > self._job.timeout_seconds:
                reason = f"the worker {member.where} said nothing for {self._job.timeout_seconds:g} seconds"
                self._lose(member, reason)

    def _hear(self, member: _Member) -> None:
        try:
            message = member.receive()
        except RayError as error:
            return self._lose(member, f"the worker {member.where} {_cause(error)}")
        match message:
            case str():
                member.load(message)
            case Loading():
                member.loading = message.variant
            case Finished():
                member.rest()
            case Refused():
                raise type(message.error)(f"the worker {member.where}: {message.error}") from message.error
            case _ if member.assignment is None:
                self._queue.receive_loaded(message)
            case _:
                self._queue.receive(member.assignment, message)

    def _lose(self, member: _Member, reason: str) -> None:
        assignment, variant = member.assignment, member.loading
        member.dismiss()
        if variant:
            self._blame(variant, reason)
        elif assignment is None or assignment.running is None:
            member.num_deaths += 1
        if assignment is not None:
            self._queue.lose(assignment, reason)
        logger.warning("%s while it %s", reason, _shown(assignment))
        if member.num_deaths >= _DEATHS:
            self._members.remove(member)
            left = len(self._members)
            logger.warning("given up after %d deaths in a row that no cell is to blame for; %d are left", _DEATHS, left)
        if not self._members:
            raise ResourceError(f"every worker died {_DEATHS} times while it loaded the models; the last: {reason}")

    def _blame(self, variant: str, reason: str) -> None:
        """Count a death against the variant that was being loaded; one that goes on killing is not tried again."""
        self._deaths_loading[variant] += 1
        if self._deaths_loading[variant] >= self._job.attempts:
            for member in self._members:
                member.give_up(variant, reason)

    def _check_places(self) -> None:
        waiting = [member for member in self._members if member.is_waiting]
        longest = max((member.waited_seconds for member in waiting), default=0.0)
        if longest > NOTICE_SECONDS and not self._has_said_who_waits:
            self._has_said_who_waits = True
            logger.warning("%s", _waiting(waiting, len(self._members)))
        if len(waiting) == len(self._members) and min(m.waited_seconds for m in waiting) > PLACEMENT_SECONDS:
            raise ResourceError(
                f"{_waiting(waiting, len(self._members))}. None was placed in {PLACEMENT_SECONDS:g} seconds: ask for "
                "fewer threads, or wait until others have left the cluster"
            )


class _Member:
    """One worker: absent, waiting for its place, loading, idle or running a block."""

    def __init__(self, seat: Seat, job: Job) -> None:
        self.seat = seat
        self._job = attrs.evolve(job, threads=seat.threads)
        self.actor: Any = None
        self.stream: Any = None
        """What it says next comes out of here; None while there is nothing to wait for."""
        self.where = ""
        """Host and process, in words."""
        self.is_waiting = False
        """Whether it was asked for and has no place yet."""
        self.loading = ""
        """The variant that it loads; empty before the first, and afterwards."""
        self.assignment: Assignment | None = None
        self.num_deaths = 0
        """In a row, while no cell was to blame."""
        self._heard = 0.0

    def dismiss(self) -> None:
        """End the actor, whatever it is doing."""
        if self.actor is not None:
            ray.kill(self.actor)
        self.actor = self.stream = self.assignment = None
        self.is_waiting, self.loading = False, ""

    def give_up(self, variant: str, reason: str) -> None:
        """Load it no more."""
        self._job = attrs.evolve(self._job, unusable={**self._job.unusable, variant: reason})

    @property
    def is_timed(self) -> bool:
        """Whether a long silence means that it hangs: in a cell, and while a variant is loaded."""
        return self.assignment is not None or bool(self.loading)

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded and has nothing to do."""
        return self.actor is not None and self.stream is None

    @property
    def waited_seconds(self) -> float:
        """Seconds since it was asked for something or said something."""
        return time.monotonic() - self._heard

    def start(self) -> None:
        """Ask the cluster for a place; what it says first is where that is."""
        seat = self.seat
        affinity = None if seat.node is None else NodeAffinitySchedulingStrategy(seat.node, soft=True)
        # started again by us alone: Ray would not tell the queue
        options = {"num_cpus": seat.num_cpus, "num_gpus": seat.num_gpus, "max_restarts": 0, "max_task_retries": 0}
        self.actor = ray.remote(RayWorker).options(**options, scheduling_strategy=affinity).remote()
        self.where, self.is_waiting = "that has no place yet", True
        self._wait_for(self.actor.introduce.remote())

    def load(self, where: str) -> None:
        """Load the models; it has its place."""
        self.where, self.is_waiting = where, False
        target = next(iter(self._job.variants.values())).target
        # Ray shows an actor its own GPU alone: the recipe's number would be another one, or none
        device = "cuda" if self.seat.num_gpus and target.device.startswith("cuda") else None
        level = os.environ.get("CADDTREE_LOG", "INFO").upper()
        stream = self.actor.load.options(num_returns="streaming")
        self._wait_for(stream.remote(software(), [ray.put(self._job)], device, level))

    def begin(self, assignment: Assignment) -> None:
        """Run a block."""
        self.assignment = assignment
        self._wait_for(self.actor.run.options(num_returns="streaming").remote(assignment.block))

    def receive(self) -> Any:
        """Return what it says; there must be something.

        Raises:
            RayError: If it is gone, or raised.
        """
        self._heard = time.monotonic()
        return ray.get(self.stream if self.is_waiting else next(self.stream))

    def rest(self) -> None:
        """Be done with loading, or with a block."""
        if self.assignment is not None:
            self.num_deaths = 0
        self.assignment = self.stream = None
        self.loading = ""

    def _wait_for(self, stream: Any) -> None:
        self.stream, self._heard = stream, time.monotonic()


def _cause(error: RayError) -> str:
    """Return what became of a worker, in one line."""
    if isinstance(error, RayTaskError):
        return f"raised {type(error.cause).__name__}: {_first_line(error.cause)}"
    if isinstance(error, RayActorError):
        # Ray guesses at causes, over several lines
        found = re.search(r"exit type: (\w+) Worker exit detail: ([^.]+)", str(error))
        said = ": ".join(found.groups()) if found else textwrap.shorten(str(error).splitlines()[-1], 160)
        return f"died ({said})"
    return f"is lost ({type(error).__name__}: {_first_line(error)})"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def _shown(assignment: Assignment | None) -> str:
    if assignment is None:
        return "loaded the models"
    cell = assignment.running
    return "ran no cell" if cell is None else f"ran {cell.variant} on {cell.dataset} {cell.prompt}"


def _waiting(waiting: Sequence[_Member], num_members: int) -> str:
    asked = ", ".join(sorted({str(member.seat) for member in waiting}))
    return (
        f"{len(waiting)} of {num_members} Ray workers wait for a place ({asked} each); "
        f"the cluster has {shown_resources(ray.nodes())}, some of it perhaps in use"
    )
