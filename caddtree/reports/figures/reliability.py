"""Whether draft probabilities are frequencies: how often drafted tokens were right, by their probability."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from caddtree.experiments.records import Reliability
from caddtree.experiments.summary import Summary
from caddtree.reports.figures.style import GRID, MUTED, WIDTH, Picture, finished, marks, wrapped
from caddtree.reports.variants import drawn_variants

CAPTION = (
    "How often the children of walked nodes were right, against the probability that the drafter gave them, with 95 % "
    "intervals (Wilson); dotted: a probability that is a frequency; below the dots the drafter is too sure. Beneath: "
    "how many children a bin holds."
)
_FEWEST = 10
"""Children of a bin that is shown."""
_COLUMNS = 5


def reliability_picture(summary: Summary, setting: str, name: str) -> Picture | None:
    """Return the picture; None where no variant drafted from a drafter with probabilities."""
    found = {row.variant: r for row in summary.rows_of(setting) if (r := row.overall.reliability) is not None}
    if not found:
        return None
    across = min(_COLUMNS, len(found))
    down = -(-len(found) // across)
    width = WIDTH if across > 2 else 0.5 * WIDTH * across
    figure = Figure(figsize=(width, (2.6 if across > 3 else 3.3) * down), layout="constrained")
    every = figure.subplots(2 * down, across, squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1] * down)
    colors = {variant: mark.color for variant, mark in marks(drawn_variants(summary)).items()}
    places = [(2 * (index // across), index % across) for index in range(down * across)]
    for (row, column), variant in zip(places, [*found, *[None] * (len(places) - len(found))], strict=True):
        if variant is None:
            every[row, column].remove()
            every[row + 1, column].remove()
        else:
            _panel(every[row, column], every[row + 1, column], found[variant], colors[variant])
            every[row, column].set_title(wrapped(variant, 96 // across), fontsize=9)
            # the lowest of its column
            every[row + 1, column].tick_params(labelbottom=places.index((row, column)) + across >= len(found))
    for row in range(0, 2 * down, 2):
        every[row, 0].set_ylabel("share that was right")
        every[row + 1, 0].set_ylabel("children")
    figure.supxlabel("draft probability, given the parent", fontsize=9)
    return finished(figure, name=name, setting=setting, caption=CAPTION)


def _panel(axes: Any, below: Any, found: Reliability, color: str) -> None:
    count = np.array(found.count)
    shown = count >= _FEWEST
    probability = np.array(found.probability_sum)[shown] / count[shown]
    share = np.array(found.right)[shown] / count[shown]
    low, high = wilson(share, count[shown])
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1.2)
    axes.errorbar(
        probability, share, yerr=[share - low, high - share], color=color, marker="o", markersize=4, linewidth=1.4,
        elinewidth=1,
    )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.grid(color=GRID)
    edges = np.linspace(0, 1, len(count) + 1)
    below.bar(edges[:-1], count, width=np.diff(edges) * 0.9, align="edge", color=color)
    below.set_yscale("log")
    below.set_ylim(bottom=0.8)
    below.yaxis.set_major_locator(LogLocator(numticks=4))
    below.yaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    below.minorticks_off()
    below.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])


def wilson(share: Any, count: Any) -> tuple[Any, Any]:
    """Return the ends of the 95 % interval of a share of ``count`` observations."""
    z = 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.minimum(middle - reach, share), np.maximum(middle + reach, share)
