"""Tables for a paper: LaTeX that needs the package booktabs and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

from caddtree.experiments.summary import Summary
from caddtree.reports.captions import provenance
from caddtree.reports.section import ReportPart
from caddtree.reports.tables import Entry, Table, setting_tables

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",  # the command for it needs another font encoding
    "`": r"\textasciigrave{}",
    "[": "{[}",  # behind a line break a bracket would be its optional argument
    "]": "{]}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "τ": r"$\tau$",
    "µ": r"$\mu$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
}

_MOST_CHARACTERS = 135
"""In a line of a table, in the smallest size."""
_KINDS = ("speed", "running", "stages")
"""Names of the tables of a setting, in their labels."""


def latex_tables(summary: Summary, reported: Sequence[ReportPart] = ()) -> str:
    r"""Return the tables of every setting, to be read with ``\input``; captions say where the figures come from.

    ``reported`` comes from plugins; their tables stand behind the others.
    """
    parts = [
        "% Tables of a run; \\input this file in a document with \\usepackage{booktabs}.\n"
        "% A wide table fits two columns as table*; its size is set behind \\centering."
    ]
    for number, setting in enumerate(summary.settings, 1):
        ending = f"-{number}" if len(summary.settings) > 1 else ""
        for kind, table in zip(_KINDS, setting_tables(summary, setting), strict=True):
            caption = " ".join(filter(None, (f"{table.title}.", table.note, _sentence(provenance(summary, setting)))))
            parts.append(latex_table(table, caption=caption, label=f"tab:{_label(summary.label)}-{kind}{ending}"))
    own = [(part, table) for part in reported for table in part.tables]
    for number, (part, table) in enumerate(own, 1):
        caption = " ".join(filter(None, (f"{table.title}.", table.note)))
        label = f"tab:{_label(summary.label)}-{_label(part.title).lower()}-{number}"
        parts.append(latex_table(table, caption=caption, label=label))
    return "\n\n".join(parts) + "\n"


def latex_table(table: Table, *, caption: str, label: str) -> str:
    """Return a floating table, or several of one that is too wide; details stand beneath their figures, smaller."""
    pieces = _pieces(table)
    size, detail_size = _sizes(max(map(_num_characters, pieces)))
    floats = []
    for number, piece in enumerate(pieces, 1):
        part = f" Part {number} of {len(pieces)}." if len(pieces) > 1 else ""
        columns = "".join("l" if index < table.num_text_columns else "r" for index in range(len(piece[0])))
        head, *body = ("\n".join(_lines(row, detail_size)) for row in piece)
        floats += [
            r"\begin{table}",
            rf"\centering{size}\setlength{{\tabcolsep}}{{3pt}}\setlength{{\abovetopsep}}{{4pt}}",
            rf"\caption{{{escaped(caption + part)}}}",
            rf"\label{{{label}{f'-{number}' if number > 1 else ''}}}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            head,
            r"\midrule",
            "\n\\addlinespace[2pt]\n".join(body),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(floats)


def escaped(text: str) -> str:
    """Return text in which no character means anything to LaTeX; what its fonts lack is named by its number."""
    found = []
    for character in " ".join(text.split()):
        if character in _ESCAPES:
            found.append(_ESCAPES[character])
        elif character.isprintable() and (ord(character) < 0x180 or character in "‘’“”…•"):
            found.append(character)
        else:
            found.append(rf"\texttt{{U+{ord(character):04X}}}")
    # two hyphens in a name are no dash
    return re.sub(r"-(?=-)", "-{}", "".join(found))


def _sizes(num_characters: float) -> tuple[str, str]:
    """Return the sizes of figures and of details for a table of so many characters in a line."""
    if num_characters <= 80:
        return r"\small", r"\scriptsize"
    return (r"\footnotesize", r"\scriptsize") if num_characters <= 110 else (r"\scriptsize", r"\tiny")


def _num_characters(rows: Sequence[tuple[Entry, ...]]) -> float:
    """Return about how many characters a line of these rows is wide; details are set smaller, columns have a space."""
    columns = zip(*rows, strict=True)
    return sum(2 + max(max(len(entry.text), 0.75 * len(entry.detail)) for entry in column) for column in columns)


def _pieces(table: Table) -> list[list[tuple[Entry, ...]]]:
    """Return the header and rows of every part that fits a line, each with the first column."""
    every = [table.columns, *table.entries]
    pieces = [[row[:1] for row in every]]
    for index in range(1, len(table.columns)):
        longer = [(*line, row[index]) for line, row in zip(pieces[-1], every, strict=True)]
        if len(pieces[-1][0]) > 1 and _num_characters(longer) > _MOST_CHARACTERS:
            pieces.append([(row[0], row[index]) for row in every])
        else:
            pieces[-1] = longer
    return pieces


def _lines(row: tuple[Entry, ...], detail_size: str) -> list[str]:
    """Return the lines of one row: the figures, and beneath them their details where there are any."""
    lines = [" & ".join(escaped(entry.text) for entry in row) + r" \\"]
    if any(entry.detail for entry in row):
        details = (f"{detail_size} {escaped(entry.detail)}" if entry.detail else "" for entry in row)
        lines.append(" & ".join(details) + r" \\")
    return lines


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "run"
