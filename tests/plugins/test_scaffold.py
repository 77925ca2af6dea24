"""``write_plugin``: what it writes passes the kit and decodes as it is, and a name that cannot be used is refused."""

from __future__ import annotations

import ast
import itertools
import json
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from caddtree.core.errors import PluginError
from caddtree.plugins.hooks import EXTENSIONS, KINDS, STAGES
from caddtree.plugins.registry import default_registry
from caddtree.plugins.scaffold import Scaffold, write_plugin
from tests.plugins.projects import install, run

MOST_LINES = 25
"""Of an author's own code, from nothing to a plugin that passes the kit."""

LINTS = (["check", "--select", "E,F,W,I,B,UP,SIM,C4,PT,N"], ["format", "--check"])

DECODE = """
import json, sys
import caddtree
from caddtree.loading import load_model

held = dict(zip(("model", "tokenizer"), load_model(caddtree.load_recipe("demo").target)))
for recipe, sections in json.loads(sys.argv[1]):
    found = caddtree.load(recipe, sections, **held).generate("def main(", **json.loads(sys.argv[2]))
    print(json.dumps([found.token_ids, len(found.rounds), caddtree.load_recipe(recipe, sections).to_mapping()]))
"""
REPORT = """
import sys
from pathlib import Path
from caddtree.experiments.experiment_files import load_experiment
from caddtree.experiments.sweep import run_sweep
from caddtree.reports import write_report

experiment = load_experiment(sys.argv[1])
run_sweep(experiment, Path("runs") / experiment.label)
for path in write_report(Path("runs") / experiment.label, Path("report"), formats=["latex"]):
    print(path.read_text())
"""
WITH_A_RECIPE = [kind for kind in KINDS if kind != "report_section"]
NO_MEASUREMENT = {
    "name": "analytic",
    "flops_per_second": 1e11,
    "bytes_per_second": 2e10,
    "overhead_seconds": 0.006,
    "draft_seconds": 0.002,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One package of every kind, by kind, and the folder where they are installed."""
    folder = tmp_path_factory.mktemp("written")
    projects = {}
    for kind in KINDS:
        scaffold = Scaffold(f"my-{kind.replace('_', '-')}", kind)
        projects[kind] = folder / scaffold.distribution
        write_plugin(scaffold, projects[kind], default_registry())
        install(projects[kind], folder / "site")
    return projects, folder / "site"


def test_the_kit_passes_what_is_written(written):
    """Every kind, in bare pytest, with the test that was written beside it."""
    projects, site = written
    options = ["--quiet", "-p", "no:cacheprovider", "-c", projects["drafter"] / "pyproject.toml", "--rootdir"]
    done = run("-m", "pytest", *options, site.parent, *projects.values(), folder=site.parent, sites=(site,))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    assert "warning" not in done.stdout


def decoded(written, kinds, **request):
    """Token ids, number of rounds and recipe of plain decoding, then of what was written for these kinds."""
    projects, site = written
    plans = [("demo-plain", {})]
    for kind in kinds:
        recipe = next(projects[kind].glob("*.yaml"))
        plans.append((str(recipe), {} if kind == "cost_model" else {"cost_model": NO_MEASUREMENT}))
    done = run("-c", DECODE, json.dumps(plans), json.dumps(request), folder=site.parent, sites=(site,))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_recipes_that_are_written_say_what_the_target_says(written):
    """In fewer rounds than plain decoding, each through its own strategy."""
    (plain, num_rounds, _), *found = decoded(written, WITH_A_RECIPE, max_new_tokens=64)

    for kind, (tokens, num_fewer, recipe) in zip(WITH_A_RECIPE, found, strict=True):
        assert tokens == plain
        assert num_fewer < num_rounds
        name = f"my-{kind.replace('_', '-')}"
        if kind in STAGES:
            assert recipe[kind]["name"] == name
        if kind == "observer":
            assert [observer["name"] for observer in recipe["observers"]] == [name]


def test_the_preprocessor_that_is_written_changes_its_recipe(written):
    """An answer is as long as its option says, unless the request says another length."""
    (whole, _, _), (tokens, _, recipe) = decoded(written, ["preprocessor"])

    assert recipe["generation"]["max_new_tokens"] == len(tokens) == 48
    assert tokens == whole[:48]


def test_the_experiment_that_is_written_has_the_section_in_its_report(written):
    """It takes seconds, because no tree builder of it needs a profile."""
    projects, site = written
    experiment = projects["report_section"] / "my-report-section.yaml"
    done = run("-c", REPORT, experiment, folder=projects["report_section"], sites=(site,))

    assert done.returncode == 0, done.stdout + done.stderr
    assert r"\caption{Tau.}" in done.stdout
    assert (projects["report_section"] / "runs" / "my-report-section").is_dir()


def test_what_is_written_is_linted_and_formatted(written):
    """By the rules that need no project, at the width of this one."""
    projects, _ = written
    rules = ["--isolated", "--no-cache", "--line-length", "120"]
    for project, command in itertools.product(projects.values(), LINTS):
        # within the project: what is whose import depends on the place
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *rules], cwd=project, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_an_author_writes_few_lines(written):
    """Module and test together, without blank lines, comments and documentation; the builder is the goal's."""
    projects, _ = written
    counts = {kind: sum(num_code_lines(path) for path in project.rglob("*.py")) for kind, project in projects.items()}

    assert max(counts[kind] for kind in ("tree_builder", *EXTENSIONS)) <= MOST_LINES, counts
    assert max(counts.values()) <= 2 * MOST_LINES


def test_every_file_is_returned_and_nothing_is_left_to_fill_in(tmp_path):
    """The folder holds what was returned; no name of a template stays."""
    folder = tmp_path / "new" / "package"
    files = write_plugin(Scaffold("wide_tree", "tree_builder"), folder, default_registry())

    assert sorted(files) == sorted(path for path in folder.rglob("*") if path.is_file())
    assert {path.relative_to(folder).as_posix() for path in files} == {
        "pyproject.toml", "README.md", "caddtree_wide_tree.py", "wide_tree.yaml", "tests/test_caddtree_wide_tree.py",
    }  # fmt: skip
    text = "".join(path.read_text() for path in files)
    assert "$" not in text
    assert "class WideTreeTreeBuilder:" in text
    assert 'wide_tree = "caddtree_wide_tree"' in text
    assert 'name = "caddtree-wide-tree"' in text


@pytest.mark.parametrize("name", ["", "9lives", "Wide", "a b", "a--b", "-a", "a-", "../a", "é", "a.b", "x" * 41, "a\n"])
def test_a_name_that_cannot_be_a_package_is_refused(tmp_path, name):
    """With the rule and what was found; nothing is written."""
    with pytest.raises(PluginError, match="must be at most 40 lower-case letters and digits") as caught:
        write_plugin(Scaffold(name, "drafter"), tmp_path / "new", default_registry())

    assert f"found {name!r}" in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["null", "true", "false"])
def test_a_name_that_a_recipe_reads_as_another_value_is_refused(tmp_path, name):
    """YAML's words are no names."""
    with pytest.raises(PluginError, match=f"'{name}' is no word in a recipe"):
        write_plugin(Scaffold(name, "drafter"), tmp_path / "new", default_registry())


def test_a_name_that_is_taken_is_refused(tmp_path):
    """By a strategy of the same kind, with its origin, or by an installed module; another kind takes nothing."""
    with pytest.raises(PluginError, match=r"tree_builder 'ddtree' is that of caddtree .*; choose another name"):
        write_plugin(Scaffold("ddtree", "tree_builder"), tmp_path / "new", default_registry())
    write_plugin(Scaffold("ddtree", "verifier"), tmp_path / "new", default_registry())


def test_a_module_that_is_installed_is_not_hidden(tmp_path, monkeypatch):
    """The name of its distribution would be taken."""
    (tmp_path / "caddtree_mine.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(PluginError, match="a module caddtree_mine is installed already; choose another name"):
        write_plugin(Scaffold("mine", "verifier"), tmp_path / "new", default_registry())


def test_nothing_is_overwritten(tmp_path):
    """A folder with anything in it is refused as it is; an empty one is used."""
    (tmp_path / "empty").mkdir()
    write_plugin(Scaffold("mine", "verifier"), tmp_path / "empty", default_registry())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    with pytest.raises(PluginError, match=r"empty is not empty, and nothing in it is overwritten; choose another"):
        write_plugin(Scaffold("mine", "drafter"), tmp_path / "empty", default_registry())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def num_code_lines(path: Path) -> int:
    """Lines of a module that hold code."""
    source = path.read_text()
    documentation = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documentation |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    with path.open() as lines:
        held = {token.start[0] for token in tokenize.generate_tokens(lines.readline) if token.type not in skipped}
    return len(held - documentation)
