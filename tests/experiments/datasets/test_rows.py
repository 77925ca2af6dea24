"""Rows of files: formats, places, damaged files, a library that is missing."""

from __future__ import annotations

import sys

import pytest

from caddtree.core.errors import InputError
from caddtree.experiments.datasets.rows import read_rows
from tests.experiments.datasets.layouts import write_rows

ROWS = [{"a": "x", "b": ["y", "z"]}, {"a": "é\u2028", "b": ["1"]}]


@pytest.mark.parametrize(
    ("file", "places"),
    [
        ("f.parquet", (", row 1", ", row 2")),
        ("f.jsonl", (":1", ":2")),
        ("f.jsonl.gz", (":1", ":2")),
        ("F.JSON", (", entry 1", ", entry 2")),
        ("f.json.gz", (", entry 1", ", entry 2")),
    ],
)
def test_every_format_yields_the_same_rows(tmp_path, file, places):
    """With the place of each."""
    path = tmp_path / file
    write_rows(path, ROWS)

    assert list(read_rows(path)) == [(f"{path}{place}", row) for place, row in zip(places, ROWS, strict=True)]


def test_a_json_file_of_lines_is_read_as_lines(tmp_path):
    """Many tools export lines under this name."""
    path = tmp_path / "f.json"
    path.write_text('{"a": 1}\n{"a": 2}\n')

    assert list(read_rows(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:2", {"a": 2})]


def test_a_file_of_another_kind_is_refused(tmp_path):
    """By its name, with the names that are read."""
    with pytest.raises(InputError, match=r"f.csv: not a file of a data set; read are .parquet, .jsonl"):
        read_rows(tmp_path / "f.csv")


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" + b"\0" * 64 + b"PAR1", b'{"a": 1}\n'], ids=["empty", "cut", "zeros", "json"]
)
def test_a_damaged_parquet_file_is_one_error(tmp_path, content):
    """It names the file."""
    path = tmp_path / "f.parquet"
    path.write_bytes(content)

    with pytest.raises(InputError, match=rf"^{path}: cannot read the Parquet file: [^\n]+$"):
        list(read_rows(path))


def test_damage_in_the_middle_of_a_parquet_file_is_one_error(tmp_path):
    """Met when its rows are read, not before."""
    path = tmp_path / "f.parquet"
    write_rows(path, [{"a": f"text {index}" * 9} for index in range(999)])
    content = bytearray(path.read_bytes())
    content[8:2000] = b"\xff" * 1992
    path.write_bytes(content)

    with pytest.raises(InputError, match=r"f.parquet: cannot read the Parquet file"):
        list(read_rows(path))


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    """JSON needs none."""
    write_rows(tmp_path / "f.parquet", ROWS)
    write_rows(tmp_path / "f.jsonl", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(InputError, match=r"f.parquet: Parquet needs pyarrow, .*pip install 'caddtree\[datasets\]'"):
        list(read_rows(tmp_path / "f.parquet"))
    assert len(list(read_rows(tmp_path / "f.jsonl"))) == 2
