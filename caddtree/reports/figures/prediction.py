"""Predicted against measured seconds of whole rounds, one panel per variant that predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from caddtree.experiments.round_figures import RoundArrays
from caddtree.experiments.store import RunData
from caddtree.experiments.summary import Summary
from caddtree.reports import formats
from caddtree.reports.figures.style import GRID, INK, MUTED, SHADING, WIDTH, Picture, finished, wrapped

CAPTION = (
    "What the cost model predicted for a round against what it took. Error: predicted over measured minus 1, its "
    "median and the median of its size. Shading: number of rounds, darker is more; points: median of the measured "
    "seconds of equally many rounds each, with the range of their middle 80 %; dotted: exact. The slowest and the "
    "fastest 0.5 % of the rounds lie outside of the panel."
)
_BUCKETS = 8
_FEWEST = 8
"""Rounds of a bucket at least."""


def prediction_picture(data: RunData, summary: Summary, setting: str, name: str) -> Picture | None:
    """Return the picture; None where nothing was predicted."""
    found = {
        row.variant: _milliseconds(data, setting, row.variant)
        for row in summary.rows_of(setting)
        if row.overall.prediction is not None
    }
    if not found:
        return None
    across = min(3 if len(found) <= 6 else 4, len(found))
    down = -(-len(found) // across)
    width = (0.45, 2 / 3, 1.0, 1.0)[across - 1] * WIDTH
    figure = Figure(figsize=(width, (width / across + 0.4) * down), layout="constrained")
    every = list(figure.subplots(down, across, squeeze=False).flat)
    for empty in every[len(found) :]:
        empty.remove()
    errors = {row.variant: row.overall.prediction for row in summary.rows_of(setting)}
    for axes, (variant, (predicted, measured)) in zip(every, found.items(), strict=False):
        _panel(axes, predicted, measured)
        error = f"error {formats.prediction(errors[variant])} absolute"
        axes.set_title(f"{wrapped(variant, 100 // across)}\n{error}", fontsize=9)
        axes.set_xlabel("predicted ms per round")
        axes.set_ylabel("measured ms per round")
    return finished(figure, name=name, setting=setting, caption=CAPTION)


def _milliseconds(data: RunData, setting: str, variant: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return predicted and measured milliseconds of all rounds."""
    cells = [cell for cell in data.plan.cells if cell.setting == setting and cell.variant == variant]
    rounds = RoundArrays.of([data.results[cell.id].rounds for cell in cells if cell.id in data.results])
    known = rounds.is_predicted
    return 1e3 * rounds.predicted_seconds[known], 1e3 * rounds.total_seconds[known]


def _panel(axes: Any, predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> None:
    both = np.concatenate([predicted, measured])
    low, high = np.percentile(both, [0.5, 99.5])
    margin = 0.04 * (high - low) or 0.1 * high
    low, high = max(0.0, low - margin), high + margin
    inside = (predicted >= low) & (predicted <= high) & (measured >= low) & (measured <= high)
    shading = LinearSegmentedColormap.from_list("rounds", SHADING)
    axes.hexbin(
        predicted[inside], measured[inside], gridsize=28, extent=(low, high, low, high), mincnt=1, cmap=shading,
        norm=LogNorm() if inside.sum() > 200 else None, linewidths=0.2,
    )  # fmt: skip
    axes.plot([low, high], [low, high], color=MUTED, linestyle=":", linewidth=1.2)
    order = np.argsort(predicted, kind="stable")
    for bucket in np.array_split(order, min(_BUCKETS, max(1, len(order) // _FEWEST))):
        middle = float(np.median(measured[bucket]))
        below, above = np.percentile(measured[bucket], [10, 90])
        axes.errorbar(
            float(np.median(predicted[bucket])), middle, yerr=[[middle - below], [above - middle]], color=INK,
            marker="o", markersize=3.5, linewidth=1, capsize=2,
        )  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.grid(color=GRID)
