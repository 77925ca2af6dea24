"""The choice of a data set as a value: what is accepted, what is refused and in which words."""

from __future__ import annotations

import attrs
import pytest

from caddtree.core.errors import InputError
from caddtree.experiments.datasets import DatasetChoice, known_datasets
from caddtree.plugins.nodes import Origin, node_from_python
from caddtree.plugins.options import check_options, constructor_arguments, options_of


@pytest.mark.parametrize("name", [info.name for info in known_datasets()])
def test_every_known_name_is_a_choice(name):
    """With nothing else; a bare string says the same."""
    assert DatasetChoice.parse(name) == DatasetChoice(name) == DatasetChoice(name, None, None, 0, None, None)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("mine.jsonl", "mine"),
        ("some/where/My prompts.JSONL.gz", "My prompts"),
        ("./gsm8k.v2.jsonl", "gsm8k.v2"),
        ("copies/gsm8k", "gsm8k"),
    ],
)
def test_a_path_is_labelled_by_the_stem_of_its_file(text, label):
    """A file of prompts, or the folder of a local copy."""
    assert DatasetChoice.parse(text) == DatasetChoice(label, path=text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": 3}, r"^name must be a text, found 3"),
        ({"name": ""}, r"^name must be a word or a few, .* found ''"),
        ({"name": "a/b.jsonl"}, r"^name must be a word or a few, without slashes.* A file goes into path"),
        ({"name": "a\nb", "path": "c"}, r"^name must be a word or a few, .* found 'a\\nb'"),
        (
            {"name": "gms8k"},
            r"^name must be a known data set, .* found 'gms8k'; did you mean gsm8k\? allowed: aime25, ",
        ),
        ({"name": "MATH-500"}, r"found 'MATH-500'; did you mean math500\?"),
        ({"name": "x" * 9999}, r"^name must be a known data set, .{200,400}$"),
        ({"name": "mine", "path": 3}, r"^path must be a text, found 3"),
        ({"name": "mine", "path": ""}, r"^path must name a file or folder, found ''"),
        ({"name": "code", "limit": "4"}, r"^limit must be an integer, found '4'"),
        ({"name": "code", "limit": True}, r"^limit must be an integer, found True"),
        ({"name": "code", "limit": 0}, r"^limit must be at least 1, found 0\. Leave it out to ask every prompt"),
        ({"name": "code", "offset": None}, r"^offset must be an integer, found None"),
        ({"name": "code", "offset": -1}, r"^offset must be at least 0, found -1"),
        ({"name": "code", "turns": 1.0}, r"^turns must be an integer, found 1.0"),
        ({"name": "code", "turns": 0}, r"^turns must be at least 1, found 0"),
        ({"name": "code", "shuffle_seed": "a"}, r"^shuffle_seed must be an integer, found 'a'"),
        ({"name": "code", "shuffle_seed": -1}, r"^shuffle_seed must be at least 0, found -1"),
    ],
)
def test_a_wrong_option_is_refused_with_what_was_found(options, message):
    """Type before range; unknown names list the known ones and the nearest."""
    with pytest.raises(InputError, match=message):
        DatasetChoice(**options)


@pytest.mark.parametrize("text", [None, 3, ["code"], "", ".jsonl", "unknown", "/"])
def test_what_is_neither_a_name_nor_a_path_is_refused(text):
    """As an input error, whatever it is."""
    with pytest.raises(InputError, match=r"^(name must be|a data set is a name or the path of a JSONL file, found)"):
        DatasetChoice.parse(text)


def test_the_options_of_a_file_are_the_fields_of_the_class():
    """All at once, with the place of each, as a recipe's options are checked."""
    wrong = {"name": "gms8k", "limit": 0, "offset": True, "seed": 1}
    problems = []
    check_options(
        options_of(DatasetChoice), node_from_python(wrong, Origin("f"), []), "datasets", "a data set", problems
    )

    assert [problem.path for problem in problems] == [
        "datasets.seed", "datasets.offset", "datasets.name", "datasets.limit",
    ]  # fmt: skip

    right = {"name": "mine", "path": "./mine.jsonl", "limit": 4, "shuffle_seed": 0}
    problems = []
    node = node_from_python(right, Origin("f"), [])
    values = check_options(options_of(DatasetChoice), node, "datasets", "a data set", problems)
    choice = DatasetChoice(**constructor_arguments(DatasetChoice, values))

    assert not problems
    assert attrs.evolve(choice, path="./mine.jsonl") == DatasetChoice(**right)
    assert choice.path.startswith("/")


def test_every_option_is_documented():
    """The words that help and tables show."""
    assert all(option.doc for option in options_of(DatasetChoice))
