"""Tables as plain text: what stands in which column, and when a dash does."""

from __future__ import annotations

import re

import attrs
import pytest

from caddtree.experiments.records import Difference, Environment
from caddtree.experiments.summary import summarise
from caddtree.reports import formats
from caddtree.reports.tables import (
    environment_table,
    problem_table,
    running_table,
    speed_table,
    stage_table,
    summary_tables,
)
from tests.reports.hostile_run import HOSTILE, hostile_run
from tests.reports.synthetic_run import synthetic_run


def row_of(table, variant):
    return next(row for row in table.rows if row[0].startswith(variant))


def test_the_speed_table_has_every_data_set_the_mean_and_the_verdict(summary):
    """Speed-up, interval and tau; the ratio to the baseline and its verdict."""
    table = speed_table(summary, "temperature=0")

    assert table.title == "Speed-up over plain decoding [95 % interval], tau (temperature=0)"
    assert table.header == ["variant", "reasoning", "instructions", "code", "geometric mean", "ratio to ddtree-16"]
    entry = row_of(table, "caddtree")
    assert all(re.fullmatch(r"2\.\d\d \[2\.\d\d, 2\.\d\d\], tau \d+\.\d\d", text) for text in entry[1:4])
    assert re.fullmatch(r"2\.\d\d \[2\.\d\d, 2\.\d\d\]", entry[4])
    assert re.fullmatch(r"1\.\d\d \[1\.\d\d, 1\.\d\d\] faster", entry[5])
    assert row_of(table, "ddtree-16")[0::5] == ["ddtree-16 (baseline)", "1"]
    assert row_of(table, "plain")[1:5] == ["1.00"] * 4


def test_where_plain_decoding_is_the_baseline_only_the_verdict_is_added():
    """The ratio would be the geometric mean again; one data set has no geometric mean."""
    summary = summarise(synthetic_run(baseline="plain", datasets=("code",), settings={"": {}}))
    table = speed_table(summary, "")

    assert table.header == ["variant", "code", "verdict"]
    assert [row[-1] for row in table.rows] == ["–", "faster", "faster", "faster", "faster"]
    assert table.rows[0][0] == "plain"


def test_too_few_prompts_are_said_in_place_of_a_verdict():
    """Four prompts."""
    table = speed_table(summarise(synthetic_run(num_prompts=4)), "temperature=0")

    assert re.fullmatch(r"1\.\d\d too few prompts", row_of(table, "caddtree")[-1])
    assert "[" not in "".join(row_of(table, "caddtree"))


def test_a_mean_over_a_part_of_the_data_sets_is_marked():
    """One data set is missing of one variant."""
    data = synthetic_run(num_prompts=5)
    for cell in data.plan.cells:
        if cell.variant == "chain" and cell.dataset == "code":
            del data.results[cell.id]
    table = speed_table(summarise(data), "temperature=1")

    assert row_of(table, "chain")[3] == "–"
    assert row_of(table, "chain")[4].endswith("(2 of 3 data sets)")


def test_the_running_table_counts_identical_outputs(data):
    """One of 24 differs: it is shown in the tone of a fault."""
    spoiled = dict(data.results)
    cell = next(cell for cell in data.plan.cells if cell.variant == "chain" and cell.setting == "temperature=0")
    spoiled[cell.id] = attrs.evolve(spoiled[cell.id], token_ids=[0])
    table = running_table(summarise(attrs.evolve(data, results=spoiled)), "temperature=0")
    entries = {row[0].text: row for row in table.entries}

    assert (str(entries["chain"][5]), entries["chain"][5].tone) == ("23 of 24", "bad")
    assert (str(entries["caddtree"][5]), entries["caddtree"][5].tone) == ("24 of 24", "")
    assert str(entries["plain"][5]) == "–"
    assert re.fullmatch(r"\d+\.\d ± \d+\.\d", str(entries["caddtree"][4]))
    assert str(entries["ddtree-64"][4]) == "64.0"


def test_the_stage_table_is_in_milliseconds(summary):
    """The stages add up to the round; a variant that predicts says how well."""
    row = row_of(stage_table(summary, "temperature=0"), "caddtree")

    assert sum(map(float, row[1:5])) == pytest.approx(float(row[5]), abs=0.02)
    assert row[6] == "12.00"
    assert re.fullmatch(r"[+-]\d\.\d %, \d\.\d %", row[7])
    assert row_of(stage_table(summary, "temperature=0"), "chain")[7] == "–"


def test_rows_are_as_long_as_the_header(summary):
    """In every table for the terminal, three per setting."""
    tables = summary_tables(summary)

    assert len(tables) == 3 * 2
    assert all(len(row) == len(table.header) for table in tables for row in table.rows)
    assert all(isinstance(text, str) for table in tables for row in table.rows for text in row)


def test_workers_of_one_machine_are_one_column(data):
    """Another process adds to the count, another host a column; versions stand for themselves."""
    environments = dict(data.environments)
    facts = environments["worker"].facts
    environments["again"] = Environment("again", {**facts, "process": 8})
    environments["away"] = Environment("away", {**facts, "host": "barn"})
    table = environment_table(summarise(attrs.evolve(data, environments=environments)))

    rows = {row[0]: row[1:] for row in table.rows}
    assert table.header == ["environment", "1", "2"]
    assert rows["workers"] == ["2", "1"]
    assert rows["host"] == ["lab", "barn"]
    assert rows["torch"] == ["2.13.0", "2.13.0"]
    assert "process" not in rows


def test_problems_are_listed_with_place_and_reason(data):
    """Failed cells, and outputs that differ with their gap; a run without either has no such table."""
    assert problem_table(summarise(data)) is None
    table = problem_table(summarise(hostile_run()))
    assert table.rows == [[HOSTILE, HOSTILE, "code", "p0", "0", "0", HOSTILE]]

    cell = next(cell for cell in data.plan.cells if cell.variant == "chain")
    results = {**data.results, cell.id: attrs.evolve(data.results[cell.id], token_ids=[0])}
    differs = attrs.evolve(data, results=results, differences={cell.id: Difference(cell, "now", 3, 1.5)})
    (row,) = problem_table(summarise(differs)).rows
    assert row[-1] == "differs from plain decoding at token 3; the two best logits are 1.5 last places apart"


def test_a_long_list_of_problems_is_cut_and_says_so(data):
    """The rest is in the CSV."""
    chains = [cell for cell in data.plan.cells if cell.variant == "chain"]
    results = {**data.results, **{c.id: attrs.evolve(data.results[c.id], token_ids=[0]) for c in chains}}
    table = problem_table(summarise(attrs.evolve(data, results=results)))

    assert len(table.rows) == 30
    assert table.title.endswith("18 more in results.csv")


def test_a_run_that_has_not_begun_is_a_table_of_dashes():
    """No figure, no error."""
    data = attrs.evolve(synthetic_run(num_prompts=5), results={}, environments={}, loaded={})
    for table in summary_tables(summarise(data)):
        for row in table.rows:
            assert set(row[1:]) <= {"–", "1", "0 of 15"}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.speed(999.94), "999.9"),
        (formats.speed(1234.5), "1234"),
        (formats.speed(None), "–"),
        (formats.milliseconds(0.0001234), "0.123"),
        (formats.milliseconds(0.01234), "12.34"),
        (formats.milliseconds(0.1234), "123"),
        (formats.percent(-0.0123, signed=True), "-1.2 %"),
        (formats.percent(0.5), "50.0 %"),
        (formats.megabytes(12_345_678), "12.3"),
        (formats.megabytes(12_345_678_900), "12,346"),
        (formats.of(3, 4), "3 of 4"),
        (formats.of(0, 0), "–"),
    ],
)
def test_figures_are_written_by_one_set_of_rules(shown, expected):
    """As many digits as mean something."""
    assert shown == expected
