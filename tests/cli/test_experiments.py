"""``sweep`` and ``report`` as users run them."""

from __future__ import annotations

import json

import pytest

from tests.cli.runner import caddtree
from tests.experiments.tiny_experiment import write_experiment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def experiment(folder):
    return write_experiment(folder, prompts=6)


@pytest.fixture(scope="module")
def swept(experiment, folder):
    """The table of a whole run."""
    return caddtree("sweep", experiment, "--run", folder / "run")


def test_a_sweep_prints_its_tables_and_where_the_run_is(swept, folder):
    """One table per setting and theme, then the next command; standard error stays silent."""
    assert swept.exit_code == 0, swept.stderr
    for words in ("temperature=0", "temperature=1", "ddtree-4", "12 of 12", "caddtree report"):
        assert words in swept.stdout
    assert swept.stderr.strip() == ""


def test_a_second_sweep_says_the_same_at_once(swept, experiment, folder):
    """Everything is there: the same tables, nothing run."""
    before = (folder / "run" / "records.jsonl").read_bytes()
    again = caddtree("sweep", experiment, "--run", folder / "run")

    assert again.stdout == swept.stdout
    assert (folder / "run" / "records.jsonl").read_bytes() == before


def test_the_json_of_a_sweep_is_one_object_with_every_figure(swept, experiment, folder):
    """For scripts: the summary, no bar, no words."""
    values = json.loads(caddtree("sweep", experiment, "--run", folder / "run", "--json").stdout)

    assert values["num_results"] == values["num_cells"] == 4 * 2 * 12
    assert {row["variant"] for row in values["rows"]} == {"plain", "chain", "ddtree-4", "caddtree objective=ratio"}


def test_a_report_is_written_beside_the_run(swept, folder):
    """A page, Markdown, LaTeX, CSV, JSON and pictures; their paths are printed."""
    done = caddtree("report", folder / "run")
    names = {line.rsplit("/", 1)[-1] for line in done.stdout.splitlines()}

    assert done.exit_code == 0, done.stderr
    assert {"report.html", "report.md", "tables.tex", "results.csv", "summary.json"} <= names
    assert any(name.startswith("speedup") and name.endswith(".svg") for name in names)
    assert "<h1>small</h1>" in (folder / "run" / "report" / "report.html").read_text()


def test_a_failed_cell_is_an_error_with_exit_code_one(experiment, folder):
    """The table is printed all the same; the error names the cell and the way to run it again."""
    path = folder / "broken.yaml"
    path.write_text(experiment.read_text() + "variants: {broken: {drafter: {name: dflash, model: ./nowhere}}}\n")
    done = caddtree("sweep", path, "--run", folder / "broken", "--set", "prompts=1", "--set", "axes.temperature=[0]")

    assert done.exit_code == 1
    assert "broken on first first-0: cannot be loaded" in done.stderr
    assert "--retry-failed" in done.stderr
    assert "ddtree-4" in done.stdout


def test_a_dry_run_shows_the_plan_and_runs_nothing(experiment, folder):
    """Variants, settings, data sets, cells."""
    done = caddtree("sweep", experiment, "--run", folder / "dry", "--dry-run")

    assert "variant   plain  (baseline)" in done.stdout
    assert "setting   temperature=1" in done.stdout
    assert "data set  second: 6 prompts" in done.stdout
    assert "96 cells: 24 blocks of 4 variants" in done.stdout
    assert not (folder / "dry").exists()
    values = json.loads(caddtree("sweep", experiment, "--dry-run", "--json").stdout)
    assert (values["num_cells"], values["num_blocks"]) == (96, 24)


def test_the_shipped_experiments_are_listed():
    """With what they are about."""
    lines = caddtree("sweep", "--list").stdout.splitlines()

    assert [line.split()[0] for line in lines] == ["budgets", "cost-models", "demo", "methods", "temperature"]
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep",), "name an experiment"),
        (("sweep", "dmeo"), "did you mean demo"),
        (("sweep", "demo", "--engine", "slurm"), "--engine must be local or ray, found 'slurm'"),
        (("sweep", "demo", "--workers", "2"), "--workers and --ray-address are for --engine ray"),
        (("sweep", "demo", "--set", "prompts=x"), "--set prompts=x: experiment.prompts: must be an integer or null"),
        (("report", "nowhere"), "nowhere is no folder of a run"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_two(arguments, message):
    """What was wrong, and what is right."""
    done = caddtree(*arguments)

    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
