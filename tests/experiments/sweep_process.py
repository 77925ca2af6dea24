"""Runs an experiment in a process that tests may kill: ``python -m`` this with experiment, run folder, options."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from caddtree.experiments.experiment_files import load_experiment
from caddtree.experiments.sweep import found_problems, run_sweep


def main() -> None:
    experiment, run, *options = sys.argv[1:]
    data = run_sweep(load_experiment(experiment), Path(run), retry_failed="--retry-failed" in options)
    print(json.dumps(found_problems(data)))


if __name__ == "__main__":
    main()
