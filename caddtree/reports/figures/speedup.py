"""Speed-up over plain decoding with its interval: one panel per data set, and one for the geometric mean."""

from __future__ import annotations

from typing import Any

from caddtree.experiments.statistics import Ratio
from caddtree.experiments.summary import Summary, VariantSummary
from caddtree.reports import formats
from caddtree.reports.figures.style import INK, MUTED, Picture, finished, marks, name_rows, panels, row_height
from caddtree.reports.variants import drawn_variants

CAPTION = (
    "Speed-up over plain decoding (dotted) with its 95 % interval. Blue: a fixed node budget; grey: the chain; the "
    "other colours: a budget that is chosen every round."
)


def speedup_picture(summary: Summary, setting: str, name: str) -> Picture | None:
    """Return the picture; None where no variant but plain decoding has a speed."""
    rows = [
        row
        for row in summary.rows_of(setting)
        if row.variant != summary.plain and row.overall.speedup.value is not None
    ]
    if not rows:
        return None
    groups = {dataset: [row.datasets[dataset].speedup for row in rows] for dataset in summary.num_prompts}
    if len(groups) > 1:
        groups["geometric mean"] = [row.overall.speedup for row in rows]
    columns = 4 if len(groups) in (3, 4, 7, 8) else 3
    height = 0.9 + row_height([row.variant for row in rows]) * len(rows)
    figure, every = panels(len(groups), height=height, columns=columns, sharey=True, sharex=True)
    for axes, (title, ratios) in zip(every, groups.items(), strict=True):
        _panel(axes, title, rows, ratios, summary)
    ends = [ratio.high or ratio.value or 0.0 for ratios in groups.values() for ratio in ratios]
    # room for the figures behind the bars
    every[0].set_xlim(0, 1.28 * max([*ends, 1.0]))
    figure.supxlabel("speed-up over plain decoding", fontsize=9)
    return finished(figure, name=name, setting=setting, caption=CAPTION)


def _colors(summary: Summary) -> dict[str, str]:
    """Return the colour of every variant; one for all adaptive ones where there are more than colours."""
    variants = drawn_variants(summary)
    found = {name: mark.color for name, mark in marks(variants).items()}
    adaptive = [variant.name for variant in variants if variant.kind == "adaptive"]
    if len({found[name] for name in adaptive}) < len(adaptive):
        found.update(dict.fromkeys(adaptive, found[adaptive[0]]))
    return found


def _panel(axes: Any, title: str, rows: list[VariantSummary], ratios: list[Ratio], summary: Summary) -> None:
    colors = _colors(summary)
    for place, (row, ratio) in enumerate(zip(rows, ratios, strict=True)):
        if ratio.value is None:
            continue
        axes.barh(place, ratio.value, height=0.66, color=colors[row.variant])
        end = ratio.value
        if ratio.low is not None and ratio.high is not None:
            reach = [[ratio.value - ratio.low], [ratio.high - ratio.value]]
            axes.errorbar(ratio.value, place, xerr=reach, color=INK, capsize=2.5, linewidth=1.1)
            end = ratio.high
        axes.annotate(formats.ratio(ratio.value), (end, place), (4, 0), textcoords="offset points", va="center")
    axes.axvline(1.0, color=MUTED, linestyle=":", linewidth=1.2)
    name_rows(axes, [row.variant for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_title(title)
