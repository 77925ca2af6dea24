"""The phrases in which the pages quote the kept result."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

README_RESULT = Path(__file__).resolve().parents[1] / "results" / "demo_pair.json"


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
