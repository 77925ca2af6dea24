"""The report as Markdown, which shows on code hosts as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import yaml

from caddtree.experiments.summary import Summary
from caddtree.reports.captions import how_to_read, provenance
from caddtree.reports.section import ReportPart
from caddtree.reports.tables import Table, environment_table, problem_table, setting_tables

if TYPE_CHECKING:
    from caddtree.reports.figures.style import Picture


def markdown_report(summary: Summary, pictures: Sequence[Picture], parts: Sequence[ReportPart] = ()) -> str:
    """Return the report; pictures are linked as ``figures/NAME.svg``, ``parts`` come from plugins."""
    return "\n\n".join(_blocks(summary, pictures, parts)) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table of pipes and dashes; figures are set flush right."""
    rules = ["---" if index < table.num_text_columns else "---:" for index in range(len(table.columns))]
    lines = [list(map(escaped, table.header)), rules, *(list(map(escaped, row)) for row in table.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escaped(text: str) -> str:
    """Return text that shows as it is in a table; an interval in brackets is left alone."""
    text = " ".join(text.split())
    return re.sub(r"([\\`*_<>|~]|&(?=#?\w+;)|\](?=\())", r"\\\1", text)


def _blocks(summary: Summary, pictures: Sequence[Picture], parts: Sequence[ReportPart]) -> Iterator[str]:
    yield f"# {escaped(summary.label)}"
    if summary.description:
        yield summary.description.strip()
    if summary.notes:
        yield "\n".join(f"> **Note.** {escaped(note)}  " for note in summary.notes)
    yield how_to_read(summary)
    for setting in summary.settings:
        yield f"## {escaped(setting) or 'Results'}"
        yield escaped(provenance(summary, setting)) + "."
        for table in setting_tables(summary, setting):
            yield from _titled(table)
        for picture in pictures:
            if picture.setting == setting:
                yield f"![{picture.name}](figures/{picture.name}.svg)\n\n{escaped(picture.caption)}"
    for part in parts:
        yield f"## {escaped(part.title)}"
        yield from map(_paragraph, part.paragraphs)
        for table in part.tables:
            yield from _titled(table)
    problems = problem_table(summary)
    if problems is not None:
        yield f"## {problems.title}\n\n{markdown_table(problems)}"
    yield f"## Environment\n\n{markdown_table(environment_table(summary))}"
    yield "## Recipes"
    for name, sections in summary.recipes.items():
        yield f"### {escaped(name)}\n\n{_fenced(recipe_text(sections), 'yaml')}"
    if summary.text.strip():
        yield f"## Experiment\n\n{_fenced(summary.text.rstrip(), 'yaml')}"


def _paragraph(text: str) -> str:
    """Return text that begins no heading, list or rule."""
    return re.sub(
        r"^([#+=-]|\d+(?=[.)]))",
        lambda found: f"{found[1]}\\" if found[1].isdigit() else f"\\{found[1]}",
        escaped(text),
    )


def _titled(table: Table) -> Iterator[str]:
    yield f"**{escaped(table.title)}**"
    yield markdown_table(table)
    if table.note:
        yield escaped(table.note)


def recipe_text(sections: object) -> str:
    """Return the sections of a recipe as YAML."""
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True, width=100).rstrip()


def _fenced(text: str, language: str) -> str:
    """Return a code block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
