"""What runs on a node of a Ray cluster: a worker in an actor, whose every message is one item of a stream.

Nothing of the package is imported before the actor is asked to load: that it has its place on the cluster must not wait
for torch.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caddtree.experiments.engines.messages import Finished, Refused

if TYPE_CHECKING:
    from caddtree.experiments.planning import Block


class RayWorker:
    """The actor. Whoever holds its handle calls ``introduce``, then ``load`` once, then ``run`` block by block."""

    def __init__(self) -> None:
        self._worker: Any = None

    def introduce(self) -> str:
        """Return where it lives, for people."""
        return f"on {socket.gethostname()} (process {os.getpid()})"

    def load(
        self, software: Mapping[str, str], job: Sequence[Any], device: str | None, log_level: str
    ) -> Iterator[Any]:
        """Load and warm up every variant; yield what :meth:`Worker.load` yields, and :class:`Finished` or ``Refused``.

        Args:
            software: What the process that plans and stores runs on; this one must run on the same.
            job: A reference to the job in a list, so that it is not read before: another version might not be able to.
            device: As :class:`Worker` takes it.
            log_level: Of the package's own messages.
        """
        logging.basicConfig(format="%(message)s")
        logging.getLogger("caddtree").setLevel(log_level)
        try:
            _check(software)
            import ray

            from caddtree.experiments.worker import Worker

            self._worker = Worker(ray.get(job[0]), device=device)
        except Exception as error:
            yield Refused(_known(error))
            return
        yield from self._worker.load()
        yield Finished()

    def run(self, block: Block) -> Iterator[Any]:
        """Run a block; yield what :meth:`Worker.run` yields, and :class:`Finished`."""
        yield from self._worker.run(block)
        yield Finished()


def _check(theirs: Mapping[str, str]) -> None:
    """Check that results from here may carry the fingerprint that was computed there.

    Raises:
        CompatibilityError: If code or versions differ.
    """
    from caddtree.core.errors import CompatibilityError
    from caddtree.experiments.fingerprint import software

    mine = software()
    different = [name for name in {**theirs, **mine} if _release(theirs.get(name)) != _release(mine.get(name))]
    if different:
        pairs = [f"{name} is {mine.get(name, 'missing')}, not {theirs.get(name, 'missing')}" for name in different]
        raise CompatibilityError(
            f"{'; '.join(pairs)}. Install on every node what the process that runs the experiment has"
        )


def _release(version: str | None) -> str | None:
    """Return a version without its local part: builds of one release for CPU and CUDA may work together."""
    return None if version is None else version.partition("+")[0]


def _known(error: Exception) -> Exception:
    """Return an error of the package: another one might not survive the way."""
    from caddtree.core.errors import CaddtreeError, ResourceError

    return error if isinstance(error, CaddtreeError) else ResourceError(f"{type(error).__name__}: {error}")
