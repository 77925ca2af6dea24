"""Local copies of data sets: which files of a folder count, in the layouts that data sets are handed out in."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from caddtree.core.errors import InputError
from caddtree.experiments.datasets.catalogue import NamedDataset
from caddtree.experiments.datasets.rows import Row, read_rows

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "CADDTREE_DATASETS"
"""Environment variable: a folder that holds a folder per data set, called by its name."""

_PART = re.compile(r"-(\d{5})-of-(\d{5})")


def copy_from_environment(name: str) -> Path | None:
    """Return the folder of a data set below ``CADDTREE_DATASETS``, or None.

    Raises:
        InputError: If the variable names no folder.
    """
    root = os.environ.get(FOLDER_VARIABLE)
    if not root:
        return None
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise InputError(f"{FOLDER_VARIABLE} must be a folder that holds a folder per data set, found {root!r}")
    if not (folder / name).is_dir():
        logger.info("%s has no folder %s; the hub is asked", folder, name)
        return None
    return folder / name


def local_rows(dataset: NamedDataset, path: Path) -> Iterator[tuple[str, Row]]:
    """Return place and columns of the rows of a local copy, a file or a folder.

    Raises:
        InputError: If there is none, or a part of it is missing.
    """
    if path.is_file():
        return read_rows(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; it should hold {dataset.info.name} in its original layout")
    return itertools.chain.from_iterable(read_rows(file) for file in _files(dataset, path))


def _files(dataset: NamedDataset, folder: Path) -> list[Path]:
    """Return the files of the first layout that is there, in the order of the data set."""
    for layout in dataset.layouts:
        for suffix in ("", ".gz"):
            files = [file for pattern in layout for file in sorted(folder.glob(pattern + suffix)) if file.is_file()]
            if files:
                _check_parts(files)
                return files
    wanted = ", ".join(pattern for layout in dataset.layouts for pattern in layout)
    raise InputError(f"{folder}: holds no file of {dataset.info.name}; looked for {wanted}")


def _check_parts(files: Sequence[Path]) -> None:
    """Refuse numbered parts of which one is missing or there twice: the data set would quietly be another."""
    parts = [match.groups() for file in files if (match := _PART.search(file.name))]
    if not parts:
        return
    total = int(parts[0][1])
    if [(int(index), int(count)) for index, count in parts] != [(index, total) for index in range(total)]:
        found = ", ".join(file.name for file in files)
        raise InputError(f"{files[0].parent}: needs {total} parts, each once, found {found}")
