"""The processes of one torchrun that hold a sharded target together: :class:`caddtree.core.group.Group` over gloo."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from caddtree.core.errors import CompatibilityError, GroupError
from caddtree.runtime.watch import Watch, first_line
from caddtree.runtime.wire import from_bytes, to_bytes

_CLUE_SECONDS = 3.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.05
_MESSAGE_BYTES = 1 << 14
"""What one broadcast carries: a tree of 256 draft nodes takes half of it."""
_HEADER_BYTES = 8
_BEGINS = "what begins"

T = TypeVar("T")


class RankGroup:
    """This process among those that decode in lockstep.

    Args:
        store: A ``torch.distributed`` store of this thread's own.
        control: A process group for data of the host.
        watch: Knows when the group has ended.
    """

    def __init__(self, store: Any, control: dist.ProcessGroup, watch: Watch) -> None:
        self.rank, self.size = watch.rank, watch.size
        self._store, self._control, self._watch = store, control, watch
        self._message = torch.zeros(_HEADER_BYTES + _MESSAGE_BYTES, dtype=torch.uint8)
        self._num_meetings = 0

    def share(self, make: Callable[[], T]) -> T:
        """Return what rank 0 makes, by one broadcast; a second one carries what is too long for it."""
        self._refuse_after_the_end("sharing")
        try:
            if self.rank == 0:
                value = make()
                self._send(to_bytes(value))
                return value
            received: T = from_bytes(self._receive())
            return received
        except RuntimeError as error:
            if _is_lost(error):
                raise self._lost(error, self._watch.where) from error
            raise

    def meet(self, what: str, facts: Callable[[], Mapping[str, str]]) -> None:
        """Wait for all processes, then compare their facts with those of rank 0."""
        number, self._num_meetings = self._num_meetings, self._num_meetings + 1
        outer, self._watch.where = self._watch.where, f"the wait for {what}"
        try:
            self._refuse_after_the_end(what)
            mine = {_BEGINS: what, **facts()}
            self._store.set(f"meeting/{number}/{self.rank}", json.dumps(mine))
            self._wait_for([f"meeting/{number}/{rank}" for rank in range(self.size)], what)
            said = [json.loads(self._store.get(f"meeting/{number}/{rank}")) for rank in range(self.size)]
            # whoever has come here has read everything of the meeting before
            self._store.delete_key(f"meeting/{number - 2}/{self.rank}")
        finally:
            self._watch.where = outer
        differing = _differences(said)
        if differing:
            raise CompatibilityError(f"{what}: {differing}. All processes must be started alike and asked the same.")

    @contextmanager
    def together(self, where: str) -> Iterator[None]:
        """End the group by what is raised inside, unless another process is the cause of it: then say which."""
        watch = self._watch
        self._refuse_after_the_end(where)
        outer, watch.where = watch.where, where
        watch.steps_entered += 1
        try:
            yield
        except GroupError:
            raise
        except BaseException as error:
            if _is_lost(_origin(error)):
                raise self._lost(_origin(error), where) from error
            if watch.ending is None:
                said = "was interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                watch.tell(f"{said}: {type(error).__name__}: {first_line(error)}".rstrip(": "))
            raise
        finally:
            watch.steps_entered -= 1
            watch.where = outer

    def close(self) -> None:
        """Leave; called once, as the process ends."""
        self._watch.stop()
        # after a fault others may be gone, and some back-ends would wait for them
        if self._watch.ending is None and dist.is_initialized():
            dist.destroy_process_group()

    def _send(self, message: bytes) -> None:
        whole = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        short = whole[:_MESSAGE_BYTES]
        self._message[:_HEADER_BYTES].view(torch.int64)[0] = len(whole)
        self._message[_HEADER_BYTES : _HEADER_BYTES + len(short)] = short
        dist.broadcast(self._message, 0, group=self._control)
        if len(whole) > _MESSAGE_BYTES:
            dist.broadcast(whole[_MESSAGE_BYTES:].contiguous(), 0, group=self._control)

    def _receive(self) -> bytes:
        dist.broadcast(self._message, 0, group=self._control)
        length = int(self._message[:_HEADER_BYTES].view(torch.int64)[0])
        short = self._message[_HEADER_BYTES : _HEADER_BYTES + min(length, _MESSAGE_BYTES)].numpy().tobytes()
        if length <= _MESSAGE_BYTES:
            return short
        rest = torch.zeros(length - _MESSAGE_BYTES, dtype=torch.uint8)
        dist.broadcast(rest, 0, group=self._control)
        return short + rest.numpy().tobytes()

    def _wait_for(self, keys: list[str], what: str) -> None:
        pause = _SHORTEST_PAUSE
        # no blocking wait: it would log a warning whenever it gives up to look around
        while missing := [rank for rank, key in enumerate(keys) if not self._has(key, what)]:
            gone = self._watch.left & set(missing)
            ending = self._watch.ending or (f"rank {min(gone)} has ended its process" if gone else None)
            if ending is not None:
                raise GroupError(f"{what}: {ending}")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _has(self, key: str, what: str) -> bool:
        try:
            return bool(self._store.check([key]))
        except RuntimeError as error:
            raise GroupError(f"{what}: the store that all processes share is gone ({first_line(error)})") from error

    def _refuse_after_the_end(self, where: str) -> None:
        if self._watch.ending is not None:
            raise GroupError(f"{where}: {self._watch.ending}; start all processes again")

    def _lost(self, error: BaseException, where: str) -> GroupError:
        """Return the error that says which process a broken collective operation waited for."""
        ending = self._watch.found_within(_CLUE_SECONDS)
        if ending is None:
            # all of them live and none has failed: one waits for something else
            ending = f"the processes lost touch ({first_line(error)}); {self._watch.whereabouts()}"
            self._watch.tell(f"waited in vain in {where}")
        return GroupError(f"{where}: {ending}")


def _differences(said: list[dict[str, str]]) -> str:
    """Return how what the other ranks said differs from what rank 0 said, or nothing."""
    leader, found = said[0], []
    for rank, mine in enumerate(said[1:], start=1):
        names = [name for name in {**leader, **mine} if mine.get(name) != leader.get(name)]
        # in different places everything else differs for that reason
        for name in [_BEGINS] if _BEGINS in names else names:
            found.append(f"rank {rank} has {name} {mine.get(name)}, but rank 0 has {leader.get(name)}")
    return "; ".join(found)


def _origin(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_lost(error: BaseException) -> bool:
    """Tell whether a collective operation broke: gloo has no exception of its own, but names its source file."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
