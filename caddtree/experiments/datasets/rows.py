"""Rows of a data set's files, whatever their format, each with its place for error messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from caddtree.core.errors import InputError
from caddtree.experiments.json_files import holds_a_list, json_lines, json_list

Row = Mapping[str, Any]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Return the place and the columns of every row of a Parquet, JSONL or JSON file, read as they are asked for.

    Raises:
        InputError: If the file is of another kind, damaged or unreadable; names the file and, in JSON, the line.
    """
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind == ".parquet":
        return _parquet_rows(path)
    if kind == ".jsonl" or (kind == ".json" and not holds_a_list(path)):
        return ((f"{path}:{number}", row) for number, row in json_lines(path))
    if kind == ".json":
        return ((f"{path}, entry {number}", row) for number, row in json_list(path))
    raise InputError(f"{path}: not a file of a data set; read are .parquet, .jsonl, .jsonl.gz, .json and .json.gz")


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        hint = "Install it with pip install 'caddtree[datasets]', or give a JSON file"
        raise InputError(f"{path}: Parquet needs pyarrow, which is not installed. {hint}") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: cannot read the Parquet file: {str(error).splitlines()[0]}") from error
