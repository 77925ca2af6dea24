"""Acceptance by depth: the share of drafting rounds whose accepted path reaches a depth."""

from __future__ import annotations

from typing import Any

from caddtree.experiments.summary import Summary, VariantSummary
from caddtree.reports.figures.style import GRID, Mark, Picture, finished, key, marks, panels, shades
from caddtree.reports.variants import drawn_variants, families

CAPTION = (
    "Share of the drafting rounds whose accepted path reaches at least this depth; the shares of a line add up to the "
    "draft nodes that a round accepts. Blue lines are fixed budgets, darker is larger."
)


def depths_picture(summary: Summary, setting: str, name: str) -> Picture | None:
    """Return the picture; None where nothing was drafted."""
    rows = [row for row in summary.rows_of(setting) if row.overall.acceptance.num_rounds]
    if not rows:
        return None
    mark = _marks(summary)
    figure, every = panels(len(summary.num_prompts), height=2.8, sharex=True, sharey=True)
    handles: dict[str, Any] = {}
    for axes, dataset in zip(every, summary.num_prompts, strict=True):
        for row in rows:
            reached = row.datasets[dataset].acceptance.reached
            if reached:
                look = mark[row.variant]
                size = 3 if look.marker in "os" else 4
                (handles[row.variant],) = axes.plot(
                    range(1, len(reached) + 1), [100 * share for share in reached], color=look.color,
                    linestyle=look.line, marker=look.marker, markersize=size, linewidth=1.5, label=row.variant,
                )  # fmt: skip
        axes.set_title(dataset)
        axes.grid(axis="y", color=GRID)
    every[0].set_ylim(0, 102)
    every[0].set_xlim(left=0.7)
    every[0].xaxis.get_major_locator().set_params(integer=True)
    every[0].yaxis.set_major_formatter(lambda share, _: f"{share:.0f} %")
    figure.supxlabel("depth", fontsize=9)
    figure.supylabel("share of rounds", fontsize=9)
    key(figure, _in_order(handles, rows))
    return finished(figure, name=name, setting=setting, caption=CAPTION)


def _marks(summary: Summary) -> dict[str, Mark]:
    """Return the looks of all variants; fixed budgets of a family are shades of blue."""
    variants = drawn_variants(summary)
    found = marks(variants)
    for members in families(variants).values():
        if len(members) > 1:
            for member, color in zip(members, shades(len(members)), strict=True):
                found[member.name] = Mark(color, "o")
    return found


def _in_order(handles: dict[str, Any], rows: list[VariantSummary]) -> list[Any]:
    return [handles[row.variant] for row in rows if row.variant in handles]
