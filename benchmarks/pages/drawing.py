"""Draws the kept result: one function per picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from .measuring import CANDIDATES_SHOWN, LARGEST_SIZE, STAGES

CLOSE_SIZE = 63
"""Draft nodes up to which three cost models are compared."""
ACCEPTED, BONUS, DRAFTED = "#d55e00", "#009e73", "#0072b2"
STAGE_COLORS = {"draft": "#56b4e9", "build": "#e69f00", "verify": "#0072b2", "commit": "#009e73"}
MODEL_COLORS = {"table": "#d55e00", "convex": "#0072b2", "analytic": "#009e73"}
METHOD_NAMES = {"plain": "plain", "chain": "DFlash chain", "caddtree": "CaDDTree"}
WIDTH = 7.3
"""Inches: about the 700 pixels of a page's column, so that a point of the font is a point on the page."""


def draw(data: dict[str, Any]) -> dict[str, str]:
    """Return every picture as SVG by its file name."""
    import io

    from caddtree.reports.figures.style import drawing

    pictures = {
        "round.svg": draw_round,
        "mask.svg": draw_mask,
        "timeline.svg": draw_timeline,
        "costs.svg": draw_costs,
        "choice.svg": draw_choice,
        "sizes.svg": draw_sizes,
    }
    found = {}
    for name, picture in pictures.items():
        with drawing():
            buffer = io.StringIO()
            # no date: the same file gives the same bytes; matplotlib's version stays, the test asks for it
            picture(data).savefig(buffer, format="svg", metadata={"Date": None})
        found[name] = "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
    return found


def new_figure(height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def shown(token: str, longest: int = 8) -> str:
    """Return a token with its blanks visible, cut to what fits."""
    text = token.replace(" ", "␣").replace("\n", "⏎")
    return text if len(text) <= longest else text[: longest - 1] + "…"


def places(nodes: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return ``(depth, row)`` of every node: leaves one row each, a parent level with its first child."""
    children: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        children.setdefault(node["parent"], []).append(number)
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(nodes)
    next_row = 0

    def put(number: int, depth: int) -> float:
        nonlocal next_row
        rows = [put(child, depth + 1) for child in children.get(number, [])]
        if not rows:
            rows = [float(next_row)]
            next_row += 1
        found[number] = (float(depth), rows[0])
        return rows[0]

    put(0, 0)
    return found


def edge(axes: Any, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    """Draw a branch: down beside the parent, then across."""
    middle = start[0] + 0.5
    axes.plot([start[0], middle, middle, end[0]], [start[1], start[1], end[1], end[1]], **style)


def box(axes: Any, place: tuple[float, float], text: str, color: str, *, filled: bool, size: float = 7.5) -> None:
    from caddtree.reports.figures.style import INK, PAPER

    axes.text(
        *place,
        text,
        ha="center",
        va="center",
        fontsize=size,
        zorder=3,
        color=PAPER if filled else INK,
        bbox={"boxstyle": "round,pad=0.25", "facecolor": color if filled else PAPER, "edgecolor": color},
    )


def draw_round(data: dict[str, Any]) -> Any:
    """The block of marginals above, the tree that was chosen from it below; one column is one position."""
    from caddtree.reports.figures.style import GRID, INK, MUTED

    round_ = data["round"]
    nodes, path = round_["nodes"], set(round_["path"])
    spots = places(nodes)
    num_rows = int(max(row for _, row in spots)) + 1
    # the positions behind the tree and its bonus token say no more
    depth = min(len(round_["marginals"]), int(max(depth for depth, _ in spots)) + 2)
    figure = new_figure(2.5 + 0.47 * num_rows)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.8, 0.47 * num_rows])
    for column, candidates in enumerate(round_["marginals"][:depth], start=1):
        for rank, (token, probability) in enumerate(candidates):
            above.fill_between(
                [column - 0.48, column + 0.48], rank - 0.47, rank + 0.47, color=DRAFTED, alpha=0.85 * probability, lw=0
            )
            ink = "#ffffff" if probability > 0.6 else INK
            above.text(column, rank - 0.18, shown(token), ha="center", va="center", fontsize=8.5, color=ink)
            above.text(column, rank + 0.24, f"{probability:.2f}", ha="center", va="center", fontsize=7.5, color=ink)
    above.set_ylim(CANDIDATES_SHOWN - 0.5, -0.5)
    above.set_yticks(range(CANDIDATES_SHOWN), [f"{rank + 1}." for rank in range(CANDIDATES_SHOWN)])
    above.set_title(
        f"1. Draft: the likeliest tokens of positions 1 to {depth} of {len(round_['marginals'])}, from one pass"
    )
    above.tick_params(axis="x", labelbottom=True, length=0)
    above.tick_params(axis="y", length=0)
    for number, node in enumerate(nodes[1:], start=1):
        on_path = number in path
        edge(
            below,
            spots[node["parent"]],
            spots[number],
            color=ACCEPTED if on_path else MUTED,
            linewidth=1.8 if on_path else 0.8,
            zorder=2 if on_path else 1,
        )
    last = spots[round_["path"][-1]]
    bonus = (last[0] + 1, last[1])
    below.plot([last[0], bonus[0]], [last[1], bonus[1]], color=BONUS, linewidth=1.8, linestyle=":", zorder=1)
    box(below, bonus, shown(round_["bonus"]), BONUS, filled=True, size=8.5)
    for number, node in enumerate(nodes):
        color = ACCEPTED if number in path else MUTED
        box(below, spots[number], shown(node["token"]), color, filled=number in path, size=8.5)
        if number:
            below.text(
                spots[number][0],
                spots[number][1] + 0.43,
                f"{node['weight']:.2f}",
                ha="center",
                va="center",
                fontsize=7.5,
                color=MUTED,
                zorder=4,
            )
    below.set_ylim(num_rows - 0.3, -0.6)
    below.set_yticks([])
    below.set_xlim(-0.6, depth + 0.6)
    below.set_xticks(range(depth + 1), ["root", *(str(place) for place in range(1, depth + 1))])
    below.set_title(f"2. Build: {len(nodes) - 1} draft nodes.  3. Verify: the path the target takes")
    below.tick_params(axis="x", labelbottom=False, length=0)
    for axes in (above, below):
        for side in axes.spines.values():
            side.set_visible(False)
        for place in range(depth + 1):
            axes.axvline(place + 0.5, color=GRID, linewidth=0.5, zorder=0)
    words = (("root and accepted", ACCEPTED, True), ("not taken", MUTED, False), ("bonus token", BONUS, True))
    for line, (name, color, filled) in enumerate(words):
        box(below, (depth - 0.4, num_rows - 3.0 + 0.75 * line), name, color, filled=filled, size=8.5)
    return figure


def ancestors(nodes: Sequence[dict[str, Any]], number: int) -> list[int]:
    """Return a node and its ancestors."""
    found = [number]
    while nodes[found[-1]]["parent"] >= 0:
        found.append(nodes[found[-1]]["parent"])
    return found


def draw_mask(data: dict[str, Any]) -> Any:
    """The tree by the numbers of its nodes, and which rows every row may see."""
    from caddtree.reports.figures.style import GRID, INK, MUTED, PAPER

    round_ = data["round"]
    nodes, path = round_["nodes"], set(round_["path"])
    spots = places(nodes)
    figure = new_figure(4.3)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.45])
    for number, node in enumerate(nodes[1:], start=1):
        on_path = number in path
        color = ACCEPTED if on_path else MUTED
        edge(left, spots[node["parent"]], spots[number], color=color, linewidth=1, zorder=2 if on_path else 1)
    for number in range(len(nodes)):
        box(left, spots[number], str(number), ACCEPTED if number in path else MUTED, filled=number in path, size=8)
    left.set_ylim(max(row for _, row in spots) + 0.6, -0.6)
    left.set_xlim(-0.6, max(depth for depth, _ in spots) + 0.6)
    left.set_title("the tree, its nodes numbered")
    left.set_axis_off()
    context = 3.0
    right.barh(range(len(nodes)), context, left=-context - 0.9, height=1, linewidth=0, color=DRAFTED, alpha=0.35)
    right.text(
        -context / 2 - 0.9,
        (len(nodes) - 1) / 2,
        f"context: {round_['context_length']} rows, seen by all",
        rotation=90,
        ha="center",
        va="center",
        fontsize=8,
        color=INK,
    )
    for number in range(len(nodes)):
        color = ACCEPTED if number in path else DRAFTED
        seen = ancestors(nodes, number)
        right.barh([number] * len(seen), 0.86, left=[place - 0.43 for place in seen], height=0.86, color=color)
    right.set_xlim(-context - 1.1, len(nodes) - 0.4)
    right.set_ylim(len(nodes) - 0.4, -0.6)
    marks = range(len(nodes))
    right.set_xticks(marks, [str(mark) for mark in marks], fontsize=6.8)
    right.set_yticks(marks, [str(mark) for mark in marks], fontsize=6.8)
    right.tick_params(length=0)
    right.set_axisbelow(True)
    right.set_facecolor(PAPER)
    right.grid(color=GRID, linewidth=0.4)
    right.set_xlabel("row that is seen")
    right.set_ylabel("row that looks")
    right.set_title("ancestor mask: a node sees itself and its ancestors")
    return figure


def draw_timeline(data: dict[str, Any]) -> Any:
    """One text by three methods, to scale; and the mean round of each."""
    from matplotlib.patches import Patch

    from caddtree.reports.figures.style import INK, PAPER

    methods = data["text"]["methods"]
    figure = new_figure(4.1)
    whole, single = figure.subplots(2, 1)
    names = list(METHOD_NAMES)
    for row, name in enumerate(names):
        start = 0.0
        for round_ in methods[name]["rounds"]:
            begin = start
            for stage in STAGES:
                width = 1e3 * round_["seconds"][stage]
                whole.barh(row, width, left=start, height=0.62, color=STAGE_COLORS[stage], linewidth=0)
                start += width
            whole.barh(row, start - begin, left=begin, height=0.62, facecolor="none", edgecolor=PAPER, linewidth=0.5)
        words = f"{1e3 * methods[name]['seconds']:.0f} ms, {len(methods[name]['rounds'])} rounds"
        whole.text(start, row - 0.43, words, ha="right", va="center", fontsize=8, color=INK)
        start = 0.0
        for stage in STAGES:
            width = 1e3 * statistics.fmean(round_["seconds"][stage] for round_ in methods[name]["rounds"])
            single.barh(row, width, left=start, height=0.62, color=STAGE_COLORS[stage], linewidth=0)
            start += width
        words = f"{start:.1f} ms for {methods[name]['tau']:.2f} tokens"
        single.text(start + 0.25, row, words, ha="left", va="center", fontsize=8.5, color=INK)
    for axes in (whole, single):
        axes.set_yticks(range(3), [METHOD_NAMES[name] for name in names])
        axes.set_ylim(2.5, -0.7)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("ms")
    whole.set_title(f"the same {methods['plain']['tokens']} tokens, round by round")
    single.set_title("the mean round")
    single.set_xlim(0, 1.45 * single.get_xlim()[1])
    handles = [Patch(color=STAGE_COLORS[stage], label=stage) for stage in STAGES]
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


def size_axis(axes: Any, largest: int) -> None:
    """Give the sizes a root scale: small ones are chosen most, and 0 must have a place."""
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), lambda x: np.square(x)))
    marks = [mark for mark in (0, 7, 31, 63, 127, 255) if mark <= largest]
    axes.set_xlim(0, largest)
    axes.set_xticks(marks, [str(mark) for mark in marks])
    axes.set_xlabel("draft nodes")
    axes.grid(axis="y")


def draw_costs(data: dict[str, Any]) -> Any:
    """Seconds of a round by size: three models over the measured points, and the table at every context."""
    from caddtree.reports.figures.style import INK, SHADING

    costs = data["costs"]
    counts = np.array(costs["counts"])
    figure = new_figure(3.2)
    left, right = figure.subplots(1, 2)
    left.plot(counts, 1e3 * np.array(costs["measured"][0]), "o", color=INK, markersize=3.5, label="measured medians")
    styles = {"table": "-", "convex": "--", "analytic": ":"}
    for name, color in MODEL_COLORS.items():
        left.plot(counts, 1e3 * np.array(costs[name][0]), styles[name], color=color, label=name, linewidth=1.6)
    left.set_title(f"three models, context {costs['contexts'][0]}")
    for row, context in enumerate(costs["contexts"]):
        right.plot(counts, 1e3 * np.array(costs["table"][row]), color=SHADING[row], label=f"{context} rows")
    right.set_title("the table, by context")
    near = int(np.searchsorted(counts, CLOSE_SIZE, side="right"))
    shown_models = np.array([costs[name][0][:near] for name in MODEL_COLORS])
    left.set_xlim(-1, CLOSE_SIZE + 1)
    left.set_ylim(1e3 * shown_models.min() - 1, 1e3 * shown_models.max() + 1)
    right.set_xlim(0, counts[-1])
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("draft nodes")
        axes.legend(fontsize=8, loc="upper left")
        axes.grid(axis="y")
    left.set_ylabel("ms of a whole round")
    return figure


def draw_choice(data: dict[str, Any]) -> Any:
    """Tokens, seconds and their ratio by size, for three rounds; the best size moves."""
    from caddtree.reports.figures.style import INK

    figure = new_figure(5.2)
    axes = figure.subplots(3, 3, sharex=True)
    for column, (name, choice) in enumerate(data["choices"].items()):
        counts, tokens = np.array(choice["counts"]), np.array(choice["tokens"])
        seconds, best = np.array(choice["seconds"]), choice["counts"].index(choice["ratio_size"])
        rows = ((tokens, DRAFTED), (1e3 * seconds, "#7f858c"), (tokens / seconds, ACCEPTED))
        for row, (values, color) in enumerate(rows):
            panel = axes[row][column]
            panel.plot(counts, values, color=color, marker="o", markersize=2.5, linewidth=1.5)
            panel.axvline(counts[best], color=INK, linewidth=0.8, linestyle=":")
            size_axis(panel, LARGEST_SIZE)
            # tokens and seconds share their scales; the ratios would be flat lines on one
            panel.set_ylim(0, (16, 45, 1.15 * values.max())[row])
            if row < 2:
                panel.set_xlabel("")
        taken = choice["counts"].index(choice["size"])
        last, ratio = axes[2][column], tokens / seconds
        last.plot(counts[best], ratio[best], "D", color=ACCEPTED, markersize=7, label="best ratio", clip_on=False)
        style = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": INK, "linestyle": "none"}
        last.plot(counts[taken], ratio[taken], "o", label="taken (price)", clip_on=False, zorder=5, **style)
        axes[0][column].set_title(f"{name}: best {counts[best]}, taken {counts[taken]}")
    for row, label in enumerate(("expected tokens", "ms of a round", "tokens per second")):
        axes[row][0].set_ylabel(label)
    axes[2][2].legend(fontsize=8, loc="lower left")
    return figure


def draw_sizes(data: dict[str, Any]) -> Any:
    """Chosen and accepted nodes over the rounds of two texts."""
    from caddtree.reports.figures.style import SHADING

    figure = new_figure(3.6)
    panels = figure.subplots(2, 1, sharey=True)
    for axes, text in zip(panels, data["sizes"], strict=True):
        places_ = np.arange(1, len(text["rounds"]) + 1)
        axes.bar(places_, [round_["size"] for round_ in text["rounds"]], color=SHADING[0], label="chosen")
        axes.bar(
            places_, [round_["accepted"] for round_ in text["rounds"]], width=0.45, color=ACCEPTED, label="accepted"
        )
        tokens = statistics.fmean(round_["accepted"] + 1 for round_ in text["rounds"])
        axes.set_title(f"{text['domain']}: tau {tokens:.2f}")
        axes.set_ylabel("draft nodes")
        axes.set_xlim(0.3, max(len(other["rounds"]) for other in data["sizes"]) + 0.7)
        axes.grid(axis="y")
    panels[0].legend(fontsize=8, loc="upper right", ncols=2)
    panels[1].set_xlabel("round")
    return figure
