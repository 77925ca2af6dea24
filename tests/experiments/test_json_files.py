"""JSON files of data: what ends a line, what is compressed, and errors that name the place."""

from __future__ import annotations

import gzip

import pytest

from caddtree.core.errors import InputError
from caddtree.experiments.json_files import holds_a_list, json_lines, json_list


def write(tmp_path, content, name="f.jsonl"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_only_a_newline_ends_a_line(tmp_path):
    """What Unicode calls a line separator stays part of a JSON string; a carriage return is blank."""
    path = write(tmp_path, '{"a": "a\u2028b\u2029c\x85d"}\r\n\n{"b": 1}')

    assert list(json_lines(path)) == [(1, {"a": "a\u2028b\u2029c\x85d"}), (3, {"b": 1})]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_and_gzip_make_no_difference(tmp_path, packed, mark):
    """Told by the first bytes, whatever the file is called."""
    lines, entries = mark + b'{"a": 1}\n{"a": 2}\n', mark + b' [{"a": 1}, {"a": 2}]'
    if packed:
        lines, entries = gzip.compress(lines), gzip.compress(entries)

    assert list(json_lines(write(tmp_path, lines))) == [(1, {"a": 1}), (2, {"a": 2})]
    assert list(json_list(write(tmp_path, entries))) == [(1, {"a": 1}), (2, {"a": 2})]
    assert holds_a_list(write(tmp_path, entries))
    assert not holds_a_list(write(tmp_path, lines))


def test_lines_are_read_as_they_are_asked_for(tmp_path):
    """A damaged line behind the last one that is wanted is not looked at."""
    lines = json_lines(write(tmp_path, '{"a": 1}\n{"a": 2}\n{broken'))

    assert [next(lines)[1]["a"], next(lines)[1]["a"]] == [1, 2]
    with pytest.raises(InputError, match=r"f.jsonl:3:2: not JSON"):
        next(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \xff}\n', r"f.jsonl:2: not UTF-8 text \(byte 7: .*\)\. Save it as UTF-8"),
        ('{"a": 1}'.encode("utf-16"), r"f.jsonl:1: not UTF-8 text"),
        (b'{"a": 1}\n[1]\n', r"f.jsonl:2: a line must be a JSON object, found list"),
        (b'{"a": 1} {"a": 2}\n', r"f.jsonl:1:10: not JSON: Extra data"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", r"f.jsonl:1: JSON that cannot be read"),
        (b'{"a": ' + b"[" * 200_000 + b"\n", r"f.jsonl:1: JSON that cannot be read"),
        (gzip.compress(b'{"a": 1}\n' * 99)[:-12], r"f.jsonl: cannot read the prompts"),
        (gzip.compress(b'{"a": 1}\n')[:12] + b"damaged", r"f.jsonl: cannot read the prompts"),
    ],
    ids=["bytes", "utf-16", "list", "two objects", "long number", "deep", "cut short", "damaged"],
)
def test_damaged_lines_name_file_and_line(tmp_path, content, message):
    """One clear error."""
    with pytest.raises(InputError, match=message):
        list(json_lines(write(tmp_path, content)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", r"f.json, entry 1: an entry must be a JSON object, found int"),
        (b'[{"a": 1},\n {"a" 2}]', r"f.json:2:7: not JSON"),
        (b'{"a": 1}', r"f.json: must be a JSON list of objects, found dict"),
        (b"[\xff]", r"f.json: not UTF-8 text"),
    ],
)
def test_damaged_lists_name_file_and_place(tmp_path, content, message):
    """One clear error."""
    with pytest.raises(InputError, match=message):
        list(json_list(write(tmp_path, content, "f.json")))


def test_a_folder_or_nothing_cannot_be_read(tmp_path):
    """The error names the path."""
    for path in (tmp_path, tmp_path / "missing.jsonl"):
        with pytest.raises(InputError, match=f"{path}: cannot read the prompts"):
            list(json_lines(path))
