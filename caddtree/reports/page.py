"""The report as one page that needs nothing else: styles and pictures are in it, and no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from caddtree.experiments.summary import Summary
from caddtree.reports.captions import how_to_read, machine, prompts, request
from caddtree.reports.figures.style import Picture, inline_svg
from caddtree.reports.markdown import recipe_text
from caddtree.reports.section import ReportPart
from caddtree.reports.tables import environment_table, problem_table, setting_tables

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def html_page(summary: Summary, pictures: Sequence[Picture], parts: Sequence[ReportPart] = ()) -> str:
    """Return the page; ``parts`` come from plugins."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    page: str = template.render(
        summary=summary,
        how_to_read=how_to_read(summary),
        machine=machine(summary),
        sections=[_section(summary, setting, number, pictures) for number, setting in enumerate(summary.settings, 1)],
        parts=parts,
        problems=problem_table(summary),
        environment=environment_table(summary),
        recipes={name: recipe_text(sections) for name, sections in summary.recipes.items()},
    )
    return page


def _section(summary: Summary, setting: str, number: int, pictures: Sequence[Picture]) -> dict[str, Any]:
    return {
        "id": f"setting-{number}",
        "title": setting or "Results",
        "prompts": prompts(summary, setting),
        "request": request(summary, setting),
        "tables": setting_tables(summary, setting),
        "pictures": [
            # the SVG is the one thing that goes into the page unescaped: matplotlib escapes the text in it
            {
                "name": picture.name,
                "svg": inline_svg(picture),
                "caption": picture.caption,
                "width": round(picture.width),
                # narrower screens scroll it: smaller its text could not be read
                "least": round(0.78 * picture.width),
            }
            for picture in pictures
            if picture.setting == setting
        ],
    }
