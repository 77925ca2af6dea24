"""Notices within seconds that another process of a group has failed, died or left, and says which and why.

A process that waits in a collective operation learns at best that a connection is gone, and on some devices nothing at
all. So every process says in a store that all of them reach that it lives, and where it is; the first that fails says
why. One thread per process keeps this up while the process is busy.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from typing import Any

logger = logging.getLogger(__name__)

_BEAT_SECONDS = 0.5
_SILENT_SECONDS = 12.0
"""A busy machine may keep a healthy process from its beat for a while."""
_SUSPECT_SECONDS = 2.0
"""The same where something else says already that a process is gone."""
_STORE_SECONDS = 5.0
_TOLD_SECONDS = 4.0
"""After SIGTERM: time to find out and say what happened elsewhere. torchrun kills after 30."""
_FAILURE = "failure"
_LEFT = "left"
EXIT_LOST = 1


class Watch:
    """One process's view of the others.

    Args:
        store: A ``torch.distributed`` store of this thread's own.
        rank: The number of this process.
        size: Processes in the group.
        stuck_seconds: How long this process may stay in a step after the group has ended. A device may wait in a
            collective operation for ever; the process is then ended from here.
    """

    def __init__(self, store: Any, rank: int, size: int, *, stuck_seconds: float) -> None:
        self.rank, self.size = rank, size
        self.where = "no request"
        """What this process is doing, for the others to read."""
        self.steps_entered = 0
        self.ending: str | None = None
        """Which process ended the group and why; None while all is well."""
        self.left: set[int] = set()
        """Ranks that came to their end in good order."""
        self.is_suspicious = False
        """Whether a short silence is enough to call a process dead."""
        self._store, self._stuck_seconds = store, stuck_seconds
        store.set_timeout(timedelta(seconds=_STORE_SECONDS))
        self._beats = 0
        self._heard: dict[int, tuple[str, float]] = {}
        self._ended_at: float | None = None
        self._told_at: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caddtree-watch", daemon=True)
        self.beat()

    def start(self) -> None:
        """Start to listen; every process has given its first beat."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            # torchrun ends the others as soon as one is gone, before they could say what they saw of it
            signal.signal(signal.SIGTERM, self._told_to_end)
        self._thread.start()

    def stop(self) -> None:
        """Leave the group in good order."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            if self.ending is None:
                try:
                    self._store.set(f"beat/{self.rank}", _LEFT)
                except RuntimeError:
                    logger.debug("the store went before this process", exc_info=True)

    def beat(self) -> None:
        """Say that this process lives, and where it is."""
        self._beats += 1
        self._store.set(f"beat/{self.rank}", f"{self._beats} {self.where}")

    def tell(self, cause: str) -> None:
        """Say why this process ends the group; the first to say something counts."""
        self._end(f"rank {self.rank} {cause}")
        try:
            self._store.compare_set(_FAILURE, "", f"{self.rank} {cause}")
        except RuntimeError:
            logger.debug("nobody can be told any more", exc_info=True)

    def found_within(self, seconds: float) -> str | None:
        """Return what ended the group, waiting for a clue at most so long: a connection was lost."""
        self.is_suspicious = True
        until = time.monotonic() + seconds
        while self.ending is None and time.monotonic() < until:
            if self.left:
                self._end(f"rank {min(self.left)} has ended its process")
            time.sleep(_BEAT_SECONDS / 10)
        return self.ending

    def whereabouts(self) -> str:
        """Return where the others were last, as words."""
        return ", ".join(f"rank {rank} is in {said.partition(' ')[2]}" for rank, (said, _) in self._heard.items())

    def _end(self, ending: str) -> None:
        if self.ending is None:
            self.ending, self._ended_at = ending, time.monotonic()

    def _told_to_end(self, *_: object) -> None:
        self.is_suspicious, self._told_at = True, time.monotonic()

    def _run(self) -> None:
        while not self._stop.wait(_BEAT_SECONDS):
            try:
                self.beat()
                self._listen()
            except RuntimeError as error:
                self._end(f"lost the store that all processes share ({first_line(error)}): its process is gone")
            now = time.monotonic()
            if self._ended_at is not None and self.steps_entered and now - self._ended_at > self._stuck_seconds:
                self._leave(EXIT_LOST)
            if self._told_at is not None and now - self._told_at > _TOLD_SECONDS:
                self._leave(128 + signal.SIGTERM)

    def _listen(self) -> None:
        if self._store.check([_FAILURE]):
            rank, _, cause = self._store.get(_FAILURE).decode().partition(" ")
            self._end(f"rank {rank} {cause}")
        others = [rank for rank in range(self.size) if rank != self.rank]
        now = time.monotonic()
        for rank, said in zip(others, self._store.multi_get([f"beat/{rank}" for rank in others]), strict=True):
            text = said.decode()
            if text == _LEFT:
                self.left.add(rank)
            elif self._heard.get(rank, ("", 0.0))[0] != text:
                self._heard[rank] = text, now
        # the one that is silent for longest went first
        for rank, (said, at) in sorted(self._heard.items(), key=lambda entry: entry[1][1]):
            if rank not in self.left and now - at > (_SUSPECT_SECONDS if self.is_suspicious else _SILENT_SECONDS):
                self._end(
                    f"rank {rank} has not been heard of for {now - at:.0f} s: killed, stopped or cut off; "
                    f"last seen in {said.partition(' ')[2]}"
                )

    def _leave(self, code: int) -> None:
        """End this process, whose main thread waits where no exception reaches it."""
        name = "" if self.rank == 0 else f"rank {self.rank}: "
        print(f"{name}error: {self.where}: {self.ending or 'ended by SIGTERM'}", file=sys.__stderr__, flush=True)
        os._exit(code)


def first_line(error: BaseException) -> str:
    """Return what an error says, without its details."""
    return str(error).strip().partition("\n")[0]
