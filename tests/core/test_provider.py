"""Which plugin a component comes from: found from its module, and not guessed."""

from __future__ import annotations

import pytest

from caddtree.core.provider import named, provider_of
from caddtree.tree_builders.ddtree import DDTree


@pytest.fixture
def install(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, entry_points, record=()):
        info = tmp_path / f"{name.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        lines = [f"entry{index} = {value}" for index, value in enumerate(entry_points)]
        (info / "entry_points.txt").write_bytes("\n".join(["[caddtree]", *lines]).encode("latin-1"))
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in record))
        for path in record:
            # from Python 3.12 on what is listed but not there is left out
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).touch()

    return write


def component(module):
    return type("Part", (), {"__module__": module})()


def test_a_class_belongs_to_the_distribution_whose_entry_point_names_its_package(install):
    """Wherever in the package it lives, also where the installation is editable and lists no modules."""
    install("random-trees", ["random_trees.hooks:plugin"])

    assert provider_of(component("random_trees.parts.tree")) == "random-trees 1.5"
    assert named(component("random_trees")) == "Part (random-trees 1.5)"


def test_a_second_package_of_a_distribution_belongs_to_it_too(install):
    """Where the installer listed its files."""
    install("random-trees", ["random_hooks"], ["random_hooks.py", "random_parts/__init__.py", "random_parts/tree.py"])

    assert provider_of(component("random_parts.tree")) == "random-trees 1.5"


def test_in_a_namespace_the_longer_path_decides_and_a_tie_names_nobody(install):
    """A wrong name would be worse than none."""
    install("acme-trees", ["acme.trees"])
    install("acme-costs", ["acme.costs"])

    assert provider_of(component("acme.trees.random")) == "acme-trees 1.5"
    assert provider_of(component("acme.costs")) == "acme-costs 1.5"
    assert provider_of(component("acme.common")) == ""


def test_what_no_plugin_holds_is_called_by_its_class_alone(install):
    """Strategies of caddtree, classes of a script, models of Transformers."""
    install("random-trees", ["random_trees"])

    assert named(DDTree(node_budget=4)) == "DDTree"
    assert provider_of(component("__main__")) == ""
    assert provider_of(component("transformers.models.qwen3")) == ""
    assert provider_of(component("random_trees_of_another")) == ""


def test_metadata_that_cannot_be_read_hides_no_other(install):
    """The error that is being made is worth more than the name of a plugin."""
    install("random-trees", ["random_trees"])
    install("garbled", ["x = \xff\xfe"])

    assert provider_of(component("random_trees")) == "random-trees 1.5"
