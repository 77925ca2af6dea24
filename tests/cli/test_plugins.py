"""``plugins``: what is installed, where it comes from, and what was refused."""

from __future__ import annotations

import json

import pytest

from caddtree.core.errors import PluginError
from caddtree.plugins import registry as registry_module
from caddtree.plugins.hooks import KINDS
from caddtree.plugins.recipe import shipped_recipes
from caddtree.plugins.registry import Provider, Registry, default_registry
from tests.cli.runner import caddtree
from tests.plugins.fakes import Line, plugin


def test_plugins_lists_every_strategy_with_options_and_defaults():
    """--json holds what the registry knows, defaults as values."""
    listed = json.loads(caddtree("plugins", "--json").stdout)
    found = {(entry["kind"], entry["name"]): entry for entry in listed["strategies"]}

    assert {
        ("drafter", "dflash"), ("drafter", "ngram"), ("drafter", "none"),
        ("tree_builder", "caddtree"), ("tree_builder", "chain"), ("tree_builder", "ddtree"),
        ("cost_model", "analytic"), ("cost_model", "convex"), ("cost_model", "table"),
        ("verifier", "sdpa"),
    } <= set(found)  # fmt: skip
    for info in default_registry().describe():
        entry = found[info.kind, info.name]
        assert entry["summary"]
        assert [option["name"] for option in entry["options"]] == [option.name for option in info.options]
        for option, known in zip(entry["options"], info.options, strict=True):
            assert option["required"] == known.is_required
            assert option["default"] == (None if known.is_required else known.default)
            assert option["doc"]
            assert option["type"]
    assert listed["broken"] == []
    assert listed["recipes"] == list(shipped_recipes())


def rows_of(shown):
    """Kind, name, options and summary of every row, without the spaces that wrapping moves."""
    rows = []
    for line in shown.splitlines():
        cells = ["".join(cell.split()) for cell in line.strip("│").split("│")]
        if not line.startswith("│"):
            continue
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [above + below for above, below in zip(rows[-1], cells, strict=True)]
    return rows


def test_plugins_prints_the_same_as_a_table():
    """Names, options with type and default, summaries, in a width that a file can take."""
    shown = caddtree("plugins").stdout
    expected = []
    for info in default_registry().describe():
        options = [
            f"{option.name}: {option.type_text} {'required' if option.is_required else f'= {option.default!r}'}"
            for option in info.options
        ]
        expected.append(["".join(cell.split()) for cell in (info.kind, info.name, "".join(options), info.doc)])

    assert rows_of(shown) == expected
    assert max(map(len, shown.splitlines()[:-1])) <= 120
    assert shown.splitlines()[-1] == f"recipes: {', '.join(shipped_recipes())}"


def test_plugins_names_a_broken_one_and_its_reason(monkeypatch):
    """Listed in both forms, and the sound ones stay."""
    broken = Registry()
    broken.load_built_in()
    broken._stage(lambda: object(), Provider("somebody", "1.2", "some_plugin"))
    monkeypatch.setattr(registry_module, "default_registry", lambda: broken)
    listed = json.loads(caddtree("plugins", "--json").stdout)
    shown = caddtree("plugins")

    assert [entry["plugin"] for entry in listed["broken"]] == ["somebody 1.2"]
    assert "implements no hook" in listed["broken"][0]["reason"]
    assert "broken: somebody 1.2: implements no hook" in shown.stdout
    assert shown.exit_code == 0
    assert {"ddtree", "dflash"} <= {entry["name"] for entry in listed["strategies"]}


def test_kinds_and_names_choose_what_is_listed():
    """A kind stands for all of it; several are put together, in the order of the pipeline."""
    listed = json.loads(caddtree("plugins", "verifier", "chain", "--json").stdout)["strategies"]

    assert [(entry["kind"], entry["name"]) for entry in listed] == [
        ("tree_builder", "chain"),
        *(("verifier", name) for name in default_registry().names("verifier")),
    ]


def test_a_name_that_is_not_installed_is_answered_with_the_nearest():
    """One line, exit code 2."""
    found = caddtree("plugins", "ngrm")

    assert found.exit_code == 2
    assert found.stderr.startswith(
        "error: 'ngrm' is no strategy, extension, kind or plugin; did you mean ngram? allowed: "
    )


def test_verbose_fits_a_page_and_says_everything():
    """Every strategy with origin, hook and class; every option with type, default and documentation."""
    shown = caddtree("plugins", "--verbose").stdout
    words = " ".join(shown.split())

    assert max(len(line) for line in shown.splitlines() if not line.startswith(("    file ", "recipes:"))) <= 100
    for info in default_registry().describe():
        assert f"\n{info.kind} {info.name}\n" in f"\n{shown}"
        assert f"from {info.provider}, built in hook {info.hook} class {info.class_path} " in words
        for option in info.options:
            default = "required" if option.is_required else f"= {option.default!r}"
            assert " ".join(f"{option.name}: {option.type_text} {default} {option.doc}".split()) in words


def test_asking_for_what_was_refused_says_why(monkeypatch):
    """By the name of the strategy, the package or the plugin; any other name is told that something was refused."""
    broken = Registry()
    broken.load_built_in()
    with pytest.raises(PluginError):
        broken.load_plugin(plugin(verifier={"mine": dict}), Provider("somebody", "1.2", "some_plugin"))
    monkeypatch.setattr(registry_module, "default_registry", lambda: broken)

    for name in ("mine", "somebody", "some_plugin"):
        shown = caddtree("plugins", name, "--verbose").stdout
        assert shown.startswith(f"nothing of {name} can be used\nbroken: somebody 1.2, plugin some_plugin: hook")
        assert "verifier 'mine' must be an attrs class" in shown
        assert "(offered verifier mine)" in shown
    assert "; plugins that cannot be used: 1, see caddtree plugins" in caddtree("plugins", "yours").stderr


def test_a_plugin_that_failed_before_it_registered_anything_is_found_by_its_entry_point(monkeypatch):
    """``plugins new even`` calls the entry point so, and nothing else of it is known when its module is broken."""

    def load():
        raise ModuleNotFoundError("No module named 'heapqq'", name="heapqq")

    broken = Registry()
    broken.load_built_in()
    broken._stage(load, Provider("caddtree-even", "0.1.0", "even"))
    monkeypatch.setattr(registry_module, "default_registry", lambda: broken)
    shown = caddtree("plugins", "list", "even", "--verbose")

    assert shown.exit_code == 0
    assert shown.stdout.startswith(
        "nothing of even can be used\nbroken: caddtree-even 0.1.0, plugin even: ModuleNotFound"
    )


def test_a_plugin_is_found_by_its_entry_point(monkeypatch):
    """With everything that it brings, whatever that is called; of caddtree itself the modules are no words."""
    known = Registry()
    known.load_built_in()
    known.load_plugin(plugin(tree_builder={"mine": Line}), Provider("somebody", "1.2", "entry"))
    monkeypatch.setattr(registry_module, "default_registry", lambda: known)
    found = json.loads(caddtree("plugins", "entry", "--json").stdout)["strategies"]

    assert {entry["distribution"] for entry in found} == {"somebody"}
    assert caddtree("plugins", "caddtree.drafters.dflash").exit_code == 2


def test_a_new_plugin_is_written_and_the_next_commands_are_printed(tmp_path, monkeypatch):
    """In caddtree-NAME unless another folder is named; JSON holds the same."""
    monkeypatch.chdir(tmp_path)
    shown = caddtree("plugins", "new", "wide-tree", "--kind", "tree_builder")
    listed = caddtree("plugins", "new", "deep", "--kind", "drafter", "--folder", "my place", "--json")

    assert shown.exit_code == 0
    written, own, *commands = shown.stdout.splitlines()
    assert written.endswith("in caddtree-wide-tree")
    assert own == "your own code goes into caddtree_wide_tree.py; next:"
    assert [line.strip() for line in commands] == [
        "cd caddtree-wide-tree",
        "python -m pip install --editable '.[test]'",
        "python -m pytest",
        "caddtree plugins list wide-tree",
        'caddtree generate "def main(" --recipe wide-tree.yaml',
    ]
    assert (tmp_path / "caddtree-wide-tree" / "caddtree_wide_tree.py").is_file()
    record = json.loads(listed.stdout)
    assert record["commands"][0] == "cd 'my place'"
    assert all((tmp_path / path).is_file() for path in record["files"])
    assert "my place/caddtree_deep.py" in record["files"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_started(tmp_path, monkeypatch, kind):
    """A section of a report comes with an experiment, and the commands that run and report it."""
    monkeypatch.chdir(tmp_path)
    shown = caddtree("plugins", "new", "mine", "--kind", kind)
    use = (
        ["caddtree sweep mine.yaml", "caddtree report runs/mine"]
        if kind == "report_section"
        else ['caddtree generate "def main(" --recipe mine.yaml']
    )

    assert shown.exit_code == 0
    assert [line.strip() for line in shown.stdout.splitlines()][5:] == ["caddtree plugins list mine", *use]


def test_a_plugin_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    """A name that is taken, a folder in use, a file in its place, a kind that does not exist."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert caddtree("plugins", "new", "mine", "--kind", "verifier").exit_code == 0

    for arguments, message in (
        (("ddtree", "--kind", "tree_builder"), "error: tree_builder 'ddtree' is that of caddtree"),
        (("mine", "--kind", "verifier"), "error: the folder caddtree-mine is not empty, and nothing in it is"),
        (("mine", "--kind", "verifier", "--folder", "file"), "error: the folder file is a file; choose another"),
        (("Mine", "--kind", "verifier"), "error: the name of a plugin must be at most 40 lower-case letters"),
    ):
        refused = caddtree("plugins", "new", *arguments)
        assert refused.exit_code == 2
        assert refused.stderr.startswith(message)
        assert len(refused.stderr.splitlines()) == 1
    wrong_kind = caddtree("plugins", "new", "mine", "--kind", "tree")
    assert wrong_kind.exit_code == 2
    assert "tree_builder" in wrong_kind.stderr


def test_list_is_what_plugins_does_without_a_subcommand():
    """With options, with names, and for a strategy that is called as a subcommand is."""
    assert caddtree("plugins", "--json").stdout == caddtree("plugins", "list", "--json").stdout
    assert caddtree("plugins", "ddtree", "-v").stdout == caddtree("plugins", "list", "ddtree", "-v").stdout
    assert "'new' is no strategy, extension, kind or plugin" in caddtree("plugins", "list", "new").stderr
