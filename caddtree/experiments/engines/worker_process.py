"""The worker process of the local engine, which is started with the numbers of two inherited pipes."""

from __future__ import annotations

import logging
import os
import threading
from multiprocessing.connection import Connection

from caddtree.core.errors import CaddtreeError, ResourceError
from caddtree.experiments.engines.messages import Finished, Refused


def main(connection_number: int, lifeline_number: int) -> None:
    """Serve blocks until the parent closes the connection or is gone."""
    connection = Connection(connection_number)
    threading.Thread(target=_end_with_parent, args=(lifeline_number,), daemon=True).start()
    logging.basicConfig(format="%(message)s", level=os.environ.get("CADDTREE_LOG", "INFO").upper())
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("caddtree").setLevel(os.environ.get("CADDTREE_LOG", "INFO").upper())
    job = connection.recv()
    try:
        from caddtree.experiments.worker import Worker

        worker = Worker(job)
    except Exception as error:
        # sent as an error of the package: another one might not survive the way
        known = error if isinstance(error, CaddtreeError) else ResourceError(f"{type(error).__name__}: {error}")
        connection.send(Refused(known))
        return
    for record in worker.load():
        connection.send(record)
    connection.send(Finished())
    while True:
        try:
            block = connection.recv()
        except EOFError:
            return
        for message in worker.run(block):
            connection.send(message)
        connection.send(Finished())


def _end_with_parent(lifeline_number: int) -> None:
    """Wait for the end of the parent, which is the end of the pipe, and end at once: nobody reads what comes after."""
    os.read(lifeline_number, 1)
    os._exit(1)
