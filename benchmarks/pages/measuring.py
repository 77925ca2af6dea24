"""Decodes the texts and asks for the prices that the pages show."""

from __future__ import annotations

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

PROMPTS = Path(__file__).resolve().parents[2] / "caddtree" / "models" / "demo" / "prompts"
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
LARGEST_TREE = 24
"""Draft nodes of the tree that is drawn, at most."""


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
