"""Whether fixed shapes and compiled layers pay on a CPU: the demo pair under every runtime, interleaved in one run.

    python benchmarks/cpu_runtime.py [--prompts 4] [--max-new-tokens 128] [--json FILE]

Every runtime decodes the same prompts, plainly and with CaDDTree; reported are seconds until the first answer (profiles
apart), tokens per second, and both against the plain runtime. Compiled code is kept on disk by torch: the first run
after `rm -r` of its cache shows the cold start, later ones the warm one. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

import caddtree
from caddtree.experiments.compare import machine_facts
from caddtree.experiments.prompts import read_prompts
from caddtree.loading import load_model

DOMAINS = ("reasoning", "instructions", "code")
PROMPTS = Path(caddtree.__file__).parent / "models" / "demo" / "prompts"
BUCKETS = [1, 2, 4, 8, 16, 24, 32, 64, 128, 256]
RUNTIMES: dict[str, dict[str, Any]] = {
    "plain": {},
    "buckets": {"buckets": BUCKETS},
    "compiled": {"compile": "always", "buckets": BUCKETS},
}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--prompts", type=int, default=4, help="per domain")
    options.add_argument("--max-new-tokens", type=int, default=128)
    options.add_argument("--json", type=Path)
    arguments = options.parse_args()

    model, tokenizer = load_model(caddtree.plugins.load_recipe("demo").target)
    variants, report = {}, {}
    for name, runtime in RUNTIMES.items():
        pair = {
            kind: caddtree.load(recipe, {"runtime": runtime}, model=model, tokenizer=tokenizer)
            for kind, recipe in (("plain decoding", "demo-plain"), ("caddtree", "demo"))
        }
        started = time.perf_counter()
        pair["plain decoding"].generate("def main(", max_new_tokens=8)
        with pair["caddtree"].measuring():
            pair["caddtree"].generate("def main(", max_new_tokens=40)
        report[name] = {"first_answer_seconds": time.perf_counter() - started}
        pair["caddtree"].prepare()
        variants[name] = pair

    prompts = [
        record for domain in DOMAINS for record in read_prompts(PROMPTS / f"{domain}.jsonl")[: arguments.prompts]
    ]
    cells = [(name, kind) for name in variants for kind in variants[name]]
    results: dict[tuple[str, str], list[Any]] = {cell: [] for cell in cells}
    for index, record in enumerate(tqdm(prompts, disable=None)):
        shift = index % len(cells)
        for name, kind in cells[shift:] + cells[:shift]:
            decoded = variants[name][kind].generate(record.prompt, max_new_tokens=arguments.max_new_tokens)
            results[name, kind].append(decoded)

    base = results["plain", "plain decoding"]
    print(
        f"{'runtime':10s}{'first answer':>14s}{'':4s}{'plain tok/s':>12s}{'caddtree':>10s}"
        f"{'speed-up':>10s}{'same text':>11s}"
    )
    for name, pair in variants.items():
        entry = report[name]
        for kind in pair:
            mine = results[name, kind]
            entry[kind] = statistics.median(found.tokens_per_second for found in mine)
            entry[f"{kind} against the plain runtime"] = _ratio(mine, results["plain", kind])
        entry["speedup"] = _ratio(results[name, "caddtree"], results[name, "plain decoding"])
        entry["identical"] = all(
            found.token_ids == expected.token_ids
            for kind in pair
            for found, expected in zip(results[name, kind], base, strict=True)
        )
        print(
            f"{name:10s}{entry['first_answer_seconds']:12.1f} s    {entry['plain decoding']:12.0f}"
            f"{entry['caddtree']:10.0f}{entry['speedup']:9.2f}x{'yes' if entry['identical'] else 'no':>11s}"
        )
        print(" " * 28 + "".join(f"{entry[f'{kind} against the plain runtime']:11.2f}x" for kind in pair))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine_facts(), "runtimes": report}, indent=1) + "\n")


def _ratio(mine: list[Any], others: list[Any]) -> float:
    """Return the geometric mean of the ratios of speeds, prompt by prompt."""
    logs = [
        math.log(a.tokens_per_second / b.tokens_per_second)
        for a, b in zip(mine, others, strict=True)
        if a.rounds and b.rounds
    ]
    return math.exp(statistics.fmean(logs))


if __name__ == "__main__":
    main()
