"""Prompt files: the three forms of a prompt, later turns, ids, errors with file and line."""

from __future__ import annotations

import gzip

import pytest

from caddtree.core.errors import InputError
from caddtree.experiments.prompts import PromptRecord, iter_prompts, read_prompts


def write(tmp_path, text):
    path = tmp_path / "f.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"}\n{broken\n', r"f.jsonl:2:2: not JSON"),
        ("[1]\n", r"f.jsonl:1: a line must be a JSON object, found list"),
        ('{"prompt": ""}\n', r"f.jsonl:1: needs 'prompt'"),
        ('{"turns": []}\n', r"f.jsonl:1: needs"),
        ('{"turns": ["a", ""]}\n', r"f.jsonl:1: needs"),
        ('{"turns": ["a", 1]}\n', r"f.jsonl:1: needs"),
        ('{"prompt": "a", "id": ["b"]}\n', r"f.jsonl:1: id must be a text or a number, found \['b'\]"),
        ('{"prompt": "a", "id": ""}\n', r"f.jsonl:1: id must be a text or a number, found ''"),
        ('{"prompt": "a", "id": true}\n', r"f.jsonl:1: id must be a text or a number, found True"),
        ("\n\n", "f.jsonl: no prompts"),
    ],
)
def test_wrong_prompt_files_name_file_and_line(tmp_path, content, message):
    """One clear error."""
    with pytest.raises(InputError, match=message):
        read_prompts(write(tmp_path, content))
    with pytest.raises(InputError, match="cannot read"):
        read_prompts(tmp_path / "missing.jsonl")


def test_the_three_forms_of_a_prompt(tmp_path):
    """Text, turns of a user, whole messages; the limit cuts."""
    path = write(
        tmp_path,
        '{"prompt": "a", "id": 7, "domain": "d"}\n{"turns": ["b", "c", "d"]}\n'
        '{"messages": [{"role": "user", "content": "e"}], "id": null}\n',
    )
    records = read_prompts(path)

    assert records[0] == PromptRecord("7", "d", "a")
    assert records[1] == PromptRecord("2", "", [{"role": "user", "content": "b"}], ("c", "d"))
    assert records[2] == PromptRecord("3", "", [{"role": "user", "content": "e"}])
    assert read_prompts(path, limit=1) == records[:1]
    assert list(iter_prompts(path)) == records


def test_a_line_separator_inside_a_prompt_is_part_of_it(tmp_path):
    """Files that other programs write without escapes keep their lines and their numbers."""
    records = read_prompts(write(tmp_path, '{"prompt": "a\u2028b"}\n{"prompt": "c"}\n'))

    assert [(record.id, record.prompt) for record in records] == [("1", "a\u2028b"), ("2", "c")]


def test_a_compressed_file_with_a_byte_order_mark_is_read(tmp_path):
    """As other programs export it."""
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"prompt": "a"}\n'))

    assert read_prompts(path) == [PromptRecord("1", "", "a")]


@pytest.mark.parametrize(
    ("first", "second"),
    [('"id": "x", ', '"id": "x", '), ('"id": 7, ', '"id": "7", '), ('"id": "3", ', "")],
)
def test_an_id_that_stands_twice_is_one_error_with_both_lines(tmp_path, first, second):
    """Given twice, once as a number, or once given and once the number of a line."""
    path = write(tmp_path, f'{{{first}"prompt": "a"}}\n\n{{{second}"prompt": "b"}}\n')

    with pytest.raises(InputError, match=rf"^{path}:3: the id '.' is taken by {path}:1\. Give every prompt"):
        read_prompts(path, limit=1)
