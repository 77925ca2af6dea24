"""Measures what two pages of the documentation show, and draws their pictures.

python benchmarks/docs_figures.py measure    # the demo pair on this machine -> benchmarks/results/docs_figures.json
python benchmarks/docs_figures.py draw       # that file -> docs/figures/*.svg
python benchmarks/docs_figures.py facts      # the phrases that the pages quote from it
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "docs_figures.json"
FIGURES = ROOT / "docs" / "figures"
PROMPTS = ROOT / "caddtree" / "models" / "demo" / "prompts"
README_RESULT = ROOT / "benchmarks" / "results" / "demo_pair.json"

MAX_NEW_TOKENS = 128
PROFILES = 3
REPEATS = 15
WARM_UPS = 3
PROMPTS_PER_DOMAIN = 12
STAGES = ("draft", "build", "verify", "commit")
METHODS = {"plain": "demo-plain", "chain": "demo-chain", "caddtree": "demo"}
CANDIDATES_SHOWN = 4
LARGEST_SIZE = 127
"""Draft nodes of the pictures at most."""
CLOSE_SIZE = 63
"""Draft nodes up to which three cost models are compared."""
LARGEST_TREE = 24
"""Draft nodes of the tree that is drawn, at most."""


# ---- measure ----


class Recorder:
    """A tree builder that keeps the marginals and the context of the last round, and leaves the choice to another."""

    needs_cost_model = True

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.marginals: Any = None
        self.context: Any = None

    def build(self, marginals: Any, context: Any) -> Any:
        """Return the other builder's tree."""
        self.marginals, self.context = marginals, context
        return self.builder.build(marginals, context)


def measure() -> dict[str, Any]:
    """Return everything the pictures and the pages need."""
    import torch

    from caddtree.core.machine import processor_name
    from caddtree.experiments.prompts import read_prompts
    from caddtree.loading import load, load_model
    from caddtree.plugins.recipe import load_recipe

    model, tokenizer = load_model(load_recipe("demo").target)
    decoders = {name: load(recipe, model=model, tokenizer=tokenizer) for name, recipe in METHODS.items()}
    prompt = read_prompts(PROMPTS / "demo.jsonl", limit=1)[0]
    costs = measure_costs(decoders["caddtree"])
    decoders["caddtree"].tree_builder = Recorder(decoders["caddtree"].tree_builder)
    text, featured = measure_text(decoders, prompt.prompt)
    return {
        "machine": {
            "processor": processor_name(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "transformers", "caddtree")},
        },
        "settings": {
            "prompt": prompt.prompt[0]["content"],
            "max_new_tokens": MAX_NEW_TOKENS,
            "repeats": REPEATS,
            "profiles": PROFILES,
        },
        "costs": costs,
        "text": text,
        "round": featured,
        **measure_choices(decoders["caddtree"]),
    }


def measure_costs(decoder: Any) -> dict[str, Any]:
    """Return what three cost models say of a round, and give the decoder the table."""
    from caddtree.cost_models.analytic import AnalyticCostModel
    from caddtree.cost_models.convex import ConvexCostModel
    from caddtree.cost_models.table import TableCostModel
    from caddtree.profiling import measure_profile, profile_key

    profiles = [measure_profile(decoder, profile_key(decoder), seed=seed) for seed in range(PROFILES)]
    every = np.stack([profile.after_seconds for profile in profiles])
    levels = np.median(every, axis=2, keepdims=True)
    merged = attrs.evolve(
        profiles[0],
        draft_seconds=np.median([profile.draft_seconds for profile in profiles], axis=0),
        after_seconds=np.median(every, axis=0),
        spread_seconds=np.median([profile.spread_seconds for profile in profiles], axis=0),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.json"
        merged.write(path)
        models: dict[str, Any] = {
            "table": TableCostModel(path=str(path)),
            "convex": ConvexCostModel(path=str(path)),
            "analytic": AnalyticCostModel(),
        }
        for model in models.values():
            model.prepare(decoder)
        decoder.cost_model = models["table"]
        decoder.prepare()
    counts = np.array(merged.counts)
    curves = {
        name: [
            (model.before_choice_seconds(context) + model.after_choice_seconds(counts, context)).tolist()
            for context in merged.contexts
        ]
        for name, model in models.items()
    }
    off = np.abs(np.array(curves["analytic"]) / np.array(curves["table"]) - 1)
    return {
        "contexts": list(merged.contexts),
        "counts": counts.tolist(),
        "draft_seconds": merged.draft_seconds.tolist(),
        "measured": (merged.draft_seconds[:, None] + merged.after_seconds).tolist(),
        "levels": (levels[:, :, 0] / levels[0, :, 0]).tolist(),
        "shape_error": float(np.median(np.abs(every / levels / np.median(every / levels, axis=0) - 1))),
        "convex_misfit": models["convex"].misfit,
        "analytic_error": {"median": float(np.median(off)), "largest": float(off.max())},
        "repeats_per_size": merged.repeats,
        **curves,
    }


def measure_text(decoders: dict[str, Any], prompt: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rounds of one text by three methods, medians over repeats, and one round in full.

    The sizes that CaDDTree chooses are taken from one pass and then replayed: every repeat runs the same rounds.
    """
    for _ in range(WARM_UPS):
        for decoder in decoders.values():
            decoder.generate(prompt, max_new_tokens=MAX_NEW_TOKENS)
    featured, sizes = watch(decoders["caddtree"], prompt)
    found: dict[str, list[Any]] = {name: [] for name in decoders}
    scales, rng = [], random.Random(0)
    for _ in range(REPEATS):
        for name in rng.sample(sorted(decoders), len(decoders)):
            found[name].append(replay(decoders[name], prompt, sizes if name == "caddtree" else None))
        scales.append(decoders["caddtree"].cost_scale.scale)
    texts = {generation.text for generations in found.values() for generation in generations}
    if len(texts) != 1:
        raise SystemExit(f"the methods do not agree: {texts}")
    tokenizer = decoders["plain"].tokenizer
    ratios = [
        round_.predicted_seconds / round_.seconds.total
        for generation in found["caddtree"]
        for round_ in generation.rounds
    ]
    for stage in STAGES:
        featured["seconds"][stage] = statistics.median(
            getattr(generation.rounds[featured["index"]].seconds, stage) for generation in found["caddtree"]
        )
    return {
        "answer": texts.pop(),
        "methods": {name: summary(generations, tokenizer) for name, generations in found.items()},
        "cost_scale": {"low": min(scales), "high": max(scales)},
        "prediction": {
            "median": statistics.median(ratios) - 1,
            "median_absolute": statistics.median(abs(ratio - 1) for ratio in ratios),
        },
    }, featured


def replay(decoder: Any, prompt: Any, sizes: Sequence[int] | None) -> Any:
    """Return a generation whose rounds have these sizes, or those that the builder likes."""
    session = decoder.open(prompt, max_new_tokens=MAX_NEW_TOKENS)
    while session.finish_reason is None:
        counts = None if sizes is None else (sizes[len(session.rounds)],)
        session.step(candidate_counts=counts)
    return session.generation()


def summary(generations: Sequence[Any], tokenizer: Any) -> dict[str, Any]:
    """Return the rounds of one method with the medians of their stages, and their totals."""
    rounds = []
    for same in zip(*(generation.rounds for generation in generations), strict=True):
        stages = {stage: statistics.median(getattr(round_.seconds, stage) for round_ in same) for stage in STAGES}
        rounds.append(
            {
                "size": same[0].num_draft_nodes,
                "accepted": same[0].num_accepted,
                "expected": same[0].expected_acceptance,
                "tokens": [tokenizer.decode([token]) for token in same[0].tokens],
                "seconds": stages,
            }
        )
    seconds = sum(sum(round_["seconds"].values()) for round_ in rounds)
    num_tokens = sum(len(round_["tokens"]) for round_ in rounds)
    return {
        "rounds": rounds,
        "seconds": seconds,
        "tokens": num_tokens,
        "tau": num_tokens / len(rounds),
        "tokens_per_second": num_tokens / seconds,
    }


def watch(decoder: Any, prompt: Any) -> tuple[dict[str, Any], list[int]]:
    """Return the round to draw, the one that gained most off the arg-max chain, and the sizes of all rounds."""
    session = decoder.open(prompt, max_new_tokens=MAX_NEW_TOKENS)
    best: dict[str, Any] | None = None
    while session.finish_reason is None:
        before = list(session.tokens)
        round_ = session.step().round
        left_chain = round_.path != tuple(range(len(round_.path)))
        if left_chain and round_.num_draft_nodes <= LARGEST_TREE:
            found = picture_of(decoder, session.last_tree, round_, before, session.num_prompt_tokens)
            if best is None or interest(found["path"]) > interest(best["path"]):
                best = found
    if best is None:
        raise SystemExit("no round left the arg-max chain: choose another prompt")
    return best, [round_.num_draft_nodes for round_ in session.rounds]


def interest(path: Sequence[int]) -> tuple[int, int]:
    """Return how many accepted nodes lie off the arg-max chain, which is numbered first, and how many there are."""
    return sum(node != depth for depth, node in enumerate(path)), len(path)


def picture_of(decoder: Any, tree: Any, round_: Any, before: list[int], num_prompt: int) -> dict[str, Any]:
    """Return one round in full: the marginals, the tree, the walk."""
    recorder, decode = decoder.tree_builder, decoder.tokenizer.decode
    marginals = recorder.marginals
    weights = tree.log_weights.double().exp().tolist()
    return {
        "index": round_.index,
        "context_length": round_.context_length,
        "text_before": decode(before[num_prompt:]),
        "depth": marginals.depth,
        "vocabulary": decoder.target.vocabulary_size,
        "marginals": [
            [[decode([token]), math.exp(log_prob)] for token, log_prob in zip(tokens, log_probs, strict=True)]
            for tokens, log_probs in zip(
                marginals.tokens[:, :CANDIDATES_SHOWN].tolist(),
                marginals.log_probs[:, :CANDIDATES_SHOWN].tolist(),
                strict=True,
            )
        ],
        "nodes": [
            {"token": decode([token]), "parent": parent, "weight": weight}
            for token, parent, weight in zip(tree.tokens.tolist(), tree.parents.tolist(), weights, strict=True)
        ],
        "path": list(round_.path),
        "bonus": decode([round_.tokens[-1]]),
        "tokens": [decode([token]) for token in round_.tokens],
        "expected": round_.expected_acceptance,
        "predicted_seconds": round_.predicted_seconds,
        "seconds": {stage: getattr(round_.seconds, stage) for stage in STAGES},
    }


def measure_choices(decoder: Any) -> dict[str, Any]:
    """Return contrasting rounds with tokens and seconds by size, and the sizes chosen over two texts."""
    from caddtree.experiments.prompts import read_prompts

    rounds: dict[str, list[dict[str, Any]]] = {}
    texts: dict[str, list[dict[str, Any]]] = {}
    for domain in ("reasoning", "code"):
        rounds[domain], texts[domain] = [], []
        for record in read_prompts(PROMPTS / f"{domain}.jsonl", limit=PROMPTS_PER_DOMAIN):
            curves, generation = curves_of(decoder, record.prompt)
            rounds[domain] += [{"prompt": record.id, **curve} for curve in curves]
            texts[domain].append(
                {
                    "prompt": record.id,
                    "domain": domain,
                    "is_looping": is_looping(generation.token_ids),
                    "rounds": [
                        {"size": round_.num_draft_nodes, "accepted": round_.num_accepted}
                        for round_ in generation.rounds
                    ],
                }
            )
    every = [curve for curves in rounds.values() for curve in curves]
    kinds: dict[str, tuple[list[dict[str, Any]], Callable[[dict[str, Any]], float]]] = {
        "sure": (rounds["reasoning"], lambda curve: -curve["tokens"][curve["counts"].index(15)]),
        "torn": (rounds["reasoning"], lambda curve: -curve["ratio_size"]),
        "lost": (rounds["code"], lambda curve: curve["tokens"][curve["counts"].index(15)]),
    }
    # the longest answer that does not repeat itself shows most rounds
    shown = [
        max((text for text in texts[domain] if not text["is_looping"]), key=lambda text: len(text["rounds"]))
        for domain in texts
    ]
    return {
        "choices": {name: min(curves, key=order) for name, (curves, order) in kinds.items()},
        "price": {
            "rounds": len(every),
            "smaller": sum(curve["size"] < curve["ratio_size"] for curve in every),
            "equal": sum(curve["size"] == curve["ratio_size"] for curve in every),
            "larger": sum(curve["size"] > curve["ratio_size"] for curve in every),
        },
        "sizes": shown,
    }


def is_looping(tokens: Sequence[int]) -> bool:
    """Tell whether fewer than half of the 4-grams are distinct."""
    grams = list(zip(*(tokens[start:] for start in range(4)), strict=False))
    return len(set(grams)) < len(grams) / 2


def curves_of(decoder: Any, prompt: Any) -> tuple[list[dict[str, Any]], Any]:
    """Return tokens and seconds by size for every round with a whole block before it, and the generation."""
    from caddtree.core.frontier import heaviest_prefixes
    from caddtree.tree_builders.caddtree import round_seconds

    recorder = decoder.tree_builder
    counts = np.array([count for count in decoder.candidate_counts if count <= LARGEST_SIZE])
    session = decoder.open(prompt, max_new_tokens=MAX_NEW_TOKENS)
    curves = []
    while session.finish_reason is None:
        recorder.marginals = None
        round_ = session.step().round
        context, marginals = recorder.context, recorder.marginals
        if marginals is None or marginals.depth < decoder.drafter.block_size - 1:
            continue
        frontier = heaviest_prefixes(marginals, LARGEST_SIZE, context.stop_tokens)
        if len(frontier) < LARGEST_SIZE:
            continue
        tokens = 1 + frontier.expected_acceptance()[counts]
        seconds = round_seconds(decoder.cost_model, counts, attrs.evolve(context, cost_scale=1.0))
        curves.append(
            {
                "index": round_.index,
                "root": decoder.tokenizer.decode([context.root_token]),
                "counts": counts.tolist(),
                "tokens": tokens.tolist(),
                "seconds": seconds.tolist(),
                "ratio_size": int(counts[(tokens / seconds).argmax()]),
                "size": round_.num_draft_nodes,
                "accepted": round_.num_accepted,
            }
        )
    return curves, session.generation()


# ---- draw ----

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


# ---- facts ----


def facts(data: dict[str, Any]) -> dict[str, list[str]]:
    """Return, by page, the phrases in which its measured numbers stand; the test looks for every one of them."""
    readme = json.loads(README_RESULT.read_text(encoding="utf-8"))
    return {"how-a-round-works.md": round_facts(data), "cost-models.md": cost_facts(data, readme)}


def round_facts(data: dict[str, Any]) -> list[str]:
    round_, machine, methods = data["round"], data["machine"], data["text"]["methods"]
    marginals, nodes, seconds = round_["marginals"], round_["nodes"], round_["seconds"]
    accepted, off_chain = round_["path"][1:], round_["path"][3]
    first = [f"`{token}` {probability:.2f}" for token, probability in marginals[2]]
    plain, chain, tree = (methods[name] for name in ("plain", "chain", "caddtree"))
    return [
        f"one thread of an {machine['processor']}",
        f"torch {machine['torch'].partition('+')[0]}",
        f"{data['settings']['repeats']} times",
        f"round {round_['index'] + 1} of the answer, with {round_['context_length']} rows in the cache",
        f"{round_['depth']} positions, {round_['vocabulary']:,} tokens each",
        ", ".join(first),
        f"{len(nodes) - 1} draft nodes",
        f"Phi is {round_['expected']:.2f}",
        f"weighs only {nodes[off_chain]['weight']:.2f}",
        f"{len(accepted)} draft nodes are accepted and {len(round_['tokens'])} tokens gained",
        f"{1e3 * seconds['draft']:.1f} ms to draft, {1e3 * seconds['build']:.1f} to build, "
        f"{1e3 * seconds['verify']:.1f} to verify, {1e3 * seconds['commit']:.1f} to commit",
        f"{plain['tokens']} tokens",
        f"{1e3 * plain['seconds']:.0f} ms in {len(plain['rounds'])} rounds",
        f"{1e3 * chain['seconds']:.0f} ms in {len(chain['rounds'])}",
        f"{1e3 * tree['seconds']:.0f} ms in {len(tree['rounds'])}",
        f"tau {chain['tau']:.2f} for the chain and {tree['tau']:.2f} for CaDDTree",
        f"{chain['tokens_per_second'] / plain['tokens_per_second']:.2f} and "
        f"{tree['tokens_per_second'] / plain['tokens_per_second']:.2f} times as fast as plain decoding",
        f"{1e3 * plain['seconds'] / len(plain['rounds']):.1f} ms a plain round, "
        f"{1e3 * tree['seconds'] / len(tree['rounds']):.1f} ms one of CaDDTree",
        *[
            f"tau {statistics.fmean(entry['accepted'] + 1 for entry in text['rounds']):.2f} "
            f"over {len(text['rounds'])} rounds"
            for text in data["sizes"]
        ],
    ]


def cost_facts(data: dict[str, Any], readme: dict[str, Any]) -> list[str]:
    costs, machine, text = data["costs"], data["machine"], data["text"]
    table, convex = np.array(costs["table"]), np.array(costs["convex"])
    after = table - np.array(costs["draft_seconds"])[:, None]
    misfits = (np.abs(convex - table) / after).max(axis=1)
    levels = np.array(costs["levels"])
    prediction, price = readme["prediction"], data["price"]
    place = costs["counts"].index
    found = [
        f"one thread of an {machine['processor']}",
        f"{1e3 * table[0, 0]:.1f} ms without draft nodes, {1e3 * table[0, place(15)]:.1f} with 15, "
        f"{1e3 * table[0, place(63)]:.1f} with 63 and {1e3 * table[0, place(255)]:.1f} with 255",
        f"{costs['contexts'][2]} rows: {1e3 * table[2, 0]:.1f}, {1e3 * table[2, place(15)]:.1f}, "
        f"{1e3 * table[2, place(63)]:.1f} and {1e3 * table[2, place(255)]:.1f} ms",
        f"{data['settings']['profiles']} profiles",
        f"levels between {levels.min():.2f} and {levels.max():.2f} of the first one's",
        f"shape agrees within {100 * costs['shape_error']:.1f} % in the median",
        f"off by {100 * misfits[0]:.0f}, {100 * misfits[1]:.0f} and {100 * misfits[2]:.0f} % at most",
        f"{100 * costs['analytic_error']['median']:.0f} % in the median and "
        f"{100 * costs['analytic_error']['largest']:.0f} % at most",
        f"median error {100 * prediction['median_signed']:+.1f} %, "
        f"absolute {100 * prediction['median_absolute']:.1f} %, where repeats of one size differ by "
        f"{100 * prediction['median_absolute_of_repeats']:.1f} %",
        f"convex fit is off by {100 * readme['convex_misfit']:.1f} % at most",
        f"roofline by {100 * readme['analytic_error']['median']:.0f} % in the median and "
        f"{100 * readme['analytic_error']['largest']:.0f} % at most",
        f"median error {100 * text['prediction']['median']:+.1f} %, "
        f"absolute {100 * text['prediction']['median_absolute']:.0f} %",
        f"moved between {text['cost_scale']['low']:.2f} and {text['cost_scale']['high']:.2f}",
        f"Of {price['rounds']} rounds, `price` took a smaller tree than `ratio` would in {price['smaller']}, "
        f"the same in {price['equal']} and a larger one in {price['larger']}",
    ]
    for name, choice in data["choices"].items():
        best, taken = choice["counts"].index(choice["ratio_size"]), choice["counts"].index(choice["size"])
        found.append(
            f"**{name.capitalize()}**: {choice['ratio_size']} nodes promise {choice['tokens'][best]:.2f} tokens in "
            f"{1e3 * choice['seconds'][best]:.1f} ms, {choice['tokens'][best] / choice['seconds'][best]:.0f} tokens/s"
        )
        if taken != best:
            found.append(f"`price` took {choice['size']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("measure", "draw", "facts"))
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    options = parser.parse_args()
    if options.action == "measure":
        options.result.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
        return
    data = json.loads(options.result.read_text(encoding="utf-8"))
    if options.action == "facts":
        for page, phrases in facts(data).items():
            print(page, *phrases, sep="\n    ")
        return
    for name, svg in draw(data).items():
        (options.figures / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
