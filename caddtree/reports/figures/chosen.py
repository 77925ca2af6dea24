"""Which budgets were chosen: histograms over rounds, per data set, of variants that choose every round."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from caddtree.experiments.round_figures import Budget
from caddtree.experiments.summary import Summary, VariantSummary
from caddtree.reports.figures.style import (
    GRID,
    INK,
    SHADING,
    Picture,
    finished,
    marks,
    name_rows,
    panels,
    row_height,
    wrapped,
)
from caddtree.reports.variants import drawn_variants

_STEPS = (
    "Draft nodes that were chosen, as shares of the rounds; 0 nodes is a round of plain decoding. {} the counts from "
    "the number at its left to below the next one: steps of about 1.4, so that small and large budgets are both seen."
)
_MOST_PANELS = 12
"""Histograms that are drawn as bars; more of them become lines of shaded fields."""


def chosen_picture(summary: Summary, setting: str, name: str) -> Picture | None:
    """Return the histograms; None where nothing was chosen."""
    adaptive = {variant.name for variant in drawn_variants(summary) if variant.kind == "adaptive"}
    rows = [row for row in summary.rows_of(setting) if row.variant in adaptive and row.overall.budget is not None]
    if not rows:
        return None
    edges = _edges([row.overall.budget for row in rows if row.overall.budget is not None])
    is_small = len(rows) * len(summary.num_prompts) <= _MOST_PANELS
    figure = _bars(summary, rows, edges) if is_small else _fields(summary, rows, edges)
    figure.supxlabel("draft nodes per round", fontsize=9)
    caption = _STEPS.format("A bar holds") if is_small else _STEPS.format("A field, darker for more rounds, holds")
    return finished(
        figure, name=name, setting=setting, caption=caption + ("" if is_small else " Lines mark the means.")
    )


def _edges(budgets: list[Budget]) -> list[int]:
    """Return the lower edges of the steps, and the upper edge of the last one."""
    counts = [nodes for budget in budgets for nodes in budget.histogram]
    edges = [0, 1, 2, 3]
    while edges[-1] <= max(counts):
        edges.append(2 * edges[-2])
    first = bisect_right(edges, min(counts)) - 1
    return edges[first:]


def _shares(budget: Budget, edges: list[int]) -> list[float]:
    """Return the share of rounds in every step, in per cent."""
    shares = [0.0] * (len(edges) - 1)
    total = sum(budget.histogram.values())
    for nodes, rounds in budget.histogram.items():
        shares[bisect_right(edges, nodes) - 1] += 100 * rounds / total
    return shares


def _place(nodes: float, edges: list[int]) -> float:
    """Return where a number of nodes is on the axis; step i reaches from i - 0.5 to i + 0.5."""
    step = bisect_right(edges, nodes) - 1
    return step - 0.5 + (nodes - edges[step]) / (edges[step + 1] - edges[step])


def _set_ticks(axes: Any, edges: list[int]) -> None:
    # where all would crowd: the powers of two
    named = [index for index, edge in enumerate(edges) if len(edges) <= 9 or edge & (edge - 1) == 0]
    axes.set_xticks([index - 0.5 for index in named], [str(edges[index]) for index in named])


def _bars(summary: Summary, rows: list[VariantSummary], edges: list[int]) -> Any:
    found = [(row.variant, dataset, outcome.budget) for row in rows for dataset, outcome in row.datasets.items()]
    mark, columns = marks(drawn_variants(summary)), min(4, len(summary.num_prompts))
    figure, every = panels(len(found), height=2.2, columns=columns, sharex=True, sharey=True)
    for axes, (variant, dataset, budget) in zip(every, found, strict=True):
        axes.set_title(dataset if len(rows) == 1 else wrapped(f"{variant}: {dataset}", 88 // columns))
        axes.grid(axis="y", color=GRID)
        if budget is not None:
            axes.bar(range(len(edges) - 1), _shares(budget, edges), width=0.9, color=mark[variant].color)
            _mark_mean(axes, budget, edges)
    every[0].margins(y=0.15)
    every[0].yaxis.set_major_formatter(lambda share, _: f"{share:.0f} %")
    _set_ticks(every[0], edges)
    figure.supylabel("share of rounds", fontsize=9)
    return figure


def _mark_mean(axes: Any, budget: Budget, edges: list[int]) -> None:
    place = _place(budget.mean, edges)
    axes.axvline(place, color=INK, linewidth=1, linestyle="--")
    is_right = place > 0.7 * len(edges)
    axes.annotate(
        f"mean {budget.mean:.1f}", (place, 1), (-3 if is_right else 3, -1), xycoords=("data", "axes fraction"),
        textcoords="offset points", va="top", ha="right" if is_right else "left", fontsize=8,
    )  # fmt: skip


def _fields(summary: Summary, rows: list[VariantSummary], edges: list[int]) -> Any:
    height = 0.6 + row_height([row.variant for row in rows]) * len(rows)
    figure, every = panels(len(summary.num_prompts), height=height, columns=4, sharex=True, sharey=True)
    shading = LinearSegmentedColormap.from_list("shares", SHADING)
    for axes, dataset in zip(every, summary.num_prompts, strict=True):
        axes.set_title(dataset)
        for line, row in enumerate(rows):
            budget = row.datasets[dataset].budget
            if budget is None:
                continue
            shares = np.ma.masked_equal(np.array([_shares(budget, edges)]), 0)
            axes.pcolormesh(
                np.arange(len(edges)) - 0.5, [line - 0.42, line + 0.42], shares, cmap=shading, vmin=0, vmax=50
            )
            axes.vlines(_place(budget.mean, edges), line - 0.42, line + 0.42, color=INK, linewidth=1.4)
    name_rows(every[0], [row.variant for row in rows])
    _set_ticks(every[0], edges)
    return figure
