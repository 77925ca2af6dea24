"""Local copies of data sets: which files count, and what is wrong with a copy."""

from __future__ import annotations

import logging

import pytest

from caddtree.core.errors import InputError
from caddtree.experiments.datasets.catalogue import HUB
from caddtree.experiments.datasets.local_files import copy_from_environment, local_rows
from tests.experiments.datasets.layouts import GRADE_SCHOOL, TASKS, write_rows


def questions(folder, name="gsm8k"):
    return [row["question"] for _, row in local_rows(HUB[name], folder)]


def test_nothing_at_a_path_is_an_error(tmp_path):
    """It names what should be there."""
    with pytest.raises(
        InputError, match=r"nowhere: no such file or folder; it should hold gsm8k in its original layout"
    ):
        questions(tmp_path / "nowhere")


def test_a_folder_without_a_file_of_the_data_set_lists_what_was_looked_for(tmp_path):
    """Files of other splits and configurations are none of it, nor is a folder that is called like a file."""
    write_rows(tmp_path / "train.jsonl", GRADE_SCHOOL)
    write_rows(tmp_path / "socratic" / "test-00000-of-00001.parquet", GRADE_SCHOOL)
    (tmp_path / "test.jsonl").mkdir()

    with pytest.raises(InputError, match=r"holds no file of gsm8k; looked for main/test-\*\.parquet, .*test\.jsonl"):
        questions(tmp_path)


def test_a_missing_part_is_an_error(tmp_path):
    """Fewer prompts than the data set has would go unnoticed."""
    write_rows(tmp_path / "main" / "test-00001-of-00002.parquet", GRADE_SCHOOL)

    with pytest.raises(InputError, match=r"main: needs 2 parts, each once, found test-00001-of-00002.parquet"):
        questions(tmp_path)


def test_the_same_part_of_two_downloads_is_an_error(tmp_path):
    """Every prompt would be asked twice."""
    for revision in ("a09b74b3", "b7c01d22"):
        write_rows(tmp_path / "data" / f"train-00000-of-00001-{revision}.parquet", [{"instruction": "a", "input": ""}])

    with pytest.raises(InputError, match=r"data: needs 1 parts, each once, found train-00000-of-00001-a09b74b3"):
        list(local_rows(HUB["alpaca"], tmp_path))


def test_one_layout_is_read_where_there_are_several(tmp_path):
    """The first of the list, whole; the others are copies of it."""
    write_rows(tmp_path / "main" / "test-00000-of-00001.parquet", GRADE_SCHOOL[:1])
    write_rows(tmp_path / "test.jsonl", GRADE_SCHOOL)

    assert questions(tmp_path) == [GRADE_SCHOOL[0]["question"]]


def test_a_compressed_layout_is_read_where_there_is_no_plain_one(tmp_path):
    """Every JSON file may be packed."""
    write_rows(tmp_path / "sanitized-mbpp.json.gz", TASKS)

    assert [row for _, row in local_rows(HUB["mbpp"], tmp_path)] == TASKS


def test_the_environment_variable_must_name_a_folder(tmp_path, monkeypatch):
    """An empty one counts as none."""
    monkeypatch.setenv("CADDTREE_DATASETS", "")
    assert copy_from_environment("gsm8k") is None

    monkeypatch.setenv("CADDTREE_DATASETS", str(tmp_path / "missing"))
    with pytest.raises(InputError, match=r"^CADDTREE_DATASETS must be a folder .* found '.*missing'"):
        copy_from_environment("gsm8k")


def test_a_data_set_that_the_variable_lacks_is_looked_for_elsewhere_with_a_word(tmp_path, monkeypatch, caplog):
    """The log says that the hub is asked."""
    monkeypatch.setenv("CADDTREE_DATASETS", str(tmp_path))
    with caplog.at_level(logging.INFO):
        assert copy_from_environment("gsm8k") is None

    assert "has no folder gsm8k; the hub is asked" in caplog.text
