"""docs/transformers.md: its examples run, its table is the code's, its figures are those of the recorded run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import caddtree
from caddtree.core.hf_checks import HONOURED, NEUTRAL, REFUSED

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "transformers.md").read_text(encoding="utf-8")
FIXED_COSTS = {
    "name": "analytic",
    "flops_per_second": 1e11,
    "bytes_per_second": 2e10,
    "overhead_seconds": 0.006,
    "draft_seconds": 0.002,
}
VARIANTS = {
    "CaDDTree, all defaults": "caddtree",
    "DFlash chain, our loop": "chain",
    "Transformers' own DFlash chain": "transformers dflash chain",
    "Transformers' `generate`": "transformers generate",
}


def test_the_examples_run_one_after_another(monkeypatch, capsys):
    """Their own assertions hold; costs are given, so that no profile is measured."""
    load = caddtree.load
    monkeypatch.setattr(caddtree, "load", lambda recipe, **held: load(recipe, {"cost_model": FIXED_COSTS}, **held))
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    examples = list(re.finditer(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    names: dict[str, object] = {}
    for example in examples:
        # at the lines where they stand, for whoever reads a traceback
        code = "\n" * PAGE[: example.start(1)].count("\n") + example[1]
        exec(compile(code, "docs/transformers.md", "exec"), names)

    assert len(examples) >= 5
    assert names["text"] in capsys.readouterr().out


def rows(first: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith(f"| {first} |")
    ]


@pytest.mark.parametrize(
    ("word", "fields"), [("honoured", HONOURED), ("no say", NEUTRAL), ("refused", frozenset(REFUSED))]
)
def test_the_table_names_the_fields_that_the_code_names(word, fields):
    """Each once."""
    named = [name for row in rows(word) for name in re.findall(r"`(\w+)`", row[1])]

    assert sorted(named) == sorted(fields)


@pytest.mark.parametrize("label", VARIANTS)
def test_the_figures_are_those_of_the_recorded_run(label):
    """Rounded to two decimals."""
    record = json.loads((ROOT / "benchmarks" / "results" / "demo_pair.json").read_text(encoding="utf-8"))
    domains = record["variants"][VARIANTS[label]]["domains"]

    assert rows(label) == [[label, *(f"{domain['speedup']:.2f}" for domain in domains.values())]]
    assert list(domains) == ["reasoning", "instructions", "code"]
