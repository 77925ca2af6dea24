"""Where Ray's workers sit: planned from what a cluster says it has, no Ray needed."""

from __future__ import annotations

from caddtree.experiments.engines.ray_seats import Seat, plan_seats, shown_resources


def node(name, cpus, gpus=0, *, alive=True):
    resources = {"CPU": float(cpus), "memory": 1e9} | ({"GPU": float(gpus)} if gpus else {})
    return {"NodeID": name, "Alive": alive, "Resources": resources if cpus else {"memory": 1e9}}


def seats(nodes, *, workers=None, threads=None, may_use_gpus=True):
    return plan_seats(nodes, workers=workers, threads=threads, may_use_gpus=may_use_gpus)


def test_every_gpu_gets_a_worker():
    """Nodes without one get none, dead nodes neither; a core goes with each."""
    found = seats([node("head", 4), node("a", 16, 2), node("b", 8, 1), node("gone", 8, 8, alive=False)])

    assert found == (Seat("a", 1, 1, None), Seat("a", 1, 1, None), Seat("b", 1, 1, None))


def test_without_gpus_every_node_gets_a_worker_with_all_its_cores():
    """A head node that lends no cores stays free."""
    assert seats([node("head", 0), node("a", 4), node("b", 16)]) == (Seat("a", 4, 0, 4), Seat("b", 16, 0, 16))


def test_workers_share_the_cores_of_their_node():
    """Spread evenly, the larger node first."""
    assert seats([node("a", 2), node("b", 9)], workers=3) == (
        Seat("a", 2, 0, 2),
        Seat("b", 4, 0, 4),
        Seat("b", 4, 0, 4),
    )


def test_threads_say_how_many_cores_a_worker_takes():
    """On CPUs and beside a GPU."""
    assert seats([node("a", 8)], workers=2, threads=3) == (Seat("a", 3, 0, 3),) * 2
    assert seats([node("a", 8, 4)], threads=4) == (Seat("a", 4, 1, 4),) * 2


def test_a_target_that_stays_on_cpus_takes_no_gpu():
    """The recipe says ``device: cpu``."""
    assert seats([node("a", 8, 4)], may_use_gpus=False) == (Seat("a", 8, 0, 8),)


def test_workers_without_room_get_a_seat_that_no_node_has():
    """A cluster may grow; what is left over waits beside those that have a place."""
    assert seats([node("a", 2, 1)], workers=2) == (Seat("a", 1, 1, None), Seat(None, 1, 1, None))
    assert seats([node("a", 2)], workers=3) == (Seat("a", 1, 0, 1),) * 2 + (Seat(None, 1, 0, 1),)
    assert seats([node("a", 2)], threads=4) == (Seat(None, 4, 0, 4),)
    assert seats([]) == (Seat(None, 1, 0, 1),)


def test_what_is_asked_and_what_is_there_are_said_in_words():
    """As the errors show them."""
    assert [str(Seat(None, 2, 0, 2)), str(Seat(None, 1, 1, None)), str(Seat("a", 0, 1, None))] == [
        "2 CPU",
        "1 GPU and 1 CPU",
        "1 GPU",
    ]
    assert shown_resources([node("a", 2, 1), node("b", 2), node("c", 2, alive=False)]) == "4 CPU and 1 GPU on 2 nodes"
