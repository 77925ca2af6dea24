"""One line per planned cell as CSV: for readers who want to compute their own figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from caddtree.experiments.records import Cell, Result
from caddtree.experiments.store import RunData
from caddtree.experiments.summary import first_difference

COLUMNS = (
    "cell", "setting", "dataset", "prompt", "seed", "repeat", "variant", "status", "position", "started",
    "environment", "finish_reason", "num_prompt_tokens", "num_tokens", "num_rounds", "num_gained", "tau",
    "mean_draft_nodes", "prefill_seconds", "decode_seconds", "draft_seconds", "build_seconds", "verify_seconds",
    "commit_seconds", "predicted_seconds", "harness_seconds", "tokens_per_second", "speedup", "ratio", "identical",
    "difference_position", "difference_gap", "reason",
)  # fmt: skip
"""``speedup`` is over plain decoding and ``ratio`` to the baseline, in the same block; what there is not, is empty."""


def cells_csv(data: RunData) -> str:
    """Return the table, in the order of the plan."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    partners = {
        (cell.variant, cell.block): data.results[cell.id] for cell in data.plan.cells if cell.id in data.results
    }
    for cell in data.plan.cells:
        writer.writerow({**_identity(cell), **_outcome(data, cell, partners)})
    return text.getvalue()


def _identity(cell: Cell) -> dict[str, Any]:
    names = ("setting", "dataset", "prompt", "seed", "repeat", "variant")
    return {"cell": cell.id, **{name: getattr(cell, name) for name in names}}


def _outcome(data: RunData, cell: Cell, partners: Mapping[Any, Result]) -> dict[str, Any]:
    if cell.id in data.failed:
        return {"status": "failed", "reason": data.failed[cell.id].reason}
    result = data.results.get(cell.id)
    if result is None:
        return {"status": "missing"}
    plain = partners.get((data.plan.plain, cell.block))
    return {
        "status": "ok",
        "position": result.position,
        "started": result.started,
        "environment": result.environment,
        "finish_reason": result.finish_reason,
        "num_prompt_tokens": result.num_prompt_tokens,
        "num_tokens": len(result.token_ids),
        "prefill_seconds": result.prefill_seconds,
        "harness_seconds": result.harness_seconds,
        **_rounds(result),
        "speedup": _ratio(result, plain),
        "ratio": _ratio(result, partners.get((data.plan.baseline, cell.block))),
        **_identical(data, result, plain),
    }


def _rounds(result: Result) -> dict[str, Any]:
    rounds, num_rounds = result.rounds, len(result.rounds.num_gained)
    predicted = [seconds for seconds in rounds.predicted_seconds if seconds is not None]
    return {
        "num_rounds": num_rounds,
        "num_gained": result.num_gained,
        "tau": result.num_gained / num_rounds if num_rounds else "",
        "mean_draft_nodes": sum(rounds.num_draft_nodes) / num_rounds if num_rounds else "",
        "decode_seconds": result.decode_seconds,
        "draft_seconds": sum(rounds.draft_seconds),
        "build_seconds": sum(rounds.build_seconds),
        "verify_seconds": sum(rounds.verify_seconds),
        "commit_seconds": sum(rounds.commit_seconds),
        # a part of the rounds has no sum that could be compared
        "predicted_seconds": sum(predicted) if predicted and len(predicted) == num_rounds else "",
        "tokens_per_second": result.tokens_per_second or "",
    }


def _ratio(result: Result, other: Result | None) -> float | str:
    if other is None or not other.tokens_per_second or not result.tokens_per_second:
        return ""
    return result.tokens_per_second / other.tokens_per_second


def _identical(data: RunData, result: Result, plain: Result | None) -> dict[str, Any]:
    if plain is None:
        return {}
    if result.token_ids == plain.token_ids:
        return {"identical": "true"}
    known = data.differences.get(result.cell.id)
    position = first_difference(result.token_ids, plain.token_ids) if known is None else known.position
    gap = "" if known is None or known.gap is None else known.gap
    return {"identical": "false", "difference_position": position, "difference_gap": gap}
