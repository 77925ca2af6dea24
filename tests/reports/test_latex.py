"""LaTeX tables: nothing in a name is a command, and a document takes them with one package."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from caddtree.experiments.summary import summarise
from caddtree.reports.latex import escaped, latex_table, latex_tables
from caddtree.reports.tables import Entry, Table, speed_table
from tests.reports.hostile_run import hostile_run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % & $x_1$ #2", r"50 \% \& \$x\_1\$ \#2"),
        ("{a}\\b", r"\{a\}\textbackslash{}b"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("a < b | c > d", r"a \textless{} b \textbar{} c \textgreater{} d"),
        ("[1, 2]", "{[}1, 2{]}"),
        ("1.0 ± 0.5", r"1.0 $\pm$ 0.5"),
        ("–", r"\textendash{}"),
        ("a--b---c", "a-{}-b-{}-{}-c"),
        ("two\n\nlines\tand tabs", "two lines and tabs"),
        ("é 漢", r"é \texttt{U+6F22}"),
    ],
)
def test_text_means_nothing_to_latex(text, expected):
    """Character by character; what the fonts lack is named."""
    assert escaped(text) == expected


def test_a_row_has_its_details_beneath_it():
    """Two lines, of as many columns; a row without details has one."""
    table = Table("t", (Entry("v"), Entry("a")), ((Entry("x"), Entry("1.5", "[1, 2]")), (Entry("y"), Entry("2"))))
    text = latex_table(table, caption="c", label="tab:l")

    assert "x & 1.5 \\\\\n & \\scriptsize {[}1, 2{]} \\\\" in text
    assert "y & 2 \\\\\n\\bottomrule" in text
    assert r"\begin{tabular}{@{}lr@{}}" in text


def test_a_table_that_is_too_wide_comes_in_parts():
    """Every part has the variants; every column is in one part."""
    names = [f"column-{index}" for index in range(12)]
    row = (Entry("a variant"), *(Entry("1.00", "[0.95, 1.05], tau 5.00") for _ in names))
    text = latex_table(Table("t", (Entry("variant"), *map(Entry, names)), (row,)), caption="c", label="tab:l")

    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count("a variant") == 2
    assert all(text.count(f"{name} ") == 1 for name in names)
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:l", "tab:l-2"]
    assert "c Part 2 of 2." in text


def test_the_caption_says_where_the_figures_come_from(summary):
    """Machine, versions, prompts, seeds, temperature."""
    (caption, *_) = re.findall(r"\\caption\{(.*)\}", latex_tables(summary))

    for wanted in ("An Imaginary Processor, 2 threads, float32", "torch 2.13.0", "commit 0123456789ab",
                   "reasoning 8, instructions 8, code 8", "seed 0", "1 repeat", "temperature 0"):  # fmt: skip
        assert wanted in caption


def test_every_setting_has_three_tables_with_labels_of_their_own(summary):
    """Speeds, what ran, stages."""
    labels = re.findall(r"\\label\{(.*)\}", latex_tables(summary))

    assert labels == [f"tab:synthetic-{kind}-{n}" for n in (1, 2) for kind in ("speed", "running", "stages")]


def test_every_line_has_as_many_columns_as_its_table(summary):
    """Ampersands in names are escaped, others are not there."""
    table = speed_table(summary, "temperature=0")
    for line in latex_table(table, caption="c", label="l").split("\n"):
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) - 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("name", ["planted", "hostile"])
def test_a_document_with_booktabs_takes_the_file(name, summary, tmp_path):
    """With \\input and nothing else; hostile names, too."""
    tables = latex_tables(summary if name == "planted" else summarise(hostile_run()))
    (tmp_path / "tables.tex").write_text(tables, encoding="utf-8")
    document = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n\\input{tables}\n\\end{document}\n"
    (tmp_path / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").exists()
