"""The Ray engine: the same experiment on several devices, of this machine or of a cluster.

One actor per device holds the models, and blocks go to whoever is free. Messages come back one by one into the same
queue and the same store as those of the local engine, so a run may go on under another engine than it began with. This
module opens and closes the connection; ``ray_crew`` runs the experiment, ``ray_actor`` is what runs on the nodes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from caddtree.core.errors import InputError
from caddtree.experiments.engines.ray_seats import plan_seats, shown_resources
from caddtree.experiments.planning import Job
from caddtree.experiments.sweep import Engine
from caddtree.experiments.work_queue import WorkQueue

_OBJECT_STORE_BYTES = 128 << 20
"""Records are small; Ray's default would take a third of the memory, and is more than a container's /dev/shm holds."""
_ANSWER_SECONDS = 10.0
_LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's name for it aside: every port of an instance of one machine is bound to the loopback interface alone
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray's default of 15 lets whatever else runs on the machine go first, which shows in measured times
    "RAY_worker_niceness": "0",
}


def ray_engine(*, workers: int | None = None, address: str | None = None, threads: int | None = None) -> Engine:
    """Return an engine that runs everything in a queue on a Ray cluster.

    Args:
        workers: Actors; one per GPU when None, or one per node where there is no GPU.
        address: Of a standing cluster, such as ``auto``; a local instance is started, and ended, when None.
        threads: Cores of every worker; on a CPU the cores of a node are divided by its workers when None.

    Raises:
        InputError: If Ray is not installed, or an option is out of range.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, found {value}")
    if address is not None and address.startswith("ray://"):
        raise InputError(
            f"the address {address} is that of a Ray client, through which no results can be streamed; run the command "
            "on a node of the cluster with the address auto"
        )
    if address is None:
        # read by Ray when it is imported
        for variable, setting in _LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(variable, setting)
    _import_ray()

    def run(job: Job, queue: WorkQueue) -> None:
        with _connected(address) as (ray, is_own):
            from caddtree.experiments.engines.ray_crew import Crew

            target = next(iter(job.variants.values())).target
            nodes = ray.nodes()
            seats = plan_seats(nodes, workers=workers, threads=threads, may_use_gpus=target.device != "cpu")
            if is_own and any(seat.node is None for seat in seats):
                raise InputError(
                    f"{len(seats)} Ray workers of {seats[-1]} each have no room on this machine, which has "
                    f"{shown_resources(nodes)}; ask for fewer workers or threads"
                )
            Crew(seats, job, queue).run()

    return run


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[tuple[Any, bool]]:
    """Give Ray, connected, and whether the instance is our own; a connection that was there before stays."""
    ray = _import_ray()
    if ray.is_initialized():
        if address is not None:
            raise InputError(f"this process is connected to a Ray cluster already; leave the address {address} out")
        yield ray, False
        return
    try:
        _connect(ray, address)
    except (OSError, RuntimeError, ValueError) as error:
        where = "a local Ray instance cannot be started" if address is None else f"no Ray cluster at {address} to join"
        raise InputError(f"{where}: {str(error).splitlines()[0]}") from error
    try:
        yield ray, address is None
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    if address is None:
        ray.init(
            # without an address Ray would join what RAY_ADDRESS names
            address="local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            logging_level=logging.ERROR,
        )
        return
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        # Ray itself would go on trying for many minutes
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    ray.init(address=address, logging_level=logging.ERROR)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError("the engine ray needs Ray: pip install 'caddtree[ray]'") from error
    return ray
