"""Sections of plugins: they stand in every format; one that fails costs the others nothing, and is named."""

from __future__ import annotations

import re
import types

import attrs
import pytest

from caddtree.core.errors import InputError, PluginError
from caddtree.experiments.store import RunFolder
from caddtree.plugins import registry as registry_module
from caddtree.plugins.hooks import hookimpl
from caddtree.plugins.registry import Provider, Registry, default_registry
from caddtree.reports import section, write_report
from caddtree.reports.section import ReportPart, render_sections
from caddtree.reports.tables import Entry, Table
from tests.reports.synthetic_run import synthetic_run, write_run


@attrs.frozen
class Counted:
    """Counts cells."""

    word: str = "cells"

    def render(self, run, summary):
        table = Table.of(
            f"Number of {self.word}", ("variant", "cells"), [("a|b <i>", 3), ("c_d", 12)], note="All & more."
        )
        return ReportPart("How many & why", "One <b>line</b>.\n\nAnother\none.", (table,))


@attrs.frozen
class Silent:
    """Has nothing to say."""

    def render(self, run, summary):
        return None


@attrs.frozen
class Spoiling:
    """Drops what it was given, and says something that looks like Markdown."""

    def render(self, run, summary):
        run.results.clear()
        summary.recipes.clear()
        return ReportPart("Spoilt", "# no heading\n\n1. no list\n\n- none either\n\n~~said~~ &copy; 3 & 4")


def failing(answer):
    def render(self, run, summary):
        if isinstance(answer, Exception):
            raise answer
        return answer

    return attrs.frozen(type("Failing", (), {"render": render}))


RAGGED = ReportPart("t", tables=(Table.of("ragged", ("a", "b"), [(1,)]),))
FAILING = {
    "raising": (KeyError("cells"), "KeyError: 'cells'"),
    "refusing": (InputError("too few cells"), ": too few cells"),
    "text": ("<p>", "must return a ReportPart or None, found str"),
    "number": (ReportPart(7), "the title of a ReportPart must be a string, found int"),
    "list": (ReportPart("t", tables=([1, 2],)), "the tables of a ReportPart must be Tables, found list"),
    "no entries": (
        ReportPart("t", tables=(Table("plain", ("a", "b"), (("c", "d"),)),)),
        "the rows of a Table must be tuples of Entry; Table.of makes them of plain values",
    ),
    "row of text": (ReportPart("t", tables=(Table("t", (), ("12",)),)), "must be tuples"),
    "number in an entry": (
        ReportPart("t", tables=(Table("t", (Entry("a"),), ((Entry(5),),)),)),
        "titles, notes and entries of a Table must be strings, found int",
    ),
    "no title": (ReportPart("t", tables=(Table.of(None, ("a",), [(1,)]),)), "must be strings, found NoneType"),
    "columns": (ReportPart("t", tables=(Table.of("t", ("a",), [(1,)], num_text_columns=None),)), "must be an integer"),
    "half a character": (ReportPart("t", tables=(Table.of("\udce9", ("a",), [(1,)]),)), "which is no character"),
    "half a title": (ReportPart("\udce9"), "which is no character"),
    "ragged": (RAGGED, "the rows of table 'ragged' must be as long as its header, found [1, 2]"),
}


@pytest.fixture
def known(monkeypatch) -> Registry:
    """The built-in strategies and a plugin with all of these, as what is installed."""
    known = Registry()
    known.load_built_in()

    def register(registry):
        registry.add("counted", Counted)
        registry.add("silent", Silent)
        registry.add("spoiling", Spoiling)
        for name, (answer, _) in FAILING.items():
            registry.add(name.replace(" ", "-"), failing(answer))

    known.load_plugin(
        types.SimpleNamespace(register_report_sections=hookimpl(register)), Provider("more", "3.1", "more")
    )
    for module in (section, registry_module):
        monkeypatch.setattr(module, "default_registry", lambda: known)
    return known


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a run whose experiment names a section with an option."""
    folder = tmp_path_factory.mktemp("small")
    data = synthetic_run(datasets=("code",), settings={"": {}}, num_prompts=5)
    named = ({"name": "counted", "word": "things"},)
    write_run(attrs.evolve(data, plan=attrs.evolve(data.plan, report_sections=named)), folder)
    return folder


def test_a_section_of_the_experiment_stands_in_every_format(small, known, tmp_path):
    """Escaped for each, with its options; the terminal's and the JSON's figures stay the run's own."""
    files = {path.name: path.read_text() for path in write_report(small, tmp_path) if path.suffix != ".pdf"}

    assert "## How many & why" in files["report.md"].replace("&amp;", "&")
    assert r"| a\|b \<i\> | 3 |" in files["report.md"]
    assert "Another one." in files["report.md"]
    page = files["report.html"]
    assert "<h2>How many &amp; why</h2>" in page
    assert "<p>One &lt;b&gt;line&lt;/b&gt;.</p>" in page
    assert re.search(r'<a href="#part-1">How many &amp; why</a>', page)
    assert "Number of things" in page
    assert r"\caption{Number of things. All \& more.}" in files["tables.tex"]
    assert r"c\_d & 12" in files["tables.tex"]


def test_a_section_can_be_asked_for_when_a_report_is_written(run_folder, known, tmp_path):
    """Twice is once; what has nothing to show leaves no trace."""
    formats = ["latex"]
    before = write_report(run_folder, tmp_path / "a", formats=formats)[0].read_text()
    found = write_report(run_folder, tmp_path / "b", formats=formats, sections=["counted", "silent", "counted"])

    added = found[0].read_text().removeprefix(before.rstrip("\n"))
    assert added.count(r"\begin{table}") == 1


@pytest.mark.parametrize("name", FAILING)
def test_one_that_fails_is_named_after_everything_else_is_written(run_folder, known, tmp_path, name):
    """With its package; the other sections are there."""
    with pytest.raises(PluginError) as error:
        write_report(run_folder, tmp_path, formats=["latex"], sections=[name.replace(" ", "-"), "counted"])

    assert str(error.value).startswith(
        f"{tmp_path} is written, but without: report_section {name.replace(' ', '-')} of more 3.1: "
    )
    assert FAILING[name][1] in str(error.value)
    assert "Number of cells" in (tmp_path / "tables.tex").read_text()


def test_one_that_is_not_installed_is_named_with_those_that_are(run_folder, known, tmp_path):
    """A report can be written without the plugin that the experiment was run with."""
    with pytest.raises(PluginError, match="unknown report_section 'countd'; did you mean counted"):
        write_report(run_folder, tmp_path, formats=["latex"], sections=["countd"])
    assert (tmp_path / "tables.tex").exists()


def test_nothing_stands_in_a_report_unless_it_is_named(run_folder, known, tmp_path):
    """Being installed changes no report."""
    data = RunFolder(run_folder).read()
    assert render_sections(data.plan.report_sections, data, None) == ((), [])


def test_a_plan_of_before_has_no_sections(run_folder):
    """Its file has no such key."""
    text = (run_folder / "experiment.json").read_text()
    assert '"report_sections": []' in text
    (run_folder / "experiment.json").write_text(
        text.replace('"report_sections": []', '"notes": 1').replace(',\n "notes": 1', "")
    )
    try:
        assert RunFolder(run_folder).read_plan().report_sections == ()
    finally:
        (run_folder / "experiment.json").write_text(text)


def test_no_section_is_built_in():
    """Those that every report has are no plugins."""
    assert default_registry().names("report_section") == ()


def test_a_section_changes_nothing_but_its_own_part(known, tmp_path):
    """Every other file is as without it; its text shows as it is."""
    formats, run = ["latex", "csv", "json", "markdown"], tmp_path / "run"
    write_run(synthetic_run(datasets=("code",), settings={"": {}}, num_prompts=5), run)
    write_report(run, tmp_path / "b", formats=formats, sections=["spoiling"])
    for path in write_report(run, tmp_path / "a", formats=formats):
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        if path.name != "report.md":
            assert other.read_bytes() == path.read_bytes(), path.name
    added = (tmp_path / "b" / "report.md").read_text().partition("## Spoilt\n\n")[2]

    assert added.startswith(r"\# no heading" + "\n\n" + r"1\. no list" + "\n\n" + r"\- none either" + "\n\n")
    assert r"\~\~said\~\~ \&copy; 3 & 4" in added
