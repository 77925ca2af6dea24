"""Tau, and throughput, against the node budget: fixed budgets as lines, chosen ones at their mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from caddtree.experiments.summary import Outcome, Summary
from caddtree.reports import formats
from caddtree.reports.figures.style import GRID, MUTED, PAPER, Mark, Picture, finished, key, marks, panels
from caddtree.reports.variants import DrawnVariant, drawn_variants, families

_WIDE = 4.0
"""Ratio of the ends of an axis from which on it is logarithmic."""


@attrs.frozen
class _Point:
    nodes: float
    value: float
    low: float
    high: float


def tau_picture(summary: Summary, setting: str, name: str) -> Picture | None:
    """Return tau against the budget; None without two fixed budgets."""

    def point(nodes: float, found: Outcome) -> _Point | None:
        return None if found.tau is None else _Point(nodes, found.tau, found.tau, found.tau)

    drawn = _budget_panels(summary, setting, point, sharey=True)
    if drawn is None:
        return None
    figure, every, points = drawn
    # 1 is the floor: a round that accepts nothing still gains the bonus token
    every[0].set_ylim(1, 1.06 * max(point.value for panel in points for point in panel))
    every[0].yaxis.set_major_locator(MaxNLocator(7, integer=True))
    _finish_panels(figure, every, points, summary, "tau (tokens per round)")
    caption = (
        "Tokens per round against draft nodes per round. Lines: fixed budgets; other marks: budgets that are chosen "
        "every round, at their mean, and the chain at its length."
    )
    return finished(figure, name=name, setting=setting, caption=caption)


def throughput_picture(summary: Summary, setting: str, name: str) -> Picture | None:
    """Return throughput against the budget; None without two fixed budgets."""

    def point(nodes: float, found: Outcome) -> _Point | None:
        ratio = found.speedup
        if ratio.value is None:
            return None
        ends = (ratio.value, ratio.value) if ratio.low is None or ratio.high is None else (ratio.low, ratio.high)
        return _Point(nodes, ratio.value, *ends)

    drawn = _budget_panels(summary, setting, point)
    if drawn is None:
        return None
    figure, every, points = drawn
    _same_relative_height(every, points)
    for axes, dataset in zip(every, summary.num_prompts, strict=True):
        plain = next(row for row in summary.rows_of(setting) if row.variant == summary.plain).datasets[dataset]
        axes.set_title(f"{dataset}  (plain: {formats.speed(plain.tokens_per_second)} tokens/s)")
        if axes.get_ylim()[0] < 1.0:
            axes.axhline(1.0, color=MUTED, linestyle=":", linewidth=1)
    _finish_panels(figure, every, points, summary, "speed-up over plain decoding")
    caption = (
        "Throughput, as the speed-up over plain decoding with its 95 % interval, against draft nodes per round. Lines: "
        "fixed budgets; other marks: budgets that are chosen every round, at their mean, and the chain at its length. "
        "The axes do not start at 0; equal heights are equal ratios in all panels."
    )
    return finished(figure, name=name, setting=setting, caption=caption)


def _budget_panels(
    summary: Summary, setting: str, point: Callable[[float, Outcome], _Point | None], **sharing: Any
) -> tuple[Any, list[Any], list[list[_Point]]] | None:
    """Return figure, panels and the points of every panel."""
    variants = drawn_variants(summary)
    groups = families(variants)
    outcomes = {row.variant: row.datasets for row in summary.rows_of(setting)}
    ran = {row.variant for row in summary.rows_of(setting) if row.overall.tau is not None}
    if not any(len(ran & {member.name for member in members}) > 1 for members in groups.values()):
        return None
    figure, every = panels(len(summary.num_prompts), height=3.0, **sharing)
    mark, points = marks(variants), []
    for axes, dataset in zip(every, summary.num_prompts, strict=True):
        lines = [[(m, outcomes[m.name][dataset]) for m in members] for members in groups.values()]
        singles = [[(v, outcomes[v.name][dataset])] for v in variants if v.kind in ("chain", "adaptive")]
        panel = []
        for members in lines + singles:
            found = [p for v, o in members if o.budget is not None and (p := point(_nodes(v, o), o)) is not None]
            if found:
                _draw(axes, found, mark[members[0][0].name])
            panel += found
        points.append(panel)
        axes.set_title(dataset)
    return figure, every, points


def _nodes(variant: DrawnVariant, found: Outcome) -> float:
    assert found.budget is not None
    if variant.node_budget is not None:
        return variant.node_budget
    if variant.kind == "chain":
        # most rounds run the whole chain; the last one of a text is shorter
        histogram = found.budget.histogram
        return max(histogram, key=lambda nodes: histogram[nodes])
    return found.budget.mean


def _draw(axes: Any, points: list[_Point], mark: Mark) -> None:
    nodes, values = [p.nodes for p in points], [p.value for p in points]
    reach = [[p.value - p.low for p in points], [p.high - p.value for p in points]]
    line = "-" if len(points) > 1 else "none"
    size = 5 if mark.marker == "o" else 8
    axes.errorbar(
        nodes, values, yerr=reach if any(map(any, reach)) else None, color=mark.color, marker=mark.marker,
        markeredgecolor=PAPER, markeredgewidth=0.7, linestyle=line, markersize=size, capsize=2.5, linewidth=1.6,
        elinewidth=1, zorder=3 if line == "none" else 2,
    )  # fmt: skip


def _same_relative_height(every: list[Any], points: list[list[_Point]]) -> None:
    """Give every panel the same ratio of upper to lower end, so that a steep line is steep in all of them."""
    ends = [(min(p.low for p in panel), max(p.high for p in panel)) for panel in points if panel]
    ratio = 1.05 * max([1.1, *(high / low for low, high in ends)]) ** 1.05
    for axes, panel in zip(every, points, strict=True):
        if panel:
            middle = (min(p.low for p in panel) * max(p.high for p in panel)) ** 0.5
            low, high = middle / ratio**0.5, middle * ratio**0.5
            axes.set_ylim(low, high)
            axes.yaxis.set_major_locator(MaxNLocator(6))
            if ratio > _WIDE:
                axes.set_yscale("log", base=2)
                ticks = [2.0**power for power in range(-9, 10) if low <= 2.0**power <= high]
                axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.minorticks_off()


def _ticks(budgets: list[int], points: list[list[_Point]]) -> list[int]:
    """Return the fixed budgets, and powers of two where there is no budget near."""
    ticks = set(budgets)
    nodes = [point.nodes for panel in points for point in panel]
    power = 1
    while power <= 2 * max(nodes):
        is_free = all(max(power, tick) >= 1.6 * min(power, tick) for tick in ticks)
        if is_free and 0.8 * min(nodes) <= power <= 1.25 * max(nodes):
            ticks.add(power)
        power *= 2
    return sorted(ticks)


def _finish_panels(figure: Any, every: list[Any], points: list[list[_Point]], summary: Summary, label: str) -> None:
    variants = drawn_variants(summary)
    groups, mark = families(variants), marks(variants)
    ticks = _ticks([member.node_budget or 0 for members in groups.values() for member in members], points)
    for axes in every:
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(axis="y", color=GRID)
    figure.supxlabel("draft nodes per round", fontsize=9)
    figure.supylabel(label, fontsize=9)
    looks = {f"{name}, fixed budget": mark[members[0].name] for name, members in groups.items()}
    looks |= {v.name: mark[v.name] for v in variants if v.kind in ("chain", "adaptive")}
    handles = [
        Line2D([], [], color=m.color, marker=m.marker, linestyle="-" if m.marker == "o" else "none", label=text)
        for text, m in looks.items()
    ]
    key(figure, handles)
