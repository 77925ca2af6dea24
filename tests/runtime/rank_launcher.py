"""Starts ``rank_program.py`` as ``torchrun --nproc-per-node 2`` does, once per scenario, with one import for all.

python rank_launcher.py FOLDER SCENARIO ...

What a scenario prints is in ``FOLDER/SCENARIO.out`` and ``.err``, its exit code in ``.code``.
"""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

# what the processes would spend most of their time on: they are forks of this one
from tests.runtime import rank_program


def play(scenario: str, folder: str) -> None:
    """Run the program in a process that ends by itself: PyTorch has its forks wait for one another at the end."""
    child = os.fork()
    if child == 0:
        # a process of torchrun's has no handler of its launcher's
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os._exit(run(scenario, folder))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        os.kill(os.getpid(), -code)
    if code > 0:
        sys.exit(code)


def run(scenario: str, folder: str) -> int:
    """Return the exit code of the program, after all that a process does when it ends."""
    sys.argv = [rank_program.__file__, scenario, folder]
    code = 0
    try:
        runpy.run_path(rank_program.__file__, run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def launch(scenario: str, folder: Path) -> None:
    """Run both processes of a scenario to their end, and write down how it ended."""
    for descriptor, name in ((1, "out"), (2, "err")):
        with (folder / f"{scenario}.{name}").open("w") as file:
            os.dup2(file.fileno(), descriptor)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=scenario,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="fork",
    )
    code = 0
    try:
        elastic_launch(config, play)(scenario, str(folder))
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    (folder / f"{scenario}.code").write_text(str(code))


if __name__ == "__main__":
    for each in sys.argv[2:]:
        launch(each, Path(sys.argv[1]))
