"""The order of a run and its sizes: checks, ceilings, attention alone, then the models, and compiled rivals last."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from . import attention_alone, floors, targets
from .checks import FULL_CHECKS, SOURCES, TOY_CHECKS, CheckSizes, CheckSource, graph_checks
from .device import Device
from .floors import Ceilings, RoundBytes, RoundFlops
from .own_round import HeldSession, OwnRounds
from .papers_round import PapersRounds
from .record import Record
from .shapes import QWEN3_4B, QWEN3_8B, TOY_TIED, TOY_UNTIED, ModelShape, random_drafter, random_target, save_drafter

_MODEL_SECONDS = 90.0
"""A model that has less left of the budget is not begun: its weights and its compiled layers alone take about this."""
_AROUND_THE_MODELS = ("candidates", "tree", "walk", "commit")
_FLEX_SECONDS = 15.0
"""Of one compilation of FlexAttention, roughly."""
_METHOD = {
    "round_seconds": "host clock from the end of one round to the end of the next",
    "stages": "host clock in rounds of their own with a wait for the device after every stage: they add up to more "
    "than a round; commit holds the bookkeeping of the round",
    "accepted_path": "replaced behind the walk by a path of the tree that leaves the arg-max chain, in both ways alike",
    "floor_seconds": "bytes of weights and committed keys and values over the bandwidth of a copy; the head counts "
    "twice, once for the drafter and once for the target",
    "eager_seconds": "the round as public code of the papers runs it: eager Transformers, DynamicCache, a dense mask "
    "per round, all hidden states, the tree by a heap on the host",
    "attention": "one captured graph of calls over several sets of keys and values, four times the cache together",
}


@attrs.frozen
class Plan:
    """What one run measures, and how often."""

    shapes: tuple[ModelShape, ...]
    contexts: tuple[int, ...]
    rows: tuple[int, ...]
    repeats: int
    warm_ups: int
    eager_repeats: int
    eager_stage_repeats: int
    attention_heads: tuple[int, int, int]
    attention_contexts: tuple[int, ...]
    attention_nodes: tuple[int, ...]
    checks: CheckSizes


FULL = Plan(
    shapes=(QWEN3_8B, QWEN3_4B),
    contexts=(1024, 4096, 16_384),
    rows=(1, 16, 32, 64, 128, 256),
    repeats=40,
    warm_ups=5,
    eager_repeats=10,
    eager_stage_repeats=4,
    attention_heads=(32, 8, 128),
    attention_contexts=(1024, 4096, 16_384),
    attention_nodes=(1, 16, 64, 256),
    checks=FULL_CHECKS,
)
TOY = Plan(
    shapes=(TOY_TIED, TOY_UNTIED),
    contexts=(24, 800),
    rows=(1, 4),
    repeats=1,
    warm_ups=0,
    eager_repeats=2,
    eager_stage_repeats=1,
    attention_heads=(4, 2, 16),
    attention_contexts=(20,),
    attention_nodes=(1, 5),
    checks=TOY_CHECKS,
)


def run(plan: Plan, device: Device, record: Record) -> None:
    """Measure everything of a plan into a record."""
    record.results.update(is_toy=device.is_toy, device=device.facts(), method=_METHOD, models={}, attention=[])
    with device.active():
        for name, source in SOURCES.items():
            record.attempt(f"checks: {name}", partial(_run_checks, source, plan, device, record))
            # compiled code and graphs of a check shall not weigh on what follows
            device.free()
            device.forget_compiled()
        record.save()
        record.attempt("figures", partial(_measure_all, plan, device, record))
    record.results["targets"] = targets.find_targets(record.results)
    record.save()


def _run_checks(source: CheckSource, plan: Plan, device: Device, record: Record) -> None:
    for check in source(device, plan.checks):
        record.check(check)


def _measure_all(plan: Plan, device: Device, record: Record) -> None:
    # without them nothing can be judged
    ceilings = floors.measure_ceilings(device)
    record.results["ceilings"] = attrs.asdict(ceilings)
    device.free()
    _measure_attention(plan, device, record, ceilings, ("kernel", "sdpa"))
    for shape in plan.shapes:
        _measure_model(shape, plan, device, record, ceilings)
    _measure_attention(plan, device, record, ceilings, ("flex",))


def _measure_attention(plan: Plan, device: Device, record: Record, ceilings: Ceilings, ways: tuple[str, ...]) -> None:
    """Measure some ways to attend over all shapes of the plan, into one cell per shape."""
    heads, kv_heads, head_dim = plan.attention_heads
    shapes = attention_alone.shapes_of(heads, kv_heads, head_dim, plan.attention_contexts, plan.attention_nodes)
    cells = record.results["attention"]
    for shape in shapes:
        cell = next((cell for cell in cells if _is_of(cell, shape)), None)
        if cell is None:
            cell = attrs.asdict(shape)
            cells.append(cell)
        for way in ways:
            is_flex = way == "flex"
            record.attempt(
                f"attention alone: {way}, context {shape.context_length}, {shape.num_nodes} nodes",
                partial(_measure_way, shape, way, cell, device, ceilings),
                needed_seconds=_FLEX_SECONDS if is_flex and not device.is_toy else 0.0,
                is_optional=is_flex,
            )
            device.free()
    record.progress(f"attention alone: {', '.join(ways)}")
    record.save()


def _is_of(cell: dict[str, Any], shape: attention_alone.AttentionShape) -> bool:
    return (cell["context_length"], cell["num_nodes"]) == (shape.context_length, shape.num_nodes)


def _measure_way(
    shape: attention_alone.AttentionShape, way: str, cell: dict[str, Any], device: Device, ceilings: Ceilings
) -> None:
    problem = attention_alone.make_problem(shape, device)
    if way == "kernel":
        attend = attention_alone.by_kernel(problem)
    elif way == "sdpa":
        attend = attention_alone.by_sdpa(problem)
    else:
        # every shape is compiled by itself: many of one function are more than Dynamo keeps
        device.forget_compiled()
        attend = attention_alone.by_flex(problem, device)
    cell[way] = attention_alone.measure(problem, attend, device, ceilings)


def _measure_model(shape: ModelShape, plan: Plan, device: Device, record: Record, ceilings: Ceilings) -> None:
    """Measure one model at all contexts; what it took is given back at the end."""
    found: dict[str, Any] = {"shape": attrs.asdict(shape), "cells": [], "plain": []}
    record.results["models"][shape.name] = found

    device.start_peak()

    def run_model() -> None:
        with tempfile.TemporaryDirectory() as folder:
            bench = ModelBench(shape, plan, device, record, ceilings, found, Path(folder))
            bench.run()

    record.attempt(f"{shape.name}: all", run_model, needed_seconds=0.0 if device.is_toy else _MODEL_SECONDS)
    found["peak_bytes"] = device.peak_bytes()
    device.free()
    device.forget_compiled()
    record.results["targets"] = targets.find_targets(record.results)
    record.save()


class ModelBench:
    """One target and one drafter, and everything that is measured of them."""

    def __init__(
        self,
        shape: ModelShape,
        plan: Plan,
        device: Device,
        record: Record,
        ceilings: Ceilings,
        found: dict[str, Any],
        folder: Path,
    ) -> None:
        self.shape, self.plan, self.device, self.record, self.found = shape, plan, device, record, found
        self.ceilings = ceilings
        record.progress(f"{shape.name}: making the models")
        self.model = random_target(shape, device.torch_device, device.dtype)
        self.network = random_drafter(shape, device.torch_device, device.dtype)
        self.folder = save_drafter(self.network, folder)
        self.bytes, self.flops = (
            floors.round_bytes(self.model, self.network),
            floors.round_flops(self.model, self.network),
        )
        found["bytes"] = self.bytes.to_dict()
        found["target_layer_ids"] = list(shape.target_layer_ids)
        plain = floors.round_bytes(self.model, None), floors.round_flops(self.model, None)
        for context in plan.contexts:
            found["plain"].append(self._cell(context, 1, *plain))
            found["cells"].extend(self._cell(context, num_rows, self.bytes, self.flops) for num_rows in plan.rows)

    def run(self) -> None:
        """Measure plain decoding first, then our rounds, then the papers' rounds."""
        self._attempt("plain decoding by graphs", self._plain_by_graphs)
        # graphs and the buffers they were captured over go with the decoder that made them
        self.device.free()
        self._attempt("our rounds", self._own_rounds)
        self.found["own_peak_bytes"] = self.device.peak_bytes()
        self.found["compiler"] = self.device.compiler_facts()
        self.device.free()
        for context in self.plan.contexts:
            self._attempt(f"eager rounds, context {context}", partial(self._papers_rounds, context))
            self.device.free()
            self.record.save()

    def _attempt(self, name: str, run: Any) -> None:
        self.record.attempt(f"{self.shape.name}: {name}", run)

    def _plain_by_graphs(self) -> None:
        rounds = OwnRounds(self.model, self.device, (1,))
        for cell in self.found["plain"]:
            name = f"plain decoding by graphs, context {cell['context_length']}"
            self._attempt(name, partial(self._plain_round, rounds, cell))
        rounds.close()

    def _plain_round(self, rounds: OwnRounds, cell: dict[str, Any]) -> None:
        held = rounds.open(cell["context_length"])
        timing, _ = held.measure(0, warm_ups=self.plan.warm_ups, repeats=self.plan.repeats)
        cell["graph_seconds"] = timing.to_dict()
        cell["ratio"] = timing.median / cell["floor_seconds"]

    def _own_rounds(self) -> None:
        self.record.progress(f"{self.shape.name}: our rounds")
        rounds = OwnRounds(self.model, self.device, self.plan.rows, self.folder)
        for context in self.plan.contexts:
            self._attempt(f"our rounds, context {context}", partial(self._own_rounds_at, rounds, context))
            self.record.save()
        rounds.close()

    def _own_rounds_at(self, rounds: OwnRounds, context: int) -> None:
        held = rounds.open(context)
        captured: dict[str, float] = {}
        for num_rows in self.plan.rows:
            captured[str(num_rows)] = held.first_seconds(num_rows - 1)
        self.found.setdefault("first_round_seconds", {})[str(context)] = captured
        self.record.progress(f"{self.shape.name}: captured at context {context} in {sum(captured.values()):.1f} s")
        self._attempt(f"graph = eager, context {context}", partial(self._check_graphs, held))
        for num_rows in self.plan.rows:
            name = f"our round, context {context}, {num_rows} rows"
            self._attempt(name, partial(self._own_round, held, num_rows))

    def _check_graphs(self, held: HeldSession) -> None:
        for check in graph_checks(held, self.plan.rows):
            self.record.check(attrs.evolve(check, name=f"{self.shape.name}: {check.name}"))

    def _own_round(self, held: HeldSession, num_rows: int) -> None:
        cell = _find(self.found["cells"], held.context_length, num_rows)
        whole, stages = held.measure(num_rows - 1, warm_ups=self.plan.warm_ups, repeats=self.plan.repeats)
        overhead = sum(stages[stage].median for stage in _AROUND_THE_MODELS if stage in stages)
        cell.update(
            round_seconds=whole.to_dict(),
            ratio=whole.median / cell["floor_seconds"],
            stages={stage: timing.to_dict() for stage, timing in stages.items()},
            overhead_seconds=overhead,
            tree=held.tree_facts(num_rows - 1),
        )
        self.record.progress(
            f"{self.shape.name}: context {held.context_length}, {num_rows} rows: {whole.median * 1e3:.2f} ms, "
            f"{cell['ratio']:.2f} x the floor"
        )

    def _papers_rounds(self, context: int) -> None:
        plain = _find(self.found["plain"], context, 1)
        self.record.progress(f"{self.shape.name}: eager rounds at context {context}")
        eager = PapersRounds(self.model, self.network, self.device, context)
        timing = eager.measure_plain(warm_ups=2, repeats=self.plan.eager_repeats)
        plain["eager_seconds"] = timing.to_dict()
        for num_rows in self.plan.rows:
            name = f"eager round, context {context}, {num_rows} rows"
            self._attempt(name, partial(self._papers_round, eager, num_rows))

    def _papers_round(self, eager: PapersRounds, num_rows: int) -> None:
        whole, stages = eager.measure(
            num_rows - 1,
            warm_ups=2,
            repeats=self.plan.eager_repeats,
            stage_repeats=self.plan.eager_stage_repeats,
        )
        cell = _find(self.found["cells"], eager.context_length, num_rows)
        cell["eager_seconds"] = whole.to_dict()
        cell["eager_stages"] = {stage: timing.to_dict() for stage, timing in stages.items()}
        if "round_seconds" in cell:
            cell["speedup"] = whole.median / cell["round_seconds"]["median"]

    def _cell(self, context: int, num_rows: int, num_bytes: RoundBytes, num_flops: RoundFlops) -> dict[str, Any]:
        total, flops = num_bytes.total(context), num_flops.total(num_rows, context)
        return {
            "context_length": context,
            "rows": num_rows,
            "num_draft_nodes": num_rows - 1,
            "floor_bytes": total,
            "floor_seconds": total / self.ceilings.bytes_per_second,
            "flops": flops,
            "flops_seconds": flops / self.ceilings.flops_per_second,
        }


def _find(cells: list[dict[str, Any]], context: int, num_rows: int) -> dict[str, Any]:
    """Return the cell of a context and a number of rows."""
    return next(cell for cell in cells if (cell["context_length"], cell["rows"]) == (context, num_rows))
