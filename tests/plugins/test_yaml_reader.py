from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from caddtree.plugins import yaml_reader
from caddtree.plugins.nodes import MappingNode, Origin, ScalarNode, plain_value
from caddtree.plugins.yaml_reader import Document, plain_scalar, read_file, read_text


def read(text: str) -> Document:
    return read_text(text, Origin("f.yaml"))


def problems(text: str) -> list[str]:
    return [str(problem) for problem in read(text).problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16", 16),
        ("016", 16),
        ("-7", -7),
        ("+7", 7),
        ("0o16", 14),
        ("0x1F", 31),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5e+1", -5.0),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("y", "y"),
        ("tRUE", "tRUE"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("0o8", "0o8"),
        ("2026-01-02", "2026-01-02"),
        ("1e", "1e"),
        ("inf", "inf"),
        ("nan", "nan"),
        ("=", "="),
    ],
)
def test_plain_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    """Numbers, words and nothing of YAML 1.1's surprises; quoted, everything is a string."""
    node = read(f"a: {text}").root

    assert isinstance(node, MappingNode)
    found = plain_value(node)["a"]
    assert found == value
    assert type(found) is type(value)
    assert plain_value(read(f'a: "{text}"').root)["a"] == text  # type: ignore[arg-type]


def test_nan_is_a_float() -> None:
    """``.nan`` is the one spelling of it."""
    assert math.isnan(plain_scalar(".nan"))  # type: ignore[arg-type]


@given(st.integers(min_value=-(10**200), max_value=10**200))
def test_integers_read_back(number: int) -> None:
    """Every integer of a sane length is read as itself, with leading zeros too."""
    assert plain_scalar(str(number)) == number
    assert plain_scalar(f"00{abs(number)}") == abs(number)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_read_back(number: float) -> None:
    """Python's shortest spelling of a float is YAML's too."""
    found = plain_scalar(repr(number))

    assert type(found) is float
    assert found == number


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    """No text raises; what is not read says why."""
    document = read(text)

    assert (
        document.root is not None or document.problems or not text.strip() or text.lstrip().startswith(("#", "-", "."))
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """No file raises."""
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)

    assert isinstance(read_file(path), Document)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: found the key 'a' twice, first at line 1"),
        ("a: {b: 1, b: 2}", "f.yaml:1:11: found the key 'b' twice"),
        ("a: &x 1", "f.yaml:1:4: found the anchor 'x'"),
        ("a: *x", "f.yaml:1:4: found the alias 'x'"),
        ("<<: {a: 1}", "f.yaml:1:1: found the merge key <<"),
        ("a: !!python/object/apply:os.system [ls]", "f.yaml:1:4: found the tag"),
        ("a: !!str 1", "f.yaml:1:4: found the tag 'tag:yaml.org,2002:str'"),
        ("a: ! 1", "f.yaml:1:4: found the tag '!'"),
        ("a:\n\tb: 1", "f.yaml:2:1: found a tab in the indentation; indent with spaces"),
        (
            "a: [1, 2",
            "f.yaml:2:1: is not YAML: did not find expected ',' or ']' while parsing a flow sequence",
        ),
        ("a: {b: 1\nc: 2", "f.yaml:2:2: is not YAML"),
        ("a: b: c", "f.yaml:1:5: is not YAML: mapping values are not allowed"),
        ("a: 1\n---\na: 2", "f.yaml:2:1: found a second document"),
        ("%YAML 1.1\n---\na: 1", "f.yaml:1:1: found a % directive"),
        ("1: 2", "f.yaml:1:1: keys must be words, found '1'"),
        ("? [a, b]\n: 1", "f.yaml:1:3: keys must be words, found a list or a mapping"),
        ("a: 1e999", "f.yaml:1:4: found 1e999 is too large for a float"),
        (f"a: {'9' * 5000}", "f.yaml:1:4: found a number of 5000 characters"),
        ("a: \x00", "f.yaml:1:4: character '\\x00' is not allowed"),
        ("\ufeffa: 1\x07", "f.yaml:1:6: character '\\x07' is not allowed"),
    ],
)
def test_what_a_recipe_may_not_contain_is_refused_with_its_place(text: str, expected: str) -> None:
    """Each refusal says where and what."""
    found = problems(text)

    assert any(problem.startswith(expected) for problem in found), found


def test_every_problem_of_a_document_is_found_in_one_reading() -> None:
    """What does not break the syntax does not hide what follows."""
    found = problems("a: &x 1\nb: *x\na: 2\nc: !t 3\n<<: {}\n")

    assert [problem.split(":")[1] for problem in found] == ["1", "2", "3", "4", "5"]


def test_a_quoted_merge_key_is_an_ordinary_key() -> None:
    """Only the plain spelling means merging."""
    assert problems('"<<": 1') == []


def test_yaml_1_2_may_be_declared() -> None:
    """The directive of the version that is read is no problem."""
    assert problems("%YAML 1.2\n---\na: 1") == []


@pytest.mark.parametrize("unit", ["[", "{a: ", "- ", "? ", "[[{a: "])
def test_depth_is_bounded_before_anything_is_built(unit: str) -> None:
    """Thousands of levels cost nothing and never reach Python's recursion limit."""
    assert any("nested deeper than 32 levels" in problem for problem in problems(unit * 5000))


def test_the_number_of_values_is_bounded() -> None:
    """A file of many small values is refused, whatever its size."""
    assert any("more than 10000 values" in problem for problem in problems("a: [" + "1," * 20_000 + "]"))


def test_the_pure_python_parser_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML was built without libyaml, places and values are the same."""
    text = "a: {b: [1, 016, 1e-3], c: &x no}\nd: *x\na: 2\n"
    fast = read(text)
    monkeypatch.setattr(yaml_reader, "_LOADER", yaml.SafeLoader)

    assert read(text) == fast


def test_places_count_from_one_and_survive_nesting() -> None:
    """A value knows the line and column of its first character."""
    root = read("a: 1\nb:\n  - x\n  - {c: 'y'}\n").root

    assert isinstance(root, MappingNode)
    node = root.get("b").items[1].get("c")  # type: ignore[union-attr]
    assert isinstance(node, ScalarNode)
    assert (node.origin.line, node.origin.column, node.value) == (4, 9, "y")


def test_files_that_are_no_files_are_refused(tmp_path: Path) -> None:
    """A pipe is refused before it could block; so is a name that no file can have."""
    os.mkfifo(tmp_path / "pipe")

    assert "is no regular file" in str(read_file(tmp_path / "pipe").problems[0])
    assert "cannot be read" in str(read_file(Path("nul\0.yaml")).problems[0])
    assert "is no regular file" in str(read_file(Path("/dev/zero")).problems[0])
