"""What every section of a report promises."""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import pytest

from caddtree.plugins.hooks import Kind
from caddtree.testing.claims import must_work, require
from caddtree.testing.runs import RUNS, made_up_run, with_records_reversed
from caddtree.testing.speed import check_speed
from caddtree.testing.strategy_contract import Contract

if TYPE_CHECKING:
    from caddtree.experiments.store import RunData
    from caddtree.experiments.summary import Summary
    from caddtree.reports.section import ReportPart

Make = Callable[[], Any]
"""A new strategy of the options under test."""

_HINT = (
    "A run may be incomplete: cells may be missing or failed, results may have no round and no speed, and figures of "
    "the summary may be None. Return None where there is nothing to show."
)
_REPEATS_OF_A_LARGE_RUN = 4


class ReportSectionContract(Contract):
    """The contract of a section of a report: the records of a run to title, text and tables.

    A class is ``strategy = YourSection`` and, where it has options, ``options``; see :class:`Contract` for the rest. A
    section that shows something of certain runs only adds one to ``runs``::

        def runs(self):
            return {**super().runs(), "mine": lambda: made_up_run(datasets=("gsm8k",))}
    """

    kind: ClassVar[Kind] = "report_section"
    slowest_allowed: ClassVar[float] = 5.0
    """It may take so many times what writing the run's results as CSV takes, and a millisecond."""

    def runs(self) -> dict[str, Callable[[], RunData]]:
        """Return functions that make a run each; at least of one of them something is shown."""
        return dict(RUNS)

    @pytest.fixture
    def target_model(self) -> Any:
        """Return nothing: reports are written without models."""
        return None

    def observe(self, strategy: Any, target_model: Any) -> object:
        """Return what is shown of every run."""
        return [rendered(strategy, make_run, case) for case, make_run in self.runs().items()]

    def test_it_is_a_report_section(self, make: Make) -> None:
        """It has the method."""
        from caddtree.reports.section import ReportSection

        made = make()
        require(
            isinstance(made, ReportSection) and callable(made.render),
            f"{self.strategy.__name__} needs a method render(run, summary)",
        )

    def test_every_run_can_be_shown(self, make: Make) -> None:
        """Also one that was killed before its first cell, one with failed cells, one without any round."""
        for case, make_run in self.runs().items():
            rendered(make(), make_run, case)

    def test_it_shows_something(self, make: Make) -> None:
        """Or nothing would be known about it."""
        require(
            any(rendered(make(), make_run, case) is not None for case, make_run in self.runs().items()),
            f"{self.strategy.__name__} returns None for every run of the kit, so nothing can be said about it. "
            f"Override `runs` with one that it shows something of, or give `options` by which it does.",
        )

    def test_it_returns_a_part_or_nothing(self, make: Make) -> None:
        """A ReportPart with a title, or None."""
        from caddtree.reports.section import ReportPart

        for case, make_run in self.runs().items():
            part = rendered(make(), make_run, case)
            require(
                part is None or isinstance(part, ReportPart),
                f"render must return a ReportPart or None, found {type(part).__name__} for {case}. Markdown, LaTeX and "
                f"HTML are made of its title, text and tables.",
            )
            for name in ("title", "text") if isinstance(part, ReportPart) else ():
                value = getattr(part, name)
                require(
                    isinstance(value, str), f"the {name} of a ReportPart must be a string, found {type(value).__name__}"
                )
            require(
                not isinstance(part, ReportPart) or bool(str(part.title).strip()),
                f"a ReportPart needs a title, found {part and part.title!r} for {case}",
            )

    def test_tables_are_rectangular(self, make: Make) -> None:
        """Rows as long as the header, of entries, under a title."""
        from caddtree.reports.tables import Entry, Table

        for case, make_run in self.runs().items():
            for table in _tables(rendered(make(), make_run, case)):
                require(
                    isinstance(table, Table),
                    f"the tables of a ReportPart must be Tables, found {type(table).__name__} for {case}. Make them "
                    f"by Table.of(title, header, rows).",
                )
                cells = [entry for row in (table.columns, *table.entries) for entry in row]
                strange = next((entry for entry in cells if not isinstance(entry, Entry)), None)
                require(
                    strange is None,
                    f"the cells of table {table.title!r} must be Entries, found {strange!r} for {case}. Make them by "
                    f"Table.of(title, header, rows).",
                )
                widths = sorted({len(row) for row in table.entries} - {len(table.columns)})
                require(
                    not widths,
                    f"the rows of table {table.title!r} must be as long as its header of {len(table.columns)}, found "
                    f"{', '.join(map(str, widths))} for {case}",
                )
                require(
                    0 <= table.num_text_columns <= len(table.columns) > 0,
                    f"table {table.title!r} has {len(table.columns)} columns, {table.num_text_columns} of them for "
                    f"words, for {case}",
                )

    @pytest.mark.parametrize("form", ["markdown", "latex", "page"])
    def test_it_stands_in_every_format(self, make: Make, form: str) -> None:
        """Every part can be written, and is there."""
        found = [rendered(make(), make_run, case) for case, make_run in self.runs().items()]
        parts = [part for part in found if part is not None]
        with must_work(
            f"writing its parts as {form}", "They are made of words and tables, and escaped for each format."
        ):
            text = _written(parts, form)
        # tables alone stand in LaTeX
        titles = [table.title for part in parts for table in part.tables] + [part.title for part in parts] * (
            form != "latex"
        )
        missing = [title for title in dict.fromkeys(titles) if not _stands_in(str(title), text)]
        require(not missing, f"the title {', '.join(missing)} is not in the {form} of its parts")

    def test_the_same_run_gives_the_same_part(self, make: Make) -> None:
        """Asked twice, and after other runs."""
        used = make()
        for turn in ("asked of one section and of a new one", "asked again after other runs"):
            for case, make_run in self.runs().items():
                fresh = rendered(make(), make_run, case)
                for _ in range(2):
                    _require_same(rendered(used, make_run, case), fresh, f"of {case}, {turn}")

    def test_the_order_of_the_records_means_nothing(self, make: Make) -> None:
        """A run that was killed and went on, or ran on several workers, has them in another order."""
        for case, make_run in self.runs().items():
            data, summary = _with_figures(make_run)
            with must_work(f"render of {case}", _HINT):
                found = make().render(with_records_reversed(data), summary)
            fresh = rendered(make(), make_run, case)
            _require_same(found, fresh, f"of {case}, when its records came in another order")

    def test_the_run_is_left_as_it_was(self, make: Make) -> None:
        """Other sections and the rest of the report are made of it, too."""
        for case, make_run in self.runs().items():
            (data, summary), (expected, figures) = _with_figures(make_run), _with_figures(make_run)
            with must_work(f"render of {case}", _HINT):
                make().render(data, summary)
            changed = [
                field.name
                for field in attrs.fields(type(data))
                if _plain(getattr(data, field.name)) != _plain(getattr(expected, field.name))
            ]
            changed += ["the summary"] if summary.to_dict() != figures.to_dict() else []
            require(
                not changed,
                f"render changed {', '.join(changed)} of the run ({case}), which the rest of the report is made of. "
                f"Work on copies: sorted(rows), list(column).",
            )

    def test_rendering_is_fast(self, make: Make) -> None:
        """A run of many cells, against writing its results as CSV."""
        from caddtree.experiments.summary import summarise
        from caddtree.reports.cells import cells_csv

        data, section = made_up_run(num_repeats=_REPEATS_OF_A_LARGE_RUN), make()
        summary = summarise(data)
        check_speed(
            f"render of a run of {len(data.plan.cells)} cells",
            lambda: section.render(data, summary),
            lambda: cells_csv(data),
            "writing results.csv",
            self.slowest_allowed,
            "whenever a report is written",
        )


def rendered(section: Any, make_run: Callable[[], RunData], case: str) -> Any:
    """Return what a section makes of a run."""
    data, summary = _with_figures(make_run)
    with must_work(f"render of {case}", _HINT):
        return section.render(data, summary)


def _with_figures(make_run: Callable[[], RunData]) -> tuple[RunData, Summary]:
    """Return a run of one's own, and its figures."""
    return copy.deepcopy(_made(make_run))


@functools.lru_cache(maxsize=64)
def _made(make_run: Callable[[], RunData]) -> tuple[RunData, Summary]:
    """Return a run and its figures, which take longer than a copy; a section may write into what it is given."""
    from caddtree.experiments.summary import summarise

    data = make_run()
    return data, summarise(data)


def _tables(part: Any) -> tuple[Any, ...]:
    return tuple(getattr(part, "tables", ()))


def _written(parts: Sequence[ReportPart], form: str) -> str:
    """Return a report with these parts."""
    _, summary = _with_figures(made_up_run)
    if form == "markdown":
        from caddtree.reports.markdown import markdown_report

        return markdown_report(summary, (), parts)
    if form == "latex":
        from caddtree.reports.latex import latex_tables

        return latex_tables(summary, parts)
    if any(importlib.util.find_spec(name) is None for name in ("jinja2", "matplotlib")):
        pytest.skip("pages need the extra caddtree[report]")
    from caddtree.reports.page import html_page

    return html_page(summary, (), parts)


def _stands_in(title: str, text: str) -> bool:
    """Tell whether the words of a title are in a text, whatever signs were escaped between them."""
    words = "".join(sign if sign.isalnum() else " " for sign in title).split()
    return all(word in text for word in words)


def _require_same(found: object, expected: object, when: str) -> None:
    require(
        found == expected,
        f"render shows two different things {when}: {_difference(found, expected)}. A part follows from the run and "
        f"the options alone: no clock, no chance, nothing kept from other runs, and rows in the order of the plan.",
    )


def _difference(found: object, expected: object) -> str:
    one, other = (_texts(part) for part in (found, expected))
    pair = next(((a, b) for a, b in zip(one, other, strict=False) if a != b), None)
    return f"{pair[0]!r} and {pair[1]!r}" if pair else f"{len(one)} and {len(other)} pieces of text"


def _texts(part: Any) -> list[str]:
    """Return all that a part says, piece by piece."""
    found = [str(getattr(part, name, part)) for name in ("title", "text")]
    for table in _tables(part):
        rows = (getattr(table, "columns", ()), *getattr(table, "entries", ()))
        found += [str(getattr(table, "title", table)), *(" | ".join(map(str, row)) for row in rows)]
    return found


def _plain(value: Any) -> Any:
    """Return a record as plain values, comparable with ``==``."""
    if attrs.has(type(value)):
        return attrs.asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
