"""Tables and the picture of a draft tree, for the terminal."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from caddtree.core.draft_tree import DraftTree
from caddtree.experiments.statistics import MIN_PROMPTS


def print_table(table: Table) -> None:
    """Print a table as wide as it needs; terminals wrap, files keep every column."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    console.print(table)


def plain_table(table: Any) -> Table:
    """Return a table of a report (``title``, ``header``, ``rows`` of texts) for the terminal."""
    shown = Table(title=table.title)
    for index, name in enumerate(table.header):
        shown.add_column(name, justify="left" if index == 0 else "right")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def comparison_table(comparison: Any) -> Table:
    """Return one row per recipe: speed, speed-up with its interval, tau, budget, identity."""
    table = Table(title=f"{comparison.num_prompts} prompts")
    table.add_column("recipe")
    for name in ("tokens/s", "speed-up", "95 % interval", "tau", "mean node budget"):
        table.add_column(name, justify="right")
    table.add_column("identical output")
    is_enough = comparison.num_prompts >= MIN_PROMPTS
    for variant in comparison.variants:
        speedup = variant.speedup
        table.add_row(
            variant.recipe,
            f"{variant.tokens_per_second:.1f}",
            f"{speedup.value:.2f}x",
            f"{speedup.low:.2f} .. {speedup.high:.2f}" if is_enough else "too few prompts",
            f"{variant.mean_acceptance_length:.2f}",
            f"{variant.mean_node_budget:.1f}",
            "yes" if variant.identical else "no",
        )
    return table


def tree_picture(tree: DraftTree, path: tuple[int, ...], tokenizer: Any, *, max_nodes: int = 40) -> str:
    """Return a draft tree as indented text; nodes of the accepted path are marked with a star.

    Args:
        tree: The tree.
        path: Accepted node indices, root first.
        tokenizer: Turns token ids into text.
        max_nodes: Heaviest nodes to show; the accepted path is always shown.
    """
    weights = tree.log_weights.double().exp().tolist()
    shown = set(sorted(range(tree.num_nodes), key=lambda node: -weights[node])[:max_nodes]) | set(path)
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(tree.parents.tolist()):
        if node in shown:
            children.setdefault(parent, []).append(node)
    tokens = tree.tokens.tolist()
    accepted = set(path)
    lines: list[str] = []

    def draw(node: int, indent: str, last: bool) -> None:
        mark = "*" if node in accepted else " "
        branch = "" if node == 0 else ("└─" if last else "├─")
        weight = "" if node == 0 else f"  {weights[node]:.2f}"
        lines.append(f"{mark} {indent}{branch}{tokenizer.decode([tokens[node]])!r}{weight}")
        below = indent if node == 0 else indent + ("  " if last else "│ ")
        # one child continues its parent's line of text: no deeper indent is needed to see it
        for child in children.get(node, []):
            draw(child, below, child == children[node][-1])

    draw(0, "", True)
    hidden = tree.num_nodes - len(shown)
    if hidden:
        lines.append(f"  ({hidden} lighter nodes not shown)")
    return "\n".join(lines)
