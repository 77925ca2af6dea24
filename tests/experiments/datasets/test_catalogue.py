"""The data sets that have a name."""

from __future__ import annotations

from caddtree.experiments.datasets import DatasetChoice, known_datasets, load_prompts
from caddtree.experiments.datasets.catalogue import HUB, SHIPPED
from tests.experiments.datasets.layouts import COPIES


def test_the_table_lists_the_shipped_sets_and_the_papers_eight():
    """Names, sizes, sources and a line each, for the documentation."""
    table = {info.name: info for info in known_datasets()}

    assert list(table) == [
        "reasoning", "instructions", "code",
        "math500", "gsm8k", "aime25", "humaneval", "mbpp", "livecodebench", "mt-bench", "alpaca",
    ]  # fmt: skip
    assert all(info.source == "shipped" for name, info in table.items() if name in SHIPPED)
    assert all(info.source.count("/") == 1 for name, info in table.items() if name in HUB)
    assert all(info.summary and "\n" not in info.summary for info in table.values())


def test_the_shipped_sets_hold_as_many_prompts_as_the_table_says():
    """Each under its own name as domain."""
    for name, (info, _) in SHIPPED.items():
        records = load_prompts(DatasetChoice(name))

        assert len(records) == info.num_prompts
        assert {record.domain for record in records} == {name}


def test_every_data_set_of_the_hub_has_a_tested_local_copy():
    """So that a new one cannot come without."""
    assert {copy.name for copy in COPIES} == set(HUB)
