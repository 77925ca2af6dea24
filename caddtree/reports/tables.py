"""The tables of a report as plain text: terminal, Markdown, LaTeX and the page show the same entries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from caddtree.experiments.summary import WORKER_FACTS, Outcome, Summary, VariantSummary
from caddtree.reports import formats

_TONES = {"faster": "good", "slower": "bad"}
_STAGE_NOTE = (
    "Means over all rounds; prefill is the median of a text. Prediction error: predicted over measured seconds of a "
    "round minus 1, its median and the median of its size. MB: weights and cache that are read, computed from shapes, "
    "not measured. Overhead: time outside of prefill and rounds over the time inside."
)
_MOST_PROBLEMS = 30
"""Lines of the table of failures and differences; ``results.csv`` has them all."""


@attrs.frozen
class Entry:
    """One entry of a table: a figure, and what belongs beneath or behind it."""

    text: str
    detail: str = ""
    tone: str = ""
    """``good``, ``bad`` or ``unsure``; for readers, who see the word, too."""

    def __str__(self) -> str:
        return f"{self.text} {self.detail}".rstrip()


@attrs.frozen
class Table:
    """Rows of entries under one header."""

    title: str
    columns: tuple[Entry, ...]
    entries: tuple[tuple[Entry, ...], ...]
    num_text_columns: int = 1
    """Columns from the left that hold words; the others hold figures and are set flush right."""
    note: str = ""
    """What its columns mean, where their names do not say it."""

    @classmethod
    def of(cls, title: str, header: Sequence[object], rows: Iterable[Sequence[object]], **options: Any) -> Table:
        """Return a table of plain values; ``options`` are its other fields."""
        entries = tuple(tuple(Entry(str(value)) for value in row) for row in rows)
        return cls(title, tuple(Entry(str(value)) for value in header), entries, **options)

    @property
    def header(self) -> list[str]:
        """The header as plain text."""
        return [str(column) for column in self.columns]

    @property
    def rows(self) -> list[list[str]]:
        """The entries as plain text."""
        return [[str(entry) for entry in row] for row in self.entries]


def summary_tables(summary: Summary) -> tuple[Table, ...]:
    """Return the tables for a terminal: of every setting the speeds, what was run, and where the time went."""
    return tuple(table for setting in summary.settings for table in setting_tables(summary, setting))


def setting_tables(summary: Summary, setting: str) -> tuple[Table, ...]:
    """Return the tables of one setting."""
    return speed_table(summary, setting), running_table(summary, setting), stage_table(summary, setting)


def speed_table(summary: Summary, setting: str) -> Table:
    """Return speed-up with interval and tau per data set, the geometric mean, and the ratio to the baseline."""
    datasets = list(summary.num_prompts)
    columns = [Entry("variant"), *(Entry(name) for name in datasets)]
    if len(datasets) > 1:
        columns.append(Entry("geometric mean"))
    columns.append(Entry("verdict" if summary.baseline == summary.plain else f"ratio to {summary.baseline}"))
    rows = []
    for row in summary.rows_of(setting):
        is_plain = row.variant == summary.plain
        entries = [_variant(row, summary), *(_speedup(row.datasets[name], is_plain) for name in datasets)]
        if len(datasets) > 1:
            entries.append(_overall(row.overall, is_plain, len(datasets)))
        rows.append((*entries, _verdict(row.overall, summary.baseline == summary.plain)))
    return Table(_title("Speed-up over plain decoding [95 % interval], tau", setting), tuple(columns), tuple(rows))


def running_table(summary: Summary, setting: str) -> Table:
    """Return speed, tau, node budget and identity over all data sets."""
    columns = ("variant", "tokens/s", "ms/token", "tau", "draft nodes", "identical output", "cells")
    rows = []
    for row in summary.rows_of(setting):
        found = row.overall
        rows.append(
            (
                _variant(row, summary),
                Entry(formats.speed(found.tokens_per_second)),
                Entry(formats.milliseconds(found.seconds_per_token)),
                Entry(formats.tau(found.tau)),
                Entry(formats.budget(found.budget)),
                _identical(found, row.variant == summary.plain),
                Entry(formats.of(found.num_results, found.num_cells)),
            )
        )
    return Table(_title("Speed, draft nodes per round, identity", setting), _entries(columns), tuple(rows))


def stage_table(summary: Summary, setting: str) -> Table:
    """Return milliseconds per stage of a round, prefill, how well rounds were predicted, bytes read, and overhead."""
    columns = (
        "variant", "draft", "build", "verify", "commit", "whole round", "prefill", "prediction error", "MB/round",
        "MB/token", "overhead",
    )  # fmt: skip
    rows = []
    for row in summary.rows_of(setting):
        found, stages, moved = row.overall, row.overall.stages, row.overall.bytes_moved
        seconds = (*attrs.astuple(stages), stages.total) if stages else (None,) * 5
        per_round, per_token = attrs.astuple(moved) if moved else (None, None)
        rows.append(
            (
                _variant(row, summary),
                *(Entry(formats.milliseconds(value)) for value in seconds),
                Entry(formats.milliseconds(found.prefill_seconds)),
                Entry(formats.prediction(found.prediction)),
                Entry(formats.megabytes(per_round)),
                Entry(formats.megabytes(per_token)),
                Entry(formats.percent(found.harness_share)),
            )
        )
    title = _title("Milliseconds per round, and of prefill", setting)
    return Table(title, _entries(columns), tuple(rows), note=_STAGE_NOTE)


def environment_table(summary: Summary) -> Table:
    """Return the facts of the machines, one column per machine however many workers it had."""
    machines: dict[str, list[Mapping[str, Any]]] = {}
    for facts in summary.environments.values():
        machines.setdefault(json.dumps(_without_worker(facts), sort_keys=True), []).append(facts)
    flat = [_flat(_without_worker(workers[0])) for workers in machines.values()]
    names = list(dict.fromkeys(name for facts in flat for name in facts))
    rows = [(Entry(name), *(Entry(facts.get(name, formats.ABSENT)) for facts in flat)) for name in names]
    rows.append((Entry("workers"), *(Entry(str(len(workers))) for workers in machines.values())))
    columns = [Entry("environment"), *(Entry(str(number)) for number in range(1, len(machines) + 1))]
    return Table("Environment", tuple(columns), tuple(rows), num_text_columns=len(columns))


def problem_table(summary: Summary) -> Table | None:
    """Return cells that failed and outputs that differ, the first of them; None where there are none."""
    rows = []
    for row in summary.rows:
        problems = [(entry.place, entry.reason) for entry in row.overall.failures]
        for entry in row.overall.differences:
            gap = "" if entry.gap is None else f"; the two best logits are {entry.gap:.3g} last places apart"
            problems.append((entry.place, f"differs from plain decoding at token {entry.position}{gap}"))
        for place, what in problems:
            where = (row.variant, row.setting or formats.ABSENT, place.dataset, place.prompt)
            rows.append(_entries((*where, str(place.seed), str(place.repeat), what)))
    if not rows:
        return None
    columns = _entries(("variant", "setting", "data set", "prompt", "seed", "repeat", "what"))
    hidden = len(rows) - _MOST_PROBLEMS
    title = "Failed cells and different outputs" + (f", {hidden} more in results.csv" if hidden > 0 else "")
    return Table(title, columns, tuple(rows[:_MOST_PROBLEMS]), num_text_columns=len(columns))


def _title(text: str, setting: str) -> str:
    return f"{text} ({setting})" if setting else text


def _entries(texts: tuple[str, ...]) -> tuple[Entry, ...]:
    return tuple(Entry(text) for text in texts)


def _variant(row: VariantSummary, summary: Summary) -> Entry:
    return Entry(row.variant, "(baseline)" if row.variant == summary.baseline != summary.plain else "")


def _speedup(found: Outcome, is_plain: bool) -> Entry:
    interval = "" if is_plain else formats.interval(found.speedup)
    tau = "" if found.tau is None or is_plain else f"tau {formats.tau(found.tau)}"
    return Entry(formats.ratio(found.speedup.value), ", ".join(_known(interval, tau)))


def _overall(found: Outcome, is_plain: bool, num_datasets: int) -> Entry:
    parts = ["" if is_plain else formats.interval(found.speedup)]
    if 0 < found.speedup.num_datasets < num_datasets:
        parts.append(f"({formats.of(found.speedup.num_datasets, num_datasets)} data sets)")
    return Entry(formats.ratio(found.speedup.value), " ".join(_known(*parts)))


def _verdict(found: Outcome, is_shown_before: bool) -> Entry:
    """Return the ratio to the baseline and its verdict; the verdict alone where the ratio is the speed-up itself."""
    if found.ratio is None:
        return Entry("1" if not is_shown_before else formats.ABSENT)
    if found.ratio.value is None:
        return Entry(formats.ABSENT)
    verdict = found.ratio.verdict or "too few prompts"
    tone = _TONES.get(verdict, "unsure")
    if is_shown_before:
        return Entry(verdict, tone=tone)
    return Entry(formats.ratio(found.ratio.value), " ".join(_known(formats.interval(found.ratio), verdict)), tone)


def _known(*parts: str) -> list[str]:
    return [part for part in parts if part]


def _identical(found: Outcome, is_plain: bool) -> Entry:
    if is_plain:
        return Entry(formats.ABSENT)
    tone = "bad" if found.differences else ""
    return Entry(formats.of(found.num_identical, found.num_compared), tone=tone)


def _without_worker(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in WORKER_FACTS}


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return facts as text; those of a mapping, such as versions, stand for themselves."""
    found: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found.update(_flat(value))
        elif value is not None:
            found[name] = value if isinstance(value, str) else json.dumps(value)
    return found
