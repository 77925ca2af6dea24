"""Data sets from the Hugging Face hub, or one clear error soon when it cannot be reached.

No code of a data set is ever run. The hub's client tries again for half a minute where there is no network, so that
one short request of our own comes first.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from caddtree.core.errors import InputError
from caddtree.experiments.datasets.catalogue import NamedDataset
from caddtree.experiments.datasets.local_files import FOLDER_VARIABLE
from caddtree.experiments.datasets.rows import Row, read_rows

REACH_SECONDS = 3.0
"""Time that the hub is given to answer at all."""


def hub_rows(dataset: NamedDataset) -> Iterator[tuple[str, Row]]:
    """Return place and columns of the rows of a data set, downloaded where the hub client's cache has no copy.

    Raises:
        InputError: If that fails; says how to point to a local copy.
    """
    return _rows_of_files(dataset) if dataset.hub_files else _rows_of_library(dataset)


def _rows_of_library(dataset: NamedDataset) -> Iterator[tuple[str, Row]]:
    try:
        import datasets
    except ImportError as error:
        raise _failure(dataset, "the library 'datasets' is missing (pip install 'caddtree[datasets]')") from error
    _check_reach(dataset)
    source = dataset.info.source
    try:
        table = datasets.load_dataset(source, dataset.config, split=dataset.split)
    except Exception as error:
        raise _failure(dataset, _first_line(error)) from error
    for number, row in enumerate(table, 1):
        yield f"{source} {dataset.split}, row {number}", row


def _rows_of_files(dataset: NamedDataset) -> Iterator[tuple[str, Row]]:
    """Download a file only once its rows are asked for: those of LiveCodeBench take gigabytes."""
    from huggingface_hub import hf_hub_download

    _check_reach(dataset)
    for name in dataset.hub_files:
        try:
            path = hf_hub_download(dataset.info.source, name, repo_type="dataset")
        except Exception as error:
            raise _failure(dataset, f"{name}: {_first_line(error)}") from error
        yield from read_rows(Path(path))


def _check_reach(dataset: NamedDataset) -> None:
    """Refuse to go on where the hub does not answer; offline its client looks into the cache alone, at once."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    answer = _status(f"{constants.ENDPOINT}/api/datasets/{dataset.info.source}")
    if isinstance(answer, int) and answer < 500 and answer != 407:  # a proxy's refusal is no answer of the hub
        return
    reason = f"status {answer}" if isinstance(answer, int) else answer
    raise _failure(
        dataset,
        f"{constants.ENDPOINT} cannot be reached: {reason} (HF_HUB_OFFLINE=1 uses the cache of the hub's client)",
    )


def _status(url: str) -> int | str:
    """Return the status of one request, or what went wrong."""
    from huggingface_hub import get_session

    found: list[int | str] = []

    def ask() -> None:
        try:
            found.append(get_session().head(url, timeout=REACH_SECONDS).status_code)
        except Exception as error:
            found.append(_first_line(error))

    # a thread, because looking up a name heeds no timeout
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return found[0] if found else f"no answer within {REACH_SECONDS:g} seconds"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _failure(dataset: NamedDataset, reason: str) -> InputError:
    name = dataset.info.name
    root = os.environ.get(FOLDER_VARIABLE)
    now = f"now {root}, which has none" if root else "now not set"
    return InputError(
        f"{name}: cannot be loaded from the hub ({dataset.info.source}): {reason}. Point to a local copy in the "
        f"experiment, {{name: {name}, path: FOLDER_OR_FILE}}, or put a folder {name} into the folder that "
        f"{FOLDER_VARIABLE} names ({now})"
    )
