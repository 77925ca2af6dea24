"""The processes that decode in lockstep because each holds a part of the target.

All of them run the whole loop. Clocks, and the last bit of a sum, differ between processes, so what a round does next
is never concluded twice: the first process decides, and the others are told. In one process nobody is asked anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class Group(Protocol):
    """What the loop asks of the processes; every process calls the same methods in the same order."""

    @property
    def rank(self) -> int:
        """The number of this process; 0 decides, and alone speaks to the user."""

    @property
    def size(self) -> int:
        """Processes in the group."""

    def share(self, make: Callable[[], T]) -> T:
        """Return what rank 0 makes; the others do not call ``make``, and wait a few seconds at most."""

    def meet(self, what: str, facts: Callable[[], Mapping[str, str]]) -> None:
        """Wait, however long it takes, until all processes are here, and compare what they are about to do.

        Args:
            what: What begins here.
            facts: What must be the same everywhere, as readable text.

        Raises:
            CompatibilityError: In all processes, if a fact differs; names the ranks and both values.
            GroupError: If a process has failed, died, or is elsewhere.
        """

    def together(self, where: str) -> AbstractContextManager[None]:
        """While entered, what is raised here ends the group, and what ended elsewhere is raised here.

        Raises:
            GroupError: If another process is the cause; names its rank and what happened.
        """


class Alone:
    """The group of a single process: every method is the identity."""

    rank = 0
    size = 1

    def share(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns."""
        return make()

    def meet(self, what: str, facts: Callable[[], Mapping[str, str]]) -> None:
        """Wait for nobody."""

    def together(self, where: str) -> AbstractContextManager[None]:
        """Return nothing to enter."""
        return _NOTHING


_NOTHING = nullcontext()
