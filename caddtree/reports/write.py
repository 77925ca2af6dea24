"""Writes the files of a report, each whole or not at all."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caddtree.core.errors import InputError, PluginError
from caddtree.experiments.store import RunData, RunFolder
from caddtree.experiments.summary import Summary, summarise
from caddtree.reports.cells import cells_csv
from caddtree.reports.latex import latex_tables
from caddtree.reports.markdown import markdown_report
from caddtree.reports.section import ReportPart, render_sections

if TYPE_CHECKING:
    from caddtree.reports.figures.style import Picture

FORMATS = ("html", "markdown", "latex", "csv", "json")
_DRAWN = ("html", "markdown")


def write_report(
    folder: Path, output: Path, *, formats: Collection[str] = FORMATS, sections: Sequence[str] = ()
) -> tuple[Path, ...]:
    """Write the report of a run and return its files.

    ``report.html``, ``report.md``, ``tables.tex``, ``results.csv`` with a line per cell, ``summary.json``, and the
    pictures as ``figures/*.svg`` and ``*.pdf``, which come with the first two.

    Args:
        folder: Holds the run.
        output: Folder that is written to, made where it is missing.
        formats: Any of :data:`FORMATS`.
        sections: Sections of plugins, besides those that the experiment names.

    Raises:
        InputError: If the run cannot be read, a format is unknown, matplotlib or Jinja2 is missing, or a file cannot be
            written.
        PluginError: After everything was written, if a section of a plugin is unknown or fails; it is left out.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise InputError(f"the formats of a report are {', '.join(FORMATS)}, found {', '.join(unknown)}")
    if set(formats) & set(_DRAWN):
        _check_extra()
    data = RunFolder(folder).read()
    summary = summarise(data)
    named = list(data.plan.report_sections)
    named += [{"name": name} for name in dict.fromkeys(sections) if name not in {each["name"] for each in named}]
    parts, problems = render_sections(named, data, summary)
    written = _write(output, _files(data, summary, formats, parts))
    if problems:
        raise PluginError(f"{output} is written, but without: {'; '.join(problems)}")
    return written


def _check_extra() -> None:
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"a report with pictures needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            "installed. Install the extra: pip install 'caddtree[report]'"
        )


def _files(data: RunData, summary: Summary, formats: Collection[str], parts: Sequence[ReportPart]) -> dict[str, bytes]:
    """Return the content of every file by its path in the report."""
    pictures: tuple[Picture, ...] = ()
    files: dict[str, str] = {}
    if set(formats) & set(_DRAWN):
        from caddtree.reports.figures.gallery import draw_pictures

        pictures = draw_pictures(data, summary)
        files |= {f"figures/{picture.name}.svg": picture.svg for picture in pictures}
    if "html" in formats:
        from caddtree.reports.page import html_page

        files["report.html"] = html_page(summary, pictures, parts)
    if "markdown" in formats:
        files["report.md"] = markdown_report(summary, pictures, parts)
    if "latex" in formats:
        files["tables.tex"] = latex_tables(summary, parts)
    if "csv" in formats:
        files["results.csv"] = cells_csv(data)
    if "json" in formats:
        files["summary.json"] = json.dumps(summary.to_dict(), indent=1, allow_nan=False) + "\n"
    drawn = {f"figures/{picture.name}.pdf": picture.pdf for picture in pictures}
    return {name: text.encode("utf-8") for name, text in files.items()} | drawn


def _write(output: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    written = []
    for name, content in files.items():
        path = Path(output) / name
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(content)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
        written.append(path)
    return tuple(written)
