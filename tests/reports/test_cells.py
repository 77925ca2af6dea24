"""The table of cells: a line each, with what a reader needs to compute the figures again."""

from __future__ import annotations

import csv
import math
import statistics

import attrs
import pytest

from caddtree.experiments.records import Difference, Failed
from caddtree.reports.cells import COLUMNS, cells_csv
from tests.reports.hostile_run import HOSTILE, hostile_run
from tests.reports.synthetic_run import synthetic_run


def lines(data):
    return list(csv.DictReader(cells_csv(data).splitlines()))


def test_every_planned_cell_is_a_line(data):
    """In the order of the plan, with all columns."""
    found = lines(data)

    assert [line["cell"] for line in found] == [cell.id for cell in data.plan.cells]
    assert list(found[0]) == list(COLUMNS)
    assert {line["status"] for line in found} == {"ok"}


def test_the_speed_up_can_be_computed_again(data, summary):
    """From the lines alone, as pandas or R would."""
    mine = [line for line in lines(data) if (line["variant"], line["setting"]) == ("caddtree", "temperature=1")]
    by_dataset = {}
    for line in mine:
        by_dataset.setdefault(line["dataset"], []).append(math.log(float(line["speedup"])))
    value = math.exp(statistics.fmean(map(statistics.fmean, by_dataset.values())))

    row = next(r for r in summary.rows if (r.variant, r.setting) == ("caddtree", "temperature=1"))
    assert row.overall.speedup.value == pytest.approx(value)
    assert float(mine[0]["tokens_per_second"]) == pytest.approx(
        int(mine[0]["num_gained"]) / float(mine[0]["decode_seconds"])
    )


def test_failed_missing_and_different_cells_say_so():
    """With reason, place and gap."""
    data = synthetic_run(num_prompts=5, datasets=("code",), settings={"": {}})
    plain, chain, tree, *_ = data.plan.cells
    del data.results[plain.id], data.results[tree.id]
    data.failed[plain.id] = Failed(plain, "now", "out of\nmemory")
    other = data.plan.cells[6]
    data.results[other.id] = attrs.evolve(data.results[other.id], token_ids=[0])
    data.differences[other.id] = Difference(other, "now", 0, 2.5)
    found = {line["cell"]: line for line in csv.DictReader(cells_csv(data).splitlines(keepends=True))}

    assert (found[plain.id]["status"], found[plain.id]["reason"]) == ("failed", "out of\nmemory")
    assert found[tree.id]["status"] == "missing"
    assert (found[chain.id]["speedup"], found[chain.id]["identical"]) == ("", "")
    assert (found[other.id]["identical"], found[other.id]["difference_gap"]) == ("false", "2.5")
    assert found[data.plan.cells[7].id]["identical"] == "true"


def test_any_name_survives_the_way():
    """Quotes, commas and line breaks."""
    assert HOSTILE in {line["variant"] for line in lines(hostile_run())}
