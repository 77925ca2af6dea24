"""One worker in a process of its own: what hangs or kills it is ended, written down and run again."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from multiprocessing.connection import Pipe
from typing import Any

import attrs

from caddtree.core.errors import ResourceError
from caddtree.experiments.engines.messages import Finished, Loading, Refused, Unusable
from caddtree.experiments.planning import Job
from caddtree.experiments.work_queue import Assignment, WorkQueue

logger = logging.getLogger(__name__)


def run_local(job: Job, queue: WorkQueue) -> None:
    """Run everything in the queue in one worker process, which is started again when it dies.

    Raises:
        CaddtreeError: What the worker raised when it could not load the target.
        ResourceError: If the worker dies while it loads the target.
    """
    worker: _Process | None = None
    # by what was being loaded; the empty word is the target
    deaths: Counter[str] = Counter()
    try:
        while (assignment := queue.take()) is not None:
            if worker is None:
                worker = _Process(job)
                reason = worker.load(queue, job.timeout_seconds)
                if reason is not None:
                    worker.end()
                    variant, worker = worker.loading, None
                    deaths[variant] += 1
                    queue.return_unbegun(assignment)
                    logger.warning("%s while it loaded %s", reason, variant or "the target")
                    if deaths[variant] >= job.attempts:
                        job = _without(job, variant, reason)
                    continue
            reason = worker.run(assignment, queue, job.timeout_seconds)
            if reason is not None:
                logger.warning("%s while it ran %s; a new one goes on", reason, _shown(assignment))
                queue.lose(assignment, reason)
                worker.end()
                worker = None
    finally:
        if worker is not None:
            worker.end()


def _without(job: Job, variant: str, reason: str) -> Job:
    """Return the job with a variant given up, whose cells then fail one by one while the others are run."""
    if not variant:
        raise ResourceError(f"the worker died {job.attempts} times while it loaded the target: {reason}")
    return attrs.evolve(job, unusable={**job.unusable, variant: reason})


class _Process:
    """The worker process, seen from outside."""

    def __init__(self, job: Job) -> None:
        self._connection, theirs = Pipe()
        # the read end of this pipe sees its end when this process is gone, however it went
        lifeline, self._lifeline = os.pipe()
        # with this process's path: neither the current folder in front of it, nor anything of it lost
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from caddtree.experiments.engines.worker_process import main; main({theirs.fileno()}, {lifeline})"
        )
        self.loading = ""
        """The variant that it said it loads."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            pass_fds=(theirs.fileno(), lifeline),
            stdin=subprocess.DEVNULL,
            # an interrupt on the terminal is for the parent, which ends the worker itself
            start_new_session=True,
        )
        theirs.close()
        os.close(lifeline)
        self._send(job)

    def load(self, queue: WorkQueue, timeout_seconds: float) -> str | None:
        """Wait until models are loaded and warm; return why it died or hangs, or None."""
        while True:
            # the target may have to be fetched first
            message = self._receive(timeout_seconds if self.loading else None)
            match message:
                case Loading():
                    self.loading = message.variant
                    continue
                case Finished():
                    return None
                case Refused():
                    raise message.error
                case Unusable():
                    return message.reason
            queue.receive_loaded(message)

    def run(self, assignment: Assignment, queue: WorkQueue, timeout_seconds: float) -> str | None:
        """Run a block; return why the worker could not finish it, or None."""
        self._send(assignment.block)
        while True:
            message = self._receive(timeout_seconds)
            match message:
                case Finished():
                    return None
                case Unusable():
                    return message.reason
            queue.receive(assignment, message)

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        os.close(self._lifeline)

    def _send(self, value: Any) -> None:
        # where it is dead, the next receive says of what
        with contextlib.suppress(OSError):
            self._connection.send(value)

    def _receive(self, timeout_seconds: float | None) -> Any:
        try:
            if not self._connection.poll(timeout_seconds):
                return Unusable(f"the worker said nothing for {timeout_seconds:g} seconds")
            return self._connection.recv()
        except (EOFError, OSError):
            return Unusable(f"the worker died ({_cause(self._process.wait())})")


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name}; out of memory?" if name == "SIGKILL" else name


def _shown(assignment: Assignment) -> str:
    cell = assignment.running
    return "no cell" if cell is None else f"{cell.variant} on {cell.dataset} {cell.prompt}"
