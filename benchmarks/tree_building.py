"""How long candidate selection and tree building take, measured apart.

Selection turns the logits of a block into marginals; building is everything from marginals to a draft tree: the
frontier, the choice of the size, the numbering. A builder that finds the marginals too narrow asks for more, which
is selection again: it is timed where it happens and reported as ``widening``. Run on one core, with nothing else
on the machine::

    OMP_NUM_THREADS=1 python benchmarks/tree_building.py --json tree_building.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from caddtree.core.context import RoundContext
from caddtree.core.marginals import Marginals
from caddtree.core.protocols import TreeBuilder
from caddtree.tree_builders.caddtree import CaDDTree
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree

DEPTH = 15
CASES = [(4096, (16, 64, 256)), (151_936, (16, 64, 256, 1024))]


@attrs.frozen
class FlatCost:
    """Seconds that barely grow with the tree, as on a device bound by launches: every node pays."""

    def prepare(self, decoder: Any) -> None:
        """Nothing to measure."""

    def before_choice_seconds(self, context_length: int) -> float:
        """Return the seconds of drafting."""
        return 5e-3

    def after_choice_seconds(self, num_draft_nodes: NDArray[np.int64], context_length: int) -> NDArray[np.float64]:
        """Return the seconds of verification."""
        rising: NDArray[np.float64] = 3e-2 + 1e-9 * num_draft_nodes.astype(np.float64)
        return rising


@attrs.frozen
class SteepCost(FlatCost):
    """Seconds of a small model on one CPU thread, concave in the nodes: few nodes pay."""

    def after_choice_seconds(self, num_draft_nodes: NDArray[np.int64], context_length: int) -> NDArray[np.float64]:
        """Return the seconds of verification."""
        rows, seconds = [1, 16, 32, 64, 128, 1025], [8.6e-3, 14.6e-3, 17.4e-3, 24.5e-3, 36e-3, 200e-3]
        measured: NDArray[np.float64] = np.interp(num_draft_nodes + 1, rows, seconds).astype(np.float64)
        return measured


@attrs.define
class Stopwatch:
    """Adds up the seconds of widening within one build."""

    seconds: float = 0.0

    def watch(self, marginals: Marginals) -> Marginals:
        """Return the same marginals, whose widening is timed."""
        wider = marginals.wider
        if wider is None:
            return marginals

        def timed(width: int) -> Marginals:
            started = time.perf_counter()
            wide = wider(width)
            self.seconds += time.perf_counter() - started
            return self.watch(wide)

        return attrs.evolve(marginals, wider=timed)


def block_logits(vocabulary: int, seed: int) -> torch.Tensor:
    """Return ``(DEPTH, vocabulary)`` float32 logits of a drafter that is surer of near positions than of far ones."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(DEPTH, vocabulary, generator=generator) * 3
    favourites = torch.randint(vocabulary, (DEPTH, 4), generator=generator)
    peak = torch.linspace(18.0, 13.0, DEPTH)[:, None] - torch.tensor([0.0, 2.0, 3.0, 4.0])
    return logits.scatter(1, favourites, peak)


def milliseconds(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Return the median and the quartiles of ``repeats`` calls."""
    call()
    samples = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        samples.append(1e3 * (time.perf_counter() - started))
    return spread(samples)


def spread(samples: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(samples, [25, 50, 75])
    return {"median_ms": float(median), "low_ms": float(low), "high_ms": float(high)}


def time_builder(builder: TreeBuilder, blocks: list[Marginals], cost_model: FlatCost, repeats: int) -> dict[str, Any]:
    """Return building and widening apart, over several blocks in turn."""
    context = RoundContext(
        root_token=1, context_length=500, remaining_tokens=1000, position_limit=8192, cost_model=cost_model
    )
    building, widening, counts = [], [], []
    for repeat in range(repeats + 2):
        for block in blocks:
            stopwatch = Stopwatch()
            marginals = stopwatch.watch(block)
            started = time.perf_counter()
            tree = builder.build(marginals, context)
            seconds = time.perf_counter() - started
            if repeat >= 2:
                building.append(1e3 * (seconds - stopwatch.seconds))
                widening.append(1e3 * stopwatch.seconds)
                counts.append(tree.num_drafts)
    return {
        "building": spread(building),
        "widening": spread(widening),
        "num_drafts": float(np.median(counts)),
    }


def measure(repeats: int) -> list[dict[str, Any]]:
    """Return one record per vocabulary and builder."""
    records: list[dict[str, Any]] = []
    for vocabulary, budgets in CASES:
        logits = [block_logits(vocabulary, seed) for seed in range(5)]
        selection = milliseconds(partial(Marginals.from_logits, logits[0]), repeats)
        records.append({"stage": "selection", "vocabulary": vocabulary, "width": 16, **selection})
        blocks = [Marginals.from_logits(rows) for rows in logits]
        builders: list[tuple[str, TreeBuilder, FlatCost]] = [("chain", Chain(), FlatCost())]
        for budget in budgets:
            builders.append((f"ddtree {budget}", DDTree(node_budget=budget), FlatCost()))
            builders.append((f"caddtree {budget}, all pay", CaDDTree(max_node_budget=budget), FlatCost()))
            builders.append((f"caddtree {budget}, few pay", CaDDTree(max_node_budget=budget), SteepCost()))
        for name, builder, cost_model in builders:
            timing = time_builder(builder, blocks, cost_model, repeats)
            records.append({"stage": "building", "vocabulary": vocabulary, "builder": name, **timing})
    return records


def show(records: list[dict[str, Any]]) -> None:
    for record in records:
        if record["stage"] == "selection":
            print(f"\n{DEPTH} x {record['vocabulary']:,} logits; medians in ms")
            print(f"  {'selection of 16 candidates':32s} {record['median_ms']:8.3f}")
            print(f"  {'builder':32s} {'building':>8s} {'widening':>9s} {'nodes':>6s}")
        else:
            print(
                f"  {record['builder']:32s} {record['building']['median_ms']:8.3f} "
                f"{record['widening']['median_ms']:9.3f} {record['num_drafts']:6.0f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=30, help="timed calls per block")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--json", type=Path, default=None, help="write the records to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        records = measure(arguments.repeats)
    show(records)
    if arguments.json is not None:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "threads": arguments.threads,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        }
        arguments.json.write_text(json.dumps({"machine": machine, "records": records}, indent=2) + "\n")


if __name__ == "__main__":
    main()
