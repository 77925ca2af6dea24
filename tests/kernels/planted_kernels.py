"""Kernels with planted faults. Run as a script, as ``test_ahead_of_time.py`` does, it prints what is found of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from kernel_cases import Case
from kernel_resources import CASES, launched_kernels, measure, survey


@triton.jit
def healthy(values, sums, num_values, BLOCK: tl.constexpr):
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = _masked(values, columns, num_values)  # [BLOCK]
    tl.store(sums + tl.program_id(0), tl.sum(row))


@triton.jit
def spilling(values, SIZE: tl.constexpr):
    """Holds more numbers than its threads have registers until the largest is known."""
    row = values + tl.arange(0, SIZE)
    numbers = tl.load(row)  # [SIZE]
    tl.store(row, numbers / tl.max(numbers))


@triton.jit
def oversized(left, right, product, depth, SIDE: tl.constexpr, DEPTH: tl.constexpr):
    """Buffers several stages of two wide tiles."""
    side, inner = tl.arange(0, SIDE), tl.arange(0, DEPTH)
    total = tl.zeros([SIDE, SIDE], tl.float32)
    for start in range(0, depth, DEPTH):
        rows = tl.load(left + side[:, None] * depth + start + inner[None, :])  # [SIDE, DEPTH]
        columns = tl.load(right + (start + inner)[:, None] * SIDE + side[None, :])  # [DEPTH, SIDE]
        total += tl.dot(rows, columns)
    tl.store(product + side[:, None] * SIDE + side[None, :], total)


@triton.jit
def broken(values, COUNT: tl.constexpr):
    tl.static_assert(COUNT == 0, "planted")


@triton.jit
def _masked(values, columns, num_values):
    return tl.load(values + columns, mask=columns < num_values, other=0.0)


def cases(target: str) -> Iterator[Case]:
    """Yield a sound case and one for each fault."""
    floats, halves = torch.empty(1 << 16), torch.empty(1 << 16, dtype=torch.bfloat16)
    # AMD's threads have twice the registers and its warps twice the threads; more takes the compiler very long
    size = 1 << 15 if target.startswith("gfx") else 1 << 14
    yield Case("healthy", 1, lambda: healthy[(1,)](floats, floats, 1024, BLOCK=1024))
    yield Case("healthy", 2, lambda: healthy[(2,)](floats, floats, 2048, BLOCK=1024))
    yield Case("unaligned", 1, lambda: healthy[(1,)](floats[1:], floats, 1, BLOCK=1024))
    yield Case("many blocks", 1, lambda: healthy[(1, 70_000)](floats, floats, 1024, BLOCK=1024))
    yield Case("spilling", 1, lambda: spilling[(1,)](floats, SIZE=size, num_warps=1))
    yield Case("spilling aside", 1, lambda: spilling[(1,)](floats, SIZE=size, num_warps=1), is_main=False)
    yield Case("oversized", 1, lambda: oversized[(1,)](halves, halves, floats, 4096, 64, 256, num_stages=6))
    yield Case("broken", 1, lambda: broken[(1,)](floats, COUNT=1))


def main() -> None:
    report = {}
    for target in sys.argv[1:]:
        findings = measure(cases(target), target)
        found = {record.setting: [record.rows, record.resources.spills, record.verdict] for record in findings.records}
        report[target] = {"records": found, "problems": findings.problems}
    del CASES["accept_walk"]
    CASES["commit_rows"] = lambda kernel: iter(())
    gaps = survey(["accept_walk", "commit_rows"], ["sm_90"], main_only=False).problems
    launched = sorted(launched_kernels(sys.modules[__name__]))
    print(json.dumps({"targets": report, "gaps": gaps, "launched": launched}))


if __name__ == "__main__":
    main()
