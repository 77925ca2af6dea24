"""Sections that plugins add to a report: text and tables of their own, made from the records of a run.

An experiment names them (``report: [rejected, {name: rejected, worst: 5}]``), or whoever writes the report does
(``caddtree report RUN --section rejected``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import attrs

from caddtree.core.errors import CaddtreeError, one_line
from caddtree.plugins.registry import Registry, default_registry
from caddtree.reports.tables import Entry, Table

if TYPE_CHECKING:
    from caddtree.experiments.store import RunData
    from caddtree.experiments.summary import Summary


@attrs.frozen
class ReportPart:
    """What a section puts into a report."""

    title: str
    text: str = ""
    """Plain text; empty lines part paragraphs."""
    tables: tuple[Table, ...] = attrs.field(default=(), converter=tuple)

    @property
    def paragraphs(self) -> list[str]:
        """The text, paragraph by paragraph."""
        return [" ".join(block.split()) for block in self.text.split("\n\n") if block.strip()]


@runtime_checkable
class ReportSection(Protocol):
    """The records of a run -> title, text and tables."""

    def render(self, run: RunData, summary: Summary) -> ReportPart | None:
        """Return what the report shows, or None where there is nothing to show.

        Args:
            run: The plan, and every record that counts: cells with their rounds.
            summary: The same run in figures.
        """


def render_sections(
    chosen: Sequence[Mapping[str, Any]], run: RunData, summary: Summary, registry: Registry | None = None
) -> tuple[tuple[ReportPart, ...], list[str]]:
    """Return what sections make of a run, and what went wrong: one that fails costs the others nothing.

    Args:
        chosen: Each section as ``{"name": ..., option: value}``.
        run: The run.
        summary: Its figures.
        registry: Where sections are looked up; that of everything installed when None.
    """
    known = default_registry() if registry is None else registry
    parts, problems = [], []
    for choice in chosen:
        options = dict(choice)
        name = options.pop("name")
        who = f"report_section {name}"
        try:
            section = known.create("report_section", name, options)
            who += f" of {known.info('report_section', name).provider}"
            # a section may sort or drop what it is given
            part = section.render(copy.deepcopy(run), copy.deepcopy(summary))
            _check(part)
        except Exception as error:
            raised = "" if isinstance(error, CaddtreeError) else f"{type(error).__name__}: "
            problems.append(f"{who}: {raised}{one_line(error)}")
            continue
        if part is not None:
            parts.append(part)
    return tuple(parts), problems


def _check(part: object) -> None:
    """Refuse what no report can show.

    Raises:
        TypeError: Names what was found.
    """
    if part is None:
        return
    if not isinstance(part, ReportPart):
        raise TypeError(f"render must return a ReportPart or None, found {type(part).__name__}")
    for name, value in (("title", part.title), ("text", part.text)):
        if not isinstance(value, str):
            raise TypeError(f"the {name} of a ReportPart must be a string, found {type(value).__name__}")
        _check_text(value)
    for table in part.tables:
        if not isinstance(table, Table):
            raise TypeError(f"the tables of a ReportPart must be Tables, found {type(table).__name__}")
        _check_entries(table)
        widths = {len(table.columns), *(len(row) for row in table.entries)}
        if len(widths) > 1:
            raise TypeError(f"the rows of table {table.title!r} must be as long as its header, found {sorted(widths)}")


def _check_entries(table: Table) -> None:
    """Refuse a table that was made of something else than entries."""
    rows = (table.columns, *table.entries)
    if not all(isinstance(row, tuple) and all(isinstance(entry, Entry) for entry in row) for row in rows):
        raise TypeError("the rows of a Table must be tuples of Entry; Table.of makes them of plain values")
    if type(table.num_text_columns) is not int:
        raise TypeError(f"num_text_columns of a Table must be an integer, found {table.num_text_columns!r}")
    texts = [table.title, table.note]
    texts += [text for row in rows for entry in row for text in (entry.text, entry.detail, entry.tone)]
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"titles, notes and entries of a Table must be strings, found {type(text).__name__}")
        _check_text(text)


def _check_text(text: str) -> None:
    """Refuse half of a surrogate pair, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a text holds {text[error.start]!r}, which is no character") from error
