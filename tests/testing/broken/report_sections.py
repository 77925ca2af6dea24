"""Sections of reports with one fault each, around a table of tau."""

from __future__ import annotations

import time
from typing import Any

import attrs
from attrs.validators import ge, instance_of, le

from caddtree.reports.section import ReportPart
from caddtree.reports.tables import Table
from caddtree.testing import ReportSectionContract

IS = "test_it_is_a_report_section"
EVERY = "test_every_run_can_be_shown"
SHOWS = "test_it_shows_something"
PART = "test_it_returns_a_part_or_nothing"
TABLES = "test_tables_are_rectangular"
FORMATS = "test_it_stands_in_every_format"
SAME = "test_the_same_run_gives_the_same_part"
ORDER = "test_the_order_of_the_records_means_nothing"
LEFT = "test_the_run_is_left_as_it_was"
FAST = "test_rendering_is_fast"
OPTIONS = "test_no_option_is_ignored"
NUMBERS = "test_a_number_that_is_accepted_works"


class Contract(ReportSectionContract):
    caught_by: dict[str, str]


def wherever_runs_are_shown(message: str) -> dict[str, str]:
    return dict.fromkeys((EVERY, PART, TABLES, FORMATS, SAME, ORDER, LEFT, OPTIONS, NUMBERS), message)


@attrs.define(eq=False)
class Taus:
    """Show tau of every variant."""

    digits: int = attrs.field(default=2, validator=[instance_of(int), ge(0), le(9)])

    def rows(self, run: Any, summary: Any) -> list[tuple[Any, ...]]:
        found = [(row.variant, row.setting, row.overall.tau) for row in summary.rows if row.overall.tau is not None]
        return [(variant, setting, f"{tau:.{self.digits}f}") for variant, setting, tau in found]

    def render(self, run: Any, summary: Any) -> Any:
        rows = self.rows(run, summary)
        table = Table.of("Tau by variant", ("variant", "setting", "tau"), rows, num_text_columns=2)
        return ReportPart("Acceptance", "Tokens per round.", (table,)) if rows else None


class TestTaus(Contract):
    """It is sound itself."""

    strategy = Taus
    caught_by: dict[str, str] = {}


@attrs.define(eq=False)
class CountsOnResults(Taus):
    """Names the longest answer of the run."""

    def render(self, run: Any, summary: Any) -> Any:
        longest = max(len(result.token_ids) for result in run.results.values())
        return attrs.evolve(super().render(run, summary) or ReportPart("Acceptance"), text=f"{longest} tokens at most.")


class TestCountsOnResults(Contract):
    strategy = CountsOnResults
    caught_by = wherever_runs_are_shown(
        r"render of a run of which nothing ran must work, but raised ValueError: max\(\).* A run may be incomplete"
    )


@attrs.define(eq=False)
class CountsOnRounds(Taus):
    """Computes tau itself, also where there is no round."""

    def rows(self, run: Any, summary: Any) -> list[tuple[Any, ...]]:
        found = []
        for cell in run.plan.cells:
            if cell.id in run.results:
                gained = run.results[cell.id].rounds.num_gained
                found.append((cell.variant, cell.setting, f"{sum(gained) / len(gained):.{self.digits}f}"))
        return found


class TestCountsOnRounds(Contract):
    strategy = CountsOnRounds
    caught_by = wherever_runs_are_shown(
        "render of a run whose texts ended in prefill must work, but raised ZeroDivisionError"
    )


@attrs.define(eq=False)
class CountsOnFigures(Taus):
    """Formats figures that an incomplete run does not have."""

    def rows(self, run: Any, summary: Any) -> list[tuple[Any, ...]]:
        return [(row.variant, row.setting, f"{row.overall.tau:.{self.digits}f}") for row in summary.rows]


class TestCountsOnFigures(Contract):
    strategy = CountsOnFigures
    caught_by = wherever_runs_are_shown("render of a run of which nothing ran must work, but raised TypeError")


@attrs.define(eq=False)
class Ragged(Taus):
    """Leaves the setting out where it is empty."""

    def rows(self, run: Any, summary: Any) -> list[tuple[Any, ...]]:
        return [tuple(filter(None, row)) for row in super().rows(run, summary)]


class TestRagged(Contract):
    strategy = Ragged
    caught_by = {
        TABLES: "the rows of table 'Tau by variant' must be as long as its header of 3, found 2 for a run of one",
        FORMATS: "writing its parts as latex must work, but raised IndexError",
    }


@attrs.define(eq=False)
class BareCells(Taus):
    """Makes a table by hand, of words."""

    def render(self, run: Any, summary: Any) -> Any:
        part = super().render(run, summary)
        if part is None:
            return None
        table = part.tables[0]
        bare = Table(table.title, tuple(table.header), tuple(tuple(row) for row in table.rows), num_text_columns=2)
        return attrs.evolve(part, tables=(bare,))


class TestBareCells(Contract):
    strategy = BareCells
    caught_by = {
        TABLES: "the cells of table 'Tau by variant' must be Entries, found 'variant'",
        FORMATS: "writing its parts as (page|latex) must work, but raised",
    }


@attrs.define(eq=False)
class ReturnsText(Taus):
    """Writes Markdown itself."""

    def render(self, run: Any, summary: Any) -> Any:
        return "\n".join(f"* {' '.join(row)}" for row in self.rows(run, summary))


class TestReturnsText(Contract):
    strategy = ReturnsText
    caught_by = {
        PART: "render must return a ReportPart or None, found str for a whole run",
        FORMATS: "must work, but raised AttributeError",
    }


@attrs.define(eq=False)
class NumberForATitle(Taus):
    """The title is a number."""

    def render(self, run: Any, summary: Any) -> Any:
        part = super().render(run, summary)
        return part and attrs.evolve(part, title=len(summary.rows))


class TestNumberForATitle(Contract):
    strategy = NumberForATitle
    caught_by = {
        PART: "the title of a ReportPart must be a string, found int",
        FORMATS: "must work, but raised",
    }


@attrs.define(eq=False)
class ShowsNothing(Taus):
    """Is not written yet."""

    def render(self, run: Any, summary: Any) -> Any:
        return None


class TestShowsNothing(Contract):
    strategy = ShowsNothing
    unobservable_options = ("digits",)
    caught_by = {SHOWS: "ShowsNothing returns None for every run of the kit.*Override `runs`"}


@attrs.define(eq=False)
class InOrderOfArrival(Taus):
    """Lists cells as their records came."""

    def rows(self, run: Any, summary: Any) -> list[tuple[Any, ...]]:
        sizes = [(each.cell.variant, each.cell.setting, len(each.rounds.num_gained)) for each in run.results.values()]
        return [(variant, setting, f"{size:.{self.digits}f}") for variant, setting, size in sizes]


class TestInOrderOfArrival(Contract):
    strategy = InOrderOfArrival
    caught_by = {ORDER: "two different things of a whole run, when its records came in another order: 'caddtree"}


@attrs.define(eq=False)
class Dated(Taus):
    """Says when the report was written."""

    def render(self, run: Any, summary: Any) -> Any:
        part = super().render(run, summary)
        return part and attrs.evolve(part, text=f"Written at {time.perf_counter_ns()}.")


class TestDated(Contract):
    strategy = Dated
    caught_by = {
        SAME: "render shows two different things of a whole run, asked of one section and of a new one: 'Written at",
        ORDER: "'Written at",
        OPTIONS: "behave differently",
    }


@attrs.define(eq=False)
class RemembersRuns(Taus):
    """Numbers the runs that it shows."""

    _num_runs: int = attrs.field(default=0, init=False)

    def render(self, run: Any, summary: Any) -> Any:
        self._num_runs += 1
        part = super().render(run, summary)
        return part and attrs.evolve(part, title=f"Acceptance {self._num_runs}")


class TestRemembersRuns(Contract):
    strategy = RemembersRuns
    caught_by = {SAME: "render shows two different things of .*: 'Acceptance 2' and 'Acceptance 1'"}


@attrs.define(eq=False)
class SortsInPlace(Taus):
    """Sorts the draft nodes of every cell for a median, where they are."""

    def render(self, run: Any, summary: Any) -> Any:
        for result in run.results.values():
            result.rounds.num_draft_nodes.sort()
        return super().render(run, summary)


class TestSortsInPlace(Contract):
    strategy = SortsInPlace
    caught_by = {LEFT: r"render changed results of the run \(a whole run\)"}


@attrs.define(eq=False)
class DropsRecipes(Taus):
    """Takes the recipes out of the figures, because they are long."""

    def render(self, run: Any, summary: Any) -> Any:
        summary.recipes.clear()
        return super().render(run, summary)


class TestDropsRecipes(Contract):
    strategy = DropsRecipes
    caught_by = {LEFT: "render changed the summary of the run"}


@attrs.define(eq=False)
class Slow(Taus):
    """Looks at all triples of cells."""

    def render(self, run: Any, summary: Any) -> Any:
        time.sleep(3e-8 * len(run.results) ** 3)
        return super().render(run, summary)


class TestSlow(Contract):
    strategy = Slow
    caught_by = {FAST: r"render of a run of \d+ cells is too slow: .* It runs whenever a report is written"}


@attrs.define(eq=False)
class NoMethod(Taus):
    """``render`` is nothing yet."""

    render = None


class TestNoMethod(Contract):
    strategy = NoMethod
    caught_by = {
        IS: r"NoMethod needs a method render\(run, summary\)",
        **wherever_runs_are_shown("TypeError: 'NoneType' object is not callable"),
        SHOWS: "TypeError: 'NoneType' object is not callable",
        FAST: "TypeError: 'NoneType' object is not callable",
    }


@attrs.define(eq=False)
class IgnoresAnOption(Taus):
    """Offers a number of rows and looks at it nowhere."""

    most: int = attrs.field(default=10, validator=[instance_of(int), ge(1)])


class TestIgnoresAnOption(Contract):
    strategy = IgnoresAnOption
    caught_by = {OPTIONS: r"IgnoresAnOption ignores most \(tried 11, 9"}
