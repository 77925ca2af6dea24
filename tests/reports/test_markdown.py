"""The report as Markdown: tables keep their shape, names their look."""

from __future__ import annotations

import re

from caddtree.experiments.summary import summarise
from caddtree.reports.markdown import escaped, markdown_report, markdown_table
from caddtree.reports.tables import Entry, Table, speed_table
from tests.reports.hostile_run import HOSTILE, hostile_run


def cells(line):
    """Split a table's line at its pipes, not at those that are escaped."""
    return re.split(r"(?<!\\)\|", line)[1:-1]


def test_a_table_has_one_rule_and_as_many_cells_in_every_line(summary):
    """Figures are flush right, words left."""
    table = speed_table(summary, "temperature=0")
    lines = markdown_table(table).split("\n")

    assert len(lines) == 2 + 5
    assert {len(cells(line)) for line in lines} == {6}
    assert [cell.strip() for cell in cells(lines[1])] == ["---", *["---:"] * 5]


def test_no_name_can_break_a_table():
    """Pipes, line breaks, links and tags."""
    table = Table("t", (Entry("variant"),), ((Entry(HOSTILE),), (Entry("two\nlines"),)))
    lines = markdown_table(table).split("\n")

    assert len(lines) == 4
    assert all(len(cells(line)) == 1 for line in lines)
    assert escaped(HOSTILE) == (r'\<script\>alert("1")\</script\> & 100% of $x\_1$ \\[a\](b)\|\`c\`\* \~^{}#')


def test_intervals_stay_readable():
    """No backslashes before their brackets."""
    assert escaped("1.10 [1.05, 1.15] faster") == "1.10 [1.05, 1.15] faster"


def test_the_report_names_everything(summary, pictures):
    """Notes, how to read, settings, pictures, environment, recipes, the experiment."""
    text = markdown_report(summary, pictures)

    for wanted in ("# synthetic", "paired within such a block", "## temperature=0", "## temperature=1",
                   "An Imaginary Processor", "## Environment", "### caddtree", "## Experiment"):  # fmt: skip
        assert wanted in text
    for picture in pictures:
        assert f"](figures/{picture.name}.svg)" in text


def test_notes_come_before_the_figures():
    """A reader sees them first."""
    text = markdown_report(summarise(hostile_run()), ())

    assert text.index("**Note.** 1 cells failed") < text.index("| variant")


def test_code_that_holds_a_fence_is_fenced_longer():
    """The experiment's text is shown as it was written."""
    assert f"````yaml\n```\n{HOSTILE}\n```\n````" in markdown_report(summarise(hostile_run()), ())
