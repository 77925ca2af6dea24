"""A run whose names mean something to HTML, LaTeX, Markdown and matplotlib, and in which everything went wrong."""

from __future__ import annotations

import attrs

from caddtree.experiments.records import Failed
from tests.reports.synthetic_run import Planted, synthetic_run

HOSTILE = '<script>alert("1")</script> & 100% of $x_1$ \\[a](b)|`c`* ~^{}#'
"""A name that every format has to escape."""


def hostile_run():
    """Return a run of two variants on one data set with a hostile name, reason, prompt, description and setting."""
    planted = {"plain": Planted(None), HOSTILE: Planted("caddtree", speedup=1.5)}
    data = synthetic_run(planted, baseline="plain", datasets=("code",), settings={HOSTILE: {"stop": [HOSTILE]}})
    plan = attrs.evolve(data.plan, label=HOSTILE, description=HOSTILE, text=f"```\n{HOSTILE}\n```")
    cell = next(cell for cell in plan.cells if cell.variant == HOSTILE)
    results = {name: result for name, result in data.results.items() if name != cell.id}
    return attrs.evolve(data, plan=plan, results=results, failed={cell.id: Failed(cell, "now", HOSTILE)})
