"""Where the workers of a Ray cluster sit: one per GPU, or one per node with its cores, or as many as were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs


@attrs.frozen
class Seat:
    """A place for one worker."""

    node: str | None
    """Id of the node; None where none has room for it now."""
    num_cpus: int
    num_gpus: int
    threads: int | None
    """Threads of its worker; None leaves them to torch."""

    def __str__(self) -> str:
        """Return what it takes."""
        cores = f"{self.num_cpus} CPU" if self.num_cpus or not self.num_gpus else ""
        return " and ".join(part for part in (f"{self.num_gpus} GPU" if self.num_gpus else "", cores) if part)


def plan_seats(
    nodes: Sequence[Mapping[str, Any]], *, workers: int | None, threads: int | None, may_use_gpus: bool
) -> tuple[Seat, ...]:
    """Return one seat per worker, spread over the nodes; at least one, so that there is something to wait for.

    Args:
        nodes: As ``ray.nodes()`` lists them.
        workers: How many; None for one per GPU of the cluster, or one per node where there is none.
        threads: Cores of each; None for one beside a GPU, or for all cores of a node divided by the workers on it.
        may_use_gpus: False where the target is to stay on CPUs.
    """
    alive = [node for node in nodes if node["Alive"]]
    on_gpus = may_use_gpus and any(_count(node, "GPU") for node in alive)
    room = {node["NodeID"]: _room(node, threads, on_gpus=on_gpus) for node in alive}
    if workers is None:
        workers = max(1, sum(room.values() if on_gpus else (min(1, places) for places in room.values())))
    taken = dict.fromkeys(room, 0)
    for _ in range(min(workers, sum(room.values()))):
        # the emptiest node; of several the one that has most room
        chosen = min((node for node in room if taken[node] < room[node]), key=lambda node: (taken[node], -room[node]))
        taken[chosen] += 1
    seats = [
        _seat(node, taken[node["NodeID"]], threads, on_gpus=on_gpus)
        for node in alive
        for _ in range(taken[node["NodeID"]])
    ]
    cores = threads or min((seat.num_cpus for seat in seats), default=1)
    standing = Seat(None, cores, int(on_gpus), None if on_gpus else cores)
    return (*seats, *[standing] * (workers - len(seats)))


def shown_resources(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Return what a cluster has, in words."""
    alive = [node for node in nodes if node["Alive"]]
    total = {name: sum(_count(node, name) for node in alive) for name in ("CPU", "GPU")}
    return f"{total['CPU']} CPU and {total['GPU']} GPU on {len(alive)} node{'s' if len(alive) != 1 else ''}"


def _count(node: Mapping[str, Any], resource: str) -> int:
    return int(node["Resources"].get(resource, 0))


def _room(node: Mapping[str, Any], threads: int | None, *, on_gpus: bool) -> int:
    """Return how many workers a node has room for."""
    cores = _count(node, "CPU")
    if not on_gpus:
        return cores // (threads or 1)
    return min(_count(node, "GPU"), cores // threads) if threads else _count(node, "GPU")


def _seat(node: Mapping[str, Any], num_workers: int, threads: int | None, *, on_gpus: bool) -> Seat:
    share = _count(node, "CPU") // num_workers
    if on_gpus:
        return Seat(node["NodeID"], threads or min(1, share), 1, threads)
    return Seat(node["NodeID"], threads or share, 0, threads or share)
