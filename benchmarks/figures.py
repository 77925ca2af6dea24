"""Draws the README's picture from a result of ``demo_pair.py``: fixed budgets against the adaptive one, per domain.

python benchmarks/figures.py benchmarks/results/demo_pair.json docs/figures/budgets.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIXED, ADAPTIVE = "#4c72b0", "#c44e52"


def panel(axes: Any, domain: str, variants: dict[str, Any]) -> None:
    """Draw one domain: the speed-up of every fixed budget with its interval, and the adaptive one as a band."""
    fixed = {
        int(name.split("-")[1]): entry["domains"][domain]
        for name, entry in variants.items()
        if name.startswith("ddtree-")
    }
    budgets = sorted(fixed)
    values = [fixed[budget]["speedup"] for budget in budgets]
    errors = [
        [value - fixed[budget]["interval"][0] for budget, value in zip(budgets, values, strict=True)],
        [fixed[budget]["interval"][1] - value for budget, value in zip(budgets, values, strict=True)],
    ]
    axes.errorbar(budgets, values, yerr=errors, color=FIXED, marker="o", capsize=3, label="DDTree, fixed budget")
    chain, adaptive = (variants[name]["domains"][domain] for name in ("chain", "caddtree"))
    axes.axhline(chain["speedup"], color="#777777", linestyle=":", label="DFlash chain")
    axes.axhline(adaptive["speedup"], color=ADAPTIVE, label="CaDDTree, chosen every round")
    axes.axhspan(*adaptive["interval"], color=ADAPTIVE, alpha=0.12)
    axes.axhline(1.0, color="#bbbbbb", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.set_title(f"{domain} (tau {adaptive['tau']:.1f})")
    axes.set_xlabel("draft nodes per round")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    variants = json.loads(options.result.read_text(encoding="utf-8"))["variants"]
    domains = list(variants["caddtree"]["domains"])
    figure, every = plt.subplots(1, len(domains), figsize=(11, 3.6), sharey=True, layout="constrained")
    for axes, domain in zip(every, domains, strict=True):
        panel(axes, domain, variants)
    # all panels share the axis: the highest interval of any domain fits
    ends = [entry["interval"][1] for v in variants.values() for entry in v["domains"].values()]
    every[0].set_ylim(0, 1.05 * max(ends))
    every[0].set_ylabel("speed-up over plain decoding")
    every[-1].legend(fontsize=8, loc="upper right")
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    # no date and fixed ids: the same result gives the same file
    matplotlib.rcParams["svg.hashsalt"] = "caddtree"
    figure.savefig(options.picture, metadata={"Date": None} if options.picture.suffix == ".svg" else None, dpi=110)


if __name__ == "__main__":
    main()
