"""``profile`` on a tiny pair: a table, a kept file, a copy, JSON."""

from __future__ import annotations

import json

import pytest

from caddtree.core.profile import read_profile
from caddtree.profiling import store
from caddtree.profiling.measure import measure_profile
from tests.cli.runner import caddtree, lines


@pytest.fixture(scope="module")
def adaptive(recipe):
    """The recipe of a tiny pair with the adaptive builder over measured rounds."""
    path = recipe.with_name("adaptive.yaml")
    path.write_text(
        "extends: ./recipe.yaml\ntree_builder: {name: caddtree, max_node_budget: 4}\ncost_model: {name: table}\n"
    )
    return path


@pytest.fixture(autouse=True)
def measured(tmp_path, monkeypatch):
    """A cache folder of its own, and a few rounds per size; returns what was asked for."""
    asked = []

    def quick(decoder, key, *, max_count):
        asked.append(max_count)
        return measure_profile(decoder, key, max_count=8, contexts=(16, 48), repeats=1)

    monkeypatch.setenv("CADDTREE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "measure_profile", quick)
    return asked


def test_a_profile_is_measured_shown_and_kept(adaptive, tmp_path, measured):
    """One row per size, one column per context; the last line is the path of the file; a second run measures anew."""
    found = caddtree("profile", "--recipe", adaptive)
    kept = read_profile(next((tmp_path / "cache" / "profiles").iterdir()))
    rows = [line.strip("│┃ ").split("│") for line in lines(found.stdout) if line.startswith("│")]

    assert found.exit_code == 0
    assert lines(found.stdout)[-1] == f"kept in {next((tmp_path / 'cache' / 'profiles').iterdir())}"
    assert [int(row[0]) for row in rows] == list(kept.counts)
    assert (kept.counts[0], kept.counts[-1]) == (0, 8)
    assert all(f"context {context}" in found.stdout for context in (16, 48))
    for column, row in enumerate(rows):
        whole = [1e3 * (kept.draft_seconds[i] + kept.after_seconds[i, column]) for i in range(2)]
        assert [float(cell) for cell in row[1:]] == pytest.approx(whole, abs=0.006)
    caddtree("profile", "--recipe", adaptive)
    assert measured == [256, 256]


def test_the_budget_of_the_recipe_is_reached(adaptive, measured):
    """A larger budget is measured as far as it goes."""
    caddtree("profile", "--recipe", adaptive, "--set", "tree_builder.max_node_budget=400")

    assert measured == [400]


def test_json_and_the_copy_are_the_kept_profile(adaptive, tmp_path):
    """-o writes what --json prints, into folders that are made; nothing partial stays."""
    copy = tmp_path / "new" / "profile.json"
    found = caddtree("profile", "--recipe", adaptive, "--json", "-o", copy)
    (kept,) = (tmp_path / "cache" / "profiles").iterdir()

    assert found.exit_code == 0
    assert json.loads(found.stdout) == json.loads(copy.read_text()) == json.loads(kept.read_text())
    assert list(copy.parent.iterdir()) == [copy]


def test_a_copy_serves_as_the_path_of_a_cost_model(adaptive, tmp_path, measured):
    """``profile -o`` here, ``cost_model.path`` there: no rounds are measured again."""
    copy = tmp_path / "profile.json"
    caddtree("profile", "--recipe", adaptive, "-o", copy)
    found = caddtree("generate", "the cat", "--recipe", adaptive, "--set", f"cost_model.path={copy}", "--json")

    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["rounds"][0]["predicted_seconds"] > 0
    assert len(measured) == 1


def test_a_copy_that_cannot_be_written_is_one_line_and_exit_code_2(adaptive, tmp_path):
    """A file where a folder should be: refused before a round is measured."""
    (tmp_path / "file").write_text("")
    found = caddtree("profile", "--recipe", adaptive, "-o", tmp_path / "file" / "profile.json")
    (error,) = [line for line in lines(found.stderr) if line.startswith("error: ")]

    assert found.exit_code == 2
    assert str(tmp_path / "file") in error
    assert lines(found.stderr)[-1] == error
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "cache").exists()


def test_a_folder_is_no_place_for_a_copy(adaptive, tmp_path):
    """Refused in one line, before a round is measured."""
    (tmp_path / "folder").mkdir()
    found = caddtree("profile", "--recipe", adaptive, "-o", tmp_path / "folder")

    assert found.exit_code == 2
    assert "Is a directory" in lines(found.stderr)[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"folder"}


def test_a_cache_folder_that_cannot_be_written_is_a_warning(adaptive, tmp_path, monkeypatch):
    """The figures are shown; what cannot be kept is said."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CADDTREE_CACHE_DIR", str(tmp_path / "file"))
    found = caddtree("profile", "--recipe", adaptive)

    assert found.exit_code == 0
    assert "could not be kept" in found.stderr
    assert "draft nodes" in found.stdout
    assert "kept in" not in found.stdout
