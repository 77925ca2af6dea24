"""What the runtime is meant to reach, beside what a run found, and the table that is printed last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from .stages import STAGES

_LARGEST_OVERHEAD_SECONDS = 0.3e-3


@attrs.frozen
class Target:
    """One aim."""

    name: str
    limit: float
    is_at_most: bool
    value: float | None
    """None where it was not measured."""

    def to_dict(self, *, is_toy: bool) -> dict[str, Any]:
        """Return JSON-ready values; a toy reaches nothing, and nothing misses what was not measured."""
        reached = None
        if self.value is not None and not is_toy:
            reached = self.value <= self.limit if self.is_at_most else self.value >= self.limit
        return {
            "name": self.name,
            "limit": self.limit,
            "limit_is": "at most" if self.is_at_most else "at least",
            "value": self.value,
            "reached": reached,
        }


def find_targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all aims with the values of a run, JSON-ready."""
    found = [*_round_targets(results), *_attention_targets(results)]
    return [target.to_dict(is_toy=bool(results["is_toy"])) for target in found]


def _round_targets(results: dict[str, Any]) -> Iterator[Target]:
    for model, near, speedup in (("qwen3-8b", 1.5, 6.0), ("qwen3-4b", 1.8, 8.0)):
        cells = results.get("models", {}).get(model, {}).get("cells", [])
        short, long = _cell(cells, 1024, 64), _cell(cells, 16_384, 64)
        yield Target(f"{model}: round of 64 rows at 1k over its byte floor", near, True, short.get("ratio"))
        if model == "qwen3-4b":
            yield Target(f"{model}: the same, aimed at", 1.5, True, short.get("ratio"))
        yield Target(f"{model}: round of 64 rows at 16k over its byte floor", 1.8, True, long.get("ratio"))
        yield Target(f"{model}: eager round over ours, 64 rows at 1k", speedup, False, short.get("speedup"))
        yield Target(
            f"{model}: seconds of candidates, tree, walk and commit, 64 rows at 1k",
            _LARGEST_OVERHEAD_SECONDS,
            True,
            short.get("overhead_seconds"),
        )


def _attention_targets(results: dict[str, Any]) -> Iterator[Target]:
    for cell in results.get("attention", []):
        if "kernel" not in cell or cell["context_length"] != 16_384:
            continue
        nodes = cell["num_nodes"]
        limit = 0.7 if nodes <= 16 else 0.5
        yield Target(
            f"attention kernel: share of its floor, {nodes} rows at 16k", limit, False, cell["kernel"]["share"]
        )


def _cell(cells: list[dict[str, Any]], context: int, rows: int) -> dict[str, Any]:
    return next((cell for cell in cells if cell["context_length"] == context and cell["rows"] == rows), {})


def table(results: dict[str, Any]) -> str:
    """Return the figures of a run in short, milliseconds unless another unit is named."""
    lines = []
    for name, model in results.get("models", {}).items():
        lines.append(f"{name}: milliseconds; ratio is the round over its byte floor, times is eager over ours")
        lines.append(
            f"{'context':>8}{'rows':>6}{'round':>8}{'floor':>8}{'ratio':>7}{'eager':>8}{'times':>7}  {' '.join(STAGES)}"
        )
        lines.extend(_round_line(cell) for cell in model["cells"])
        lines.extend(
            f"{cell['context_length']:>8} plain {_ms(cell.get('graph_seconds')):>7}{cell['floor_seconds'] * 1e3:>8.2f}"
            f"{_short(cell.get('ratio')):>7}{_ms(cell.get('eager_seconds')):>8}"
            for cell in model["plain"]
        )
    if results.get("attention"):
        lines.append("attention alone: microseconds, share of the larger of byte and product time")
        lines.append(f"{'context':>8}{'nodes':>6}{'kernel':>9}{'share':>7}{'sdpa':>9}{'flex':>9}")
        lines.extend(_attention_line(cell) for cell in results["attention"])
    lines.extend(
        f"{'reached' if target['reached'] else 'not judged' if target['reached'] is None else 'MISSED'}: "
        f"{target['name']} {_short(target['value'])} ({target['limit_is']} {target['limit']:g})"
        for target in results.get("targets", [])
    )
    return "\n".join(lines)


def _round_line(cell: dict[str, Any]) -> str:
    stages = " ".join(_ms(cell["stages"].get(stage)) for stage in STAGES) if "stages" in cell else ""
    floor = cell["floor_seconds"] * 1e3
    return (
        f"{cell['context_length']:>8}{cell['rows']:>6}{_ms(cell.get('round_seconds')):>8}{floor:>8.2f}"
        f"{_short(cell.get('ratio')):>7}{_ms(cell.get('eager_seconds')):>8}{_short(cell.get('speedup')):>7}  {stages}"
    )


def _attention_line(cell: dict[str, Any]) -> str:
    kernel = cell.get("kernel", {})
    shown = [_us(cell.get(way, {}).get("call_seconds")) for way in ("kernel", "sdpa", "flex")]
    share = f"{kernel['share']:.2f}" if kernel else "-"
    return f"{cell['context_length']:>8}{cell['num_nodes']:>6}{shown[0]:>9}{share:>7}{shown[1]:>9}{shown[2]:>9}"


def _ms(timing: dict[str, float] | None) -> str:
    return "-" if timing is None else f"{timing['median'] * 1e3:.2f}"


def _us(timing: dict[str, float] | None) -> str:
    return "-" if timing is None else f"{timing['median'] * 1e6:.1f}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
