"""One round on a GPU against the bytes it has to read, against the papers' way, and against plain decoding.

    python benchmarks/gpu_round.py [--out FILE] [--seconds 500] [--commit ID] [--toy]

Needs one NVIDIA GPU with 48 GiB or more and a CUDA build of torch with its Triton; of this package only ``core``,
``kernels``, ``runtime``, ``verifiers``, ``drafters`` and ``tree_builders``, from the folder beside this one. No network
and no weights: models of Qwen3-4B's and Qwen3-8B's shape are made on the device with random numbers, with a random
DFlash drafter; only the demo pair, with which tokens are compared, is read from the package. A temporary folder takes
up to 3 GiB. Under 9 minutes: what does not fit into ``--seconds`` is skipped and named. The JSON file is rewritten
after every part; a short table is printed last, progress goes to stderr. The exit code is 1 if a check or a part
failed, or something fell back to a slower way.

``--toy`` runs the same script at toy sizes on a CPU, kernels in Triton's interpreter: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "results" / "gpu_round.json")
    parser.add_argument("--seconds", type=float, default=500.0, help="begin nothing new after so many seconds")
    parser.add_argument("--commit", help="what is measured, where git cannot say it")
    parser.add_argument("--toy", action="store_true", help="toy sizes on a CPU")
    options = parser.parse_args(arguments)
    if options.toy:
        # before a kernel is imported: Triton decides at decoration whether it is interpreted
        os.environ["TRITON_INTERPRET"] = "1"
    # the package need not be installed
    sys.path.insert(0, str(_ROOT))
    from gpu import plan, targets
    from gpu.device import open_device
    from gpu.record import Record, run_facts

    try:
        device = open_device(is_toy=options.toy)
    except RuntimeError as error:
        parser.error(str(error))
    record = Record(options.out, options.seconds, results={"benchmark": "gpu_round", **run_facts(options.commit)})
    record.collect_warnings()
    plan.run(plan.TOY if options.toy else plan.FULL, device, record)
    print(targets.table(record.results))
    for text in (
        *(f"WRONG: {check.name}: {check.detail}" for check in record.checks if not check.passed),
        *(f"FAILED: {failure['part']}: {failure['error']}" for failure in record.failures),
        *(f"FELL BACK: {text}" for text in record.fallbacks),
        *(f"left out: {part['part']}: {part['error']}" for part in record.left_out),
        *(f"skipped: {name}" for name in record.skipped),
    ):
        print(text[:300])
    print(f"{len(record.checks)} checks; {options.out}")
    return 0 if record.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
