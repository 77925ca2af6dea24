"""From the choice of a data set to its prompts: found, read, brought into order, cut."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from caddtree.core.errors import InputError
from caddtree.experiments.datasets.catalogue import HUB, SHIPPED, NamedDataset
from caddtree.experiments.datasets.choice import DatasetChoice
from caddtree.experiments.datasets.hub import hub_rows
from caddtree.experiments.datasets.local_files import copy_from_environment, local_rows
from caddtree.experiments.datasets.rows import Row
from caddtree.experiments.prompts import PromptRecord, iter_prompts, refuse_repeated_ids


def load_prompts(choice: DatasetChoice) -> list[PromptRecord]:
    """Return the prompts of a choice; their ``domain`` is its name.

    Without ``shuffle_seed`` nothing behind the last prompt that is wanted is read.

    Raises:
        InputError: If the data set cannot be had, a row is wrong, or no prompt is left.
    """
    records = _sampled(_records(choice), choice)
    if not records:
        rest = f"no prompt behind offset {choice.offset}" if choice.offset else "no prompts"
        raise InputError(f"{choice.name}{f' ({choice.path})' if choice.path else ''}: {rest}")
    kept = None if choice.turns is None else choice.turns - 1
    return [attrs.evolve(record, domain=choice.name, later_turns=record.later_turns[:kept]) for record in records]


def _records(choice: DatasetChoice) -> Iterator[PromptRecord]:
    """Return every prompt in the order of the files."""
    path = None if choice.path is None else Path(choice.path).expanduser()
    if choice.name in HUB:
        dataset = HUB[choice.name]
        return refuse_repeated_ids(_placed_records(dataset, _rows(dataset, path)))
    return iter_prompts(SHIPPED[choice.name][1] if path is None else path)


def _rows(dataset: NamedDataset, path: Path | None) -> Iterator[tuple[str, Row]]:
    copy = path or copy_from_environment(dataset.info.name)
    return hub_rows(dataset) if copy is None else local_rows(dataset, copy)


def _placed_records(dataset: NamedDataset, rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, PromptRecord]]:
    for position, (where, row) in enumerate(rows, 1):
        row_id = row.get(dataset.id_column) if dataset.id_column else None
        if dataset.id_range is not None and isinstance(row_id, int) and row_id not in dataset.id_range:
            continue
        first, *later = _turns(dataset, row, where)
        prompt = [{"role": "user", "content": first}]
        name = str(position if row_id is None else row_id)
        yield where, PromptRecord(name, dataset.info.name, prompt, tuple(later))


def _turns(dataset: NamedDataset, row: Row, where: str) -> list[str]:
    """Return what the user says in turn."""
    first, *others = (_column(names, dataset, row, where) for names in dataset.columns)
    value = row[first]
    if dataset.has_turns:
        if not isinstance(value, list) or not value or not all(isinstance(turn, str) and turn for turn in value):
            raise InputError(f"{where}: {first} must be a list of texts, none of them empty, found {value!r:.80}")
        return value
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {first} must be a text that is not empty, found {value!r:.80}")
    for name in others:
        if not isinstance(row[name], str | None):
            raise InputError(f"{where}: {name} must be a text, found {row[name]!r:.80}")
    return [dataset.template(value, *(row[name] or "" for name in others))]


def _column(names: tuple[str, ...], dataset: NamedDataset, row: Row, where: str) -> str:
    """Return the name that a column goes by in this row."""
    for name in names:
        if name in row:
            return name
    raise InputError(
        f"{where}: {dataset.info.name} needs a column {' or '.join(names)}, found {', '.join(sorted(row)) or 'none'}. "
        "Give the original layout, or another name to a prompt file of your own"
    )


def _sampled(records: Iterator[PromptRecord], choice: DatasetChoice) -> list[PromptRecord]:
    if choice.shuffle_seed is not None:
        records = iter(_shuffled(list(records), choice.shuffle_seed))
    stop = None if choice.limit is None else choice.offset + choice.limit
    return list(itertools.islice(records, choice.offset, stop))


def _shuffled(records: list[PromptRecord], seed: int) -> list[PromptRecord]:
    """Return a permutation that depends on the seed and the number of records alone."""
    source = random.Random(seed)
    # sorted by random keys: Python promises the same numbers for a seed in every version, but not the same shuffle
    keys = [source.random() for _ in records]
    return [records[index] for index in sorted(range(len(records)), key=keys.__getitem__)]
