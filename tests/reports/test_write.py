"""Writing a report: which files, whole or not at all, the same bytes every time, one clear error."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from caddtree.core.errors import InputError
from caddtree.reports import write_report
from tests.reports.synthetic_run import synthetic_run, write_run
from tests.test_import_graph import imports, modules, room

PLAIN_FORMATS = ("latex", "csv", "json")


def test_a_report_has_its_files_and_no_others(report):
    """The page, Markdown, LaTeX, both tables of figures, and every picture as SVG and PDF."""
    found = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    pictures = {name for name in found if name.startswith("figures/")}

    assert found - pictures == {"report.html", "report.md", "tables.tex", "results.csv", "summary.json"}
    assert {Path(name).suffix for name in pictures} == {".svg", ".pdf"}
    assert len(pictures) == 2 * 14


def test_the_same_run_gives_the_same_bytes(tmp_path):
    """No date, no random id, in whatever process."""
    write_run(synthetic_run(datasets=("code",), settings={"": {}}, num_prompts=5), tmp_path / "run")
    code = (
        "import sys, pathlib; from caddtree.reports import write_report; write_report(*map(pathlib.Path, sys.argv[1:]))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "run", tmp_path / "other"], check=True)
    written = write_report(tmp_path / "run", tmp_path / "mine")

    assert len(written) == 5 + 2 * 7
    for path in written:
        other = tmp_path / "other" / path.relative_to(tmp_path / "mine")
        assert path.read_bytes() == other.read_bytes(), path.name


def test_the_json_is_the_summary(report, summary):
    """Nothing is lost on the way."""
    assert json.loads((report / "summary.json").read_text()) == json.loads(json.dumps(summary.to_dict()))


def test_formats_can_be_chosen(run_folder, tmp_path):
    """Those alone, and no picture for them."""
    written = write_report(run_folder, tmp_path / "new" / "folder", formats=PLAIN_FORMATS)

    assert [path.name for path in written] == ["tables.tex", "results.csv", "summary.json"]
    assert not (tmp_path / "new" / "folder" / "figures").exists()
    with pytest.raises(InputError, match=r"the formats of a report are html, .*, found docx"):
        write_report(run_folder, tmp_path, formats=["docx", "csv"])


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_the_extra_one_error_names_it(run_folder, tmp_path, monkeypatch, missing):
    """Formats without pictures need neither."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))

    with pytest.raises(InputError, match=rf"needs {missing}, which is not installed.*'caddtree\[report\]'"):
        write_report(run_folder, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(write_report(run_folder, tmp_path, formats=PLAIN_FORMATS)) == 3


def test_a_folder_without_a_run_is_one_clear_error(tmp_path):
    """Absent, or another folder."""
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="is no folder of a run"):
            write_report(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_record_is_named_by_its_line(run_folder, tmp_path):
    """Nothing is written."""
    for name in ("experiment.json", "records.jsonl"):
        (tmp_path / name).write_bytes((run_folder / name).read_bytes())
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(b'{"kind": "result"}\n')

    with pytest.raises(InputError, match=r"records.jsonl:\d+: is no record of a run"):
        write_report(tmp_path, tmp_path / "out", formats=PLAIN_FORMATS)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_one_clear_error(run_folder, tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "taken").write_text("")

    with pytest.raises(InputError, match=r"taken.tables.tex: cannot be written"):
        write_report(run_folder, tmp_path / "taken", formats=PLAIN_FORMATS)


def test_a_file_appears_whole_or_not_at_all(run_folder, tmp_path, monkeypatch):
    """The disk is full while the second file is written: the old one stays, and no part of the new one."""
    write_report(run_folder, tmp_path, formats=PLAIN_FORMATS)
    (tmp_path / "results.csv").write_text("old")
    whole = Path.write_bytes

    def full(path, content):
        if path.name.startswith("results"):
            whole(path, content[:10])
            raise OSError(28, "No space left on device")
        return whole(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"results.csv: cannot be written: No space left on device"):
        write_report(run_folder, tmp_path, formats=PLAIN_FORMATS)

    assert (tmp_path / "results.csv").read_text() == "old"
    assert not list(tmp_path.glob("*.partial"))


def test_a_report_of_a_run_that_has_not_begun_is_written(data, tmp_path):
    """Every format, no picture."""
    write_run(attrs.evolve(data, results={}, environments={}, loaded={}), tmp_path / "run")
    written = write_report(tmp_path / "run", tmp_path / "out")

    assert [path.name for path in written] == [
        "report.html", "report.md", "tables.tex", "results.csv", "summary.json",
    ]  # fmt: skip
    assert "0 of 240 cells are there" in (tmp_path / "out" / "report.md").read_text()


def test_reports_import_experiments_core_and_the_registry_alone():
    """And nothing but the command line imports reports, and the kit, which tests sections of them."""
    for name, path in modules().items():
        used = {room(other) for other in imports(path, everywhere=True)}
        if room(name) == "reports":
            assert used <= {"reports", "experiments", "plugins", "core", ""}, name
        elif room(name) not in ("cli", "testing"):
            assert "reports" not in used, name


def test_drawing_libraries_are_imported_when_they_are_needed():
    """The package's door opens without matplotlib, Jinja2 and torch."""
    code = (
        "import sys, caddtree.reports, caddtree.reports.tables, caddtree.experiments.summary; "
        "assert not {'matplotlib', 'jinja2', 'torch', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
