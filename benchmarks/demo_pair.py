"""The figures of the README: every variant on held-out prompts of the demo pair, interleaved in one run.

    python benchmarks/demo_pair.py [--prompts 8] [--max-new-tokens 128] [--json FILE]

Prints speed-ups with intervals per domain, the best fixed budget picked on other prompts than those scored, the bound
that measured costs allow, the share of a round outside the models, predicted against measured seconds, and the
histogram of chosen budgets. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from tqdm import tqdm
from transformers_peers import TransformersDFlash, TransformersGenerate

import caddtree
from caddtree.cost_models.analytic import AnalyticCostModel
from caddtree.experiments.fingerprint import machine_facts
from caddtree.experiments.prompts import PromptRecord, read_prompts
from caddtree.experiments.statistics import geometric_mean
from caddtree.loading import load_model
from caddtree.profiling import load_or_measure

DOMAINS = ("reasoning", "instructions", "code")
BUDGETS = (4, 8, 16, 32, 64, 128)
PROMPTS = Path(caddtree.__file__).parent / "models" / "demo" / "prompts"


def decoders(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Return every variant around one copy of the target's weights."""

    def load(recipe: str, **sections: Any) -> Any:
        return caddtree.load(recipe, sections, model=model, tokenizer=tokenizer)

    made = {"plain": load("demo-plain"), "chain": load("demo-chain")}
    for budget in BUDGETS:
        made[f"ddtree-{budget}"] = load("demo-ddtree", tree_builder={"node_budget": budget})
    made["caddtree"] = load("demo")
    made["caddtree first_stop convex"] = load(
        "demo", tree_builder={"search": "first_stop", "objective": "ratio"}, cost_model={"name": "convex"}
    )
    made["caddtree ratio"] = load("demo", tree_builder={"objective": "ratio"})
    return made


def run(variants: dict[str, Any], prompts: list[PromptRecord], max_new_tokens: int, what: str) -> dict[str, list[Any]]:
    """Decode every prompt with every variant, the order rotating, and return the generations."""
    names = list(variants)
    results: dict[str, list[Any]] = {name: [] for name in names}
    for index, record in enumerate(tqdm(prompts, desc=what, disable=None)):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            results[name].append(variants[name].generate(record.prompt, max_new_tokens=max_new_tokens))
    return results


def ratios(
    results: dict[str, list[Any]], name: str, base: str, prompts: list[PromptRecord], domain: str
) -> list[float]:
    """Return log speed ratios over the prompts of a domain."""
    found = []
    for record, mine, other in zip(prompts, results[name], results[base], strict=True):
        if record.domain == domain and mine.tokens_per_second > 0 and other.tokens_per_second > 0:
            found.append(math.log(mine.tokens_per_second / other.tokens_per_second))
    return found


def shown(interval: Any) -> str:
    """Return a figure with its 95 % interval."""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def speed_table(results: dict[str, list[Any]], prompts: list[PromptRecord]) -> dict[str, Any]:
    """Print and return speed-ups over plain decoding and tau, per domain."""
    report: dict[str, Any] = {}
    print(
        f"\n{'variant':28s}" + "".join(f"{domain:>34s}" for domain in DOMAINS) + f"{'geo. mean':>11s}{'identical':>11s}"
    )
    for name, mine in results.items():
        entry: dict[str, Any] = {"domains": {}}
        cells = []
        for domain in DOMAINS:
            speed = geometric_mean(ratios(results, name, "plain", prompts, domain))
            own = [g for record, g in zip(prompts, mine, strict=True) if record.domain == domain]
            tau = statistics.fmean(g.mean_acceptance_length for g in own if g.rounds)
            tokens = statistics.median(g.tokens_per_second for g in own if g.rounds)
            entry["domains"][domain] = {
                "speedup": speed.value, "interval": [speed.low, speed.high], "tau": tau, "tokens_per_second": tokens,
            }  # fmt: skip
            cells.append(f"{shown(speed)} tau {tau:.2f}")
        mean = math.exp(statistics.fmean(math.log(entry["domains"][domain]["speedup"]) for domain in DOMAINS))
        same = all(a.token_ids == b.token_ids for a, b in zip(mine, results["plain"], strict=True))
        entry.update(geometric_mean=mean, identical=same)
        report[name] = entry
        print(
            f"{name:28s}" + "".join(f"{cell:>34s}" for cell in cells) + f"{mean:10.2f}x{'yes' if same else 'no':>11s}"
        )
    return report


def best_fixed(picking: dict[str, list[Any]], picks: list[PromptRecord], results: Any, prompts: Any) -> dict[str, Any]:
    """Print and return CaDDTree against the best fixed budget, picked on other prompts, and against the chain."""
    report = {}
    for domain in DOMAINS:
        fixed = [f"ddtree-{budget}" for budget in BUDGETS]
        best = max(fixed, key=lambda name: statistics.fmean(ratios(picking, name, "plain", picks, domain)))
        entry = {"best_fixed": best}
        for name in [name for name in results if name.startswith("caddtree")]:
            against_fixed = geometric_mean(ratios(results, name, best, prompts, domain))
            against_chain = geometric_mean(ratios(results, name, "chain", prompts, domain))
            entry[name] = {
                "against_best_fixed": attrs.asdict(against_fixed),
                "against_chain": attrs.asdict(against_chain),
            }
            print(f"{domain:13s} {name:28s} / {best}: {shown(against_fixed)}   / chain: {shown(against_chain)}")
        report[domain] = entry
    return report


def bound(decoder: Any, results: dict[str, list[Any]], prompts: list[PromptRecord]) -> dict[str, Any]:
    """Print and return what measured costs allow per domain: tau times the plain round over the speculative round.

    Beside it the bound of a tree that costs nothing: the same tau in rounds without draft nodes.
    """
    report = {}
    model = decoder.cost_model
    for domain in DOMAINS:
        plain, rounds = (
            [r for record, g in zip(prompts, results[name], strict=True) if record.domain == domain for r in g.rounds]
            for name in ("plain", "caddtree")
        )
        plain_seconds = statistics.fmean(r.seconds.total for r in plain)
        tau = statistics.fmean(len(r.tokens) for r in rounds)
        factor = plain_seconds / statistics.fmean(r.seconds.total for r in rounds)
        free = statistics.fmean(
            model.before_choice_seconds(r.context_length)
            + float(model.after_choice_seconds(np.array([0]), r.context_length)[0])
            for r in rounds
        )
        report[domain] = {
            "tau": tau, "plain_over_round": factor, "bound": tau * factor, "free_tree": tau * plain_seconds / free,
        }  # fmt: skip
        print(
            f"{domain:13s} tau {tau:.2f} x C_plain / C_round {factor:.3f} = bound {tau * factor:.2f}x; "
            f"with free draft nodes {tau * plain_seconds / free:.2f}x"
        )
    return report


def analytic_error(decoder: Any) -> dict[str, float]:
    """Print and return how far the roofline is off the measured table, at every point that was measured."""
    model = AnalyticCostModel()
    model.prepare(decoder)
    profile = load_or_measure(decoder)
    counts = np.array(profile.counts)
    errors = []
    for row, context in enumerate(profile.contexts):
        predicted = model.before_choice_seconds(context) + model.after_choice_seconds(counts, context)
        errors.append(np.abs(predicted / (profile.draft_seconds[row] + profile.after_seconds[row]) - 1))
    report = {"median": float(np.median(errors)), "largest": float(np.max(errors))}
    print(
        f"analytic cost model against the table: median error {report['median']:.1%}, largest {report['largest']:.1%}"
    )
    return report


def outside_models(decoder: Any, prompts: list[PromptRecord], max_new_tokens: int) -> float:
    """Print and return the share of a round that is neither the target's nor the drafter's forward."""
    spent = [0.0]

    def timed(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - started

        return call

    network, target = decoder.drafter._network, decoder.target
    patched = [(target._decoder, "forward"), (target, "head_logits")]
    patched += [(network, name) for name in ("forward", "context_features", "context_keys_values")]
    for owner, name in patched:
        setattr(owner, name, timed(getattr(owner, name)))
    total = inside = 0.0
    try:
        for record in prompts:
            session = decoder.open(record.prompt, max_new_tokens=max_new_tokens)
            spent[0] = 0.0  # prefill ran inside open
            while session.finish_reason is None:
                session.step()
            inside += spent[0]
            total += session.generation().decode_seconds
    finally:
        for owner, name in patched:
            delattr(owner, name)
    share = 1.0 - inside / total
    print(f"outside the models' forwards: {100 * share:.1f} % of a round")
    return share


def prediction(results: dict[str, list[Any]]) -> dict[str, float]:
    """Print and return predicted against measured round seconds of the default variant."""
    rounds = [r for g in results["caddtree"] for r in g.rounds if r.predicted_seconds and r.tree_depth]
    errors = [r.predicted_seconds / r.seconds.total - 1 for r in rounds]
    by_shape: dict[int, list[float]] = {}
    for r in rounds:
        by_shape.setdefault(r.num_draft_nodes, []).append(r.seconds.total)
    repeats = [abs(s / statistics.median(group) - 1) for group in by_shape.values() if len(group) > 4 for s in group]
    report = {
        "median_signed": statistics.median(errors),
        "median_absolute": statistics.median(map(abs, errors)),
        "median_absolute_of_repeats": statistics.median(repeats) if repeats else math.nan,
    }
    signed, absolute, noise = (100 * value for value in report.values())
    print(f"predicted / measured - 1: median {signed:+.1f} %, absolute {absolute:.1f} %; repeats {noise:.1f} %")
    return report


def budgets(results: dict[str, list[Any]]) -> dict[str, Any]:
    """Print and return the histogram of chosen budgets and the share of rounds without draft nodes."""
    counts = Counter(r.num_draft_nodes for g in results["caddtree"] for r in g.rounds)
    total = sum(counts.values())
    common = counts.most_common(8)
    listed = ", ".join(f"{n}: {100 * c / total:.0f} %" for n, c in common)
    print(f"chosen budgets: {listed}; without draft nodes {100 * counts[0] / total:.1f} %")
    if common[0][1] >= 0.9 * total:
        print(f"note: {100 * common[0][1] / total:.0f} % of the rounds choose {common[0][0]} nodes")
    return {"histogram": {str(n): c for n, c in sorted(counts.items())}, "share_without": counts[0] / total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--prompts", type=int, default=8, help="scored prompts per domain; half as many pick the budget"
    )
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    scored, picks = [], []
    for domain in DOMAINS:
        records = read_prompts(PROMPTS / f"{domain}.jsonl")
        scored += records[: options.prompts]
        picks += records[options.prompts : options.prompts + max(2, options.prompts // 2)]
    model, tokenizer = load_model(caddtree.load_recipe("demo").target)
    variants = decoders(model, tokenizer)
    for decoder in variants.values():
        decoder.prepare()
        decoder.generate(scored[0].prompt, max_new_tokens=16)
    fixed = {name: variants[name] for name in variants if name in ("plain", "chain") or name.startswith("ddtree")}
    picking = run(fixed, picks, options.max_new_tokens, "picking the fixed budget")
    peers = {"transformers generate": TransformersGenerate(model, tokenizer)}
    chain = TransformersDFlash(variants["chain"], tokenizer)
    try:
        chain.generate(scored[0].prompt, max_new_tokens=4)
        peers["transformers dflash chain"] = chain
    except Exception as error:  # another version of Transformers: the others are still measured
        print(f"transformers dflash chain does not run here: {type(error).__name__}: {error}")
    results = run({**variants, **peers}, scored, options.max_new_tokens, "scoring")
    report: dict[str, Any] = {"machine": machine_facts(), "variants": speed_table(results, scored)}
    print()
    report["against_fixed"] = best_fixed(picking, picks, results, scored)
    print()
    report["bound"] = bound(variants["caddtree"], results, scored)
    print()
    report["outside_models"] = outside_models(
        variants["caddtree"], scored[:: max(1, options.prompts // 2)], options.max_new_tokens
    )
    report["prediction"] = prediction(results)
    report["budgets"] = budgets(results)
    report["analytic_error"] = analytic_error(variants["caddtree"])
    report["convex_misfit"] = variants["caddtree first_stop convex"].cost_model.misfit
    print(f"convex cost model: largest misfit at a measured point {report['convex_misfit']:.1%}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if not all(entry["identical"] for name, entry in report["variants"].items() if not name.startswith("transformers")):
        sys.exit("an output differs from plain decoding")


if __name__ == "__main__":
    main()
