"""Runs an experiment on Ray and sends itself a signal: experiment, run folder, signal, cells before it, address."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from caddtree.experiments.engines.ray_cluster import ray_engine
from caddtree.experiments.experiment_files import load_experiment
from caddtree.experiments.sweep import run_sweep

INTERRUPTED = 130


def main() -> None:
    experiment, run, name, num_cells, *address = sys.argv[1:]

    def strike(done: int, _total: int) -> None:
        if done == int(num_cells):
            os.kill(os.getpid(), signal.Signals[name])

    engine = ray_engine(workers=1, address=address[0] if address else None)
    try:
        run_sweep(load_experiment(experiment), Path(run), engine=engine, on_progress=strike)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
