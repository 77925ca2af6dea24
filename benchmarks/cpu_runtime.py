"""Whether fixed shapes and compiled layers pay on a CPU: the demo pair under every runtime.

    python benchmarks/cpu_runtime.py [--prompts 4] [--repeats 3] [--max-new-tokens 128] [--json FILE]

Every runtime decodes the same prompts, plainly and with CaDDTree, in a process of its own (compiled code brings a
second pool of threads), and the processes take turns. Reported are seconds from loaded models to the first short
answer, profiles apart, tokens per second, and both against the plain runtime. Torch keeps compiled code on disk: the
first turn with an empty TORCHINDUCTOR_CACHE_DIR is a cold start, the later ones are warm. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import caddtree
from caddtree.experiments.fingerprint import machine_facts
from caddtree.experiments.prompts import read_prompts

DOMAINS = ("reasoning", "instructions", "code")
PROMPTS = Path(caddtree.__file__).parent / "models" / "demo" / "prompts"
BUCKETS = [1, 2, 4, 8, 16, 24, 32, 64, 128, 256]
RUNTIMES: dict[str, dict[str, Any]] = {
    "plain": {},
    "buckets": {"buckets": BUCKETS},
    "compiled": {"compile": "always", "buckets": BUCKETS},
}
KINDS = {"plain decoding": "demo-plain", "caddtree": "demo"}


def main() -> None:
    """Measure and print, or as a worker measure one runtime."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--prompts", type=int, default=4, help="per domain")
    options.add_argument("--repeats", type=int, default=3, help="turns of every runtime")
    options.add_argument("--max-new-tokens", type=int, default=128)
    options.add_argument("--json", type=Path)
    options.add_argument("--worker", choices=list(RUNTIMES), help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.worker:
        print(json.dumps(measured(arguments.worker, arguments.prompts, arguments.max_new_tokens)))
        return
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in RUNTIMES}
    for turn in range(arguments.repeats):
        for name in RUNTIMES:
            print(f"turn {turn + 1} of {arguments.repeats}: {name}", file=sys.stderr)
            turns[name].append(_in_own_process(name, arguments))
    report = {name: summary(turns[name], turns["plain"]) for name in RUNTIMES}
    print(
        f"{'runtime':10s}{'first answer: cold':>20s}{'warm':>8s}{'plain tok/s':>20s}{'caddtree':>18s}{'speed-up':>10s}"
    )
    for name, entry in report.items():
        cells = "".join(f"{entry[kind]:10.0f} ({entry[f'{kind} ratio']:.2f}x)" for kind in KINDS)
        seconds = entry["first_answer_seconds"]
        print(f"{name:10s}{seconds[0]:18.1f} s{seconds[-1]:6.1f} s  {cells}{entry['speedup']:9.2f}x")
    same = all(turn["tokens"] == turns["plain"][0]["tokens"] for kept in turns.values() for turn in kept)
    print(f"every text identical: {'yes' if same else 'no'}")
    if arguments.json:
        record = {"machine": machine_facts(), "identical": same, "runtimes": report}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def measured(name: str, num_prompts: int, max_new_tokens: int) -> dict[str, Any]:
    """Return what one runtime takes: seconds to the first answer, tokens per second by kind and prompt, the tokens."""
    decoders = {kind: caddtree.load(recipe, {"runtime": RUNTIMES[name]}) for kind, recipe in KINDS.items()}
    started = time.perf_counter()
    for decoder in decoders.values():
        with decoder.measuring():
            decoder.generate("def main(", max_new_tokens=40)
    first_answer_seconds = time.perf_counter() - started
    for decoder in decoders.values():
        decoder.prepare()
    records = [record for domain in DOMAINS for record in read_prompts(PROMPTS / f"{domain}.jsonl")[:num_prompts]]
    found = {
        kind: [decoder.generate(record.prompt, max_new_tokens=max_new_tokens) for record in records]
        for kind, decoder in decoders.items()
    }
    return {
        "first_answer_seconds": first_answer_seconds,
        "speeds": {kind: [one.tokens_per_second for one in generations] for kind, generations in found.items()},
        "tokens": [list(one.token_ids) for generations in found.values() for one in generations],
    }


def summary(turns: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the turns, and geometric means of ratios prompt by prompt."""
    speeds, base = ({kind: _medians(kept, kind) for kind in KINDS} for kept in (turns, plain))
    entry: dict[str, Any] = {"first_answer_seconds": [turn["first_answer_seconds"] for turn in turns]}
    for kind in KINDS:
        entry[kind] = statistics.median(speed for speed in speeds[kind] if speed)
        entry[f"{kind} ratio"] = _ratio(speeds[kind], base[kind])
    entry["speedup"] = _ratio(speeds["caddtree"], speeds["plain decoding"])
    return entry


def _medians(turns: list[dict[str, Any]], kind: str) -> list[float]:
    return [statistics.median(values) for values in zip(*(turn["speeds"][kind] for turn in turns), strict=True)]


def _ratio(mine: list[float], others: list[float]) -> float:
    # an answer that prefill alone gives has no speed
    return math.exp(statistics.fmean(math.log(a / b) for a, b in zip(mine, others, strict=True) if a and b))


def _in_own_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", name, "--prompts", str(arguments.prompts)]
    command += ["--max-new-tokens", str(arguments.max_new_tokens)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise SystemExit(f"the runtime {name} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
