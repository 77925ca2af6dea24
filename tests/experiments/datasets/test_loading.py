"""Prompts of a choice: local copies in every layout, order, cuts, turns, errors of rows."""

from __future__ import annotations

import json

import pytest

from caddtree.core.errors import InputError
from caddtree.experiments.datasets import DatasetChoice, load_prompts
from tests.experiments.datasets.layouts import COPIES, GRADE_SCHOOL, INSTRUCTIONS, MATH, TALKS, TASKS, write_rows


@pytest.fixture(autouse=True)
def no_copies(monkeypatch):
    monkeypatch.delenv("CADDTREE_DATASETS", raising=False)


def prompts_of(records):
    """Ids and turns of chats."""
    for record in records:
        assert [message["role"] for message in record.prompt] == ["user"]
    return [(record.id, (record.prompt[0]["content"], *record.later_turns)) for record in records]


def own_file(tmp_path, count):
    path = tmp_path / "own.jsonl"
    write_rows(path, [{"prompt": f"p{index}"} for index in range(count)])
    return str(path)


def asked(path, **options):
    return [record.prompt for record in load_prompts(DatasetChoice("own", path, **options))]


@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: f"{copy.name}-{next(iter(copy.files))}")
@pytest.mark.parametrize("given", ["folder", "variable", "file"])
def test_a_local_copy_in_an_original_layout_becomes_prompts(tmp_path, monkeypatch, copy, given):
    """As a folder, as a folder of the environment variable, or as its one file; nothing but the split is asked."""
    folder = copy.write(tmp_path / copy.name)
    path = None
    if given == "variable":
        monkeypatch.setenv("CADDTREE_DATASETS", str(tmp_path))
    elif given == "folder":
        path = str(folder)
    else:
        path = str(folder / next(iter(copy.files)))
    records = load_prompts(DatasetChoice(copy.name, path))

    assert {record.domain for record in records} == {copy.name}
    found = prompts_of(records)
    if given == "file":
        # one file of several, whose rows count from 1 again
        count = len(found)
        assert 0 < count <= len(copy.prompts)
        assert {turns for _, turns in found} <= {turns for _, turns in copy.prompts}
    else:
        assert found == copy.prompts


def test_a_path_beats_the_environment_variable(tmp_path, monkeypatch):
    """What the experiment says is nearer than what the machine says."""
    write_rows(tmp_path / "there" / "gsm8k" / "test.jsonl", GRADE_SCHOOL)
    write_rows(tmp_path / "here.jsonl", GRADE_SCHOOL[1:])
    monkeypatch.setenv("CADDTREE_DATASETS", str(tmp_path / "there"))

    assert len(load_prompts(DatasetChoice("gsm8k"))) == 2
    assert len(load_prompts(DatasetChoice("gsm8k", str(tmp_path / "here.jsonl")))) == 1


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    """As a shell would read it, in the choice and in the variable."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_rows(tmp_path / "copies" / "math500" / "test.jsonl", MATH)
    own_file(tmp_path, 1)

    assert asked("~/own.jsonl") == ["p0"]
    monkeypatch.setenv("CADDTREE_DATASETS", "~/copies")
    assert len(load_prompts(DatasetChoice("math500"))) == 2


def test_a_file_of_ones_own_keeps_its_label_as_domain(tmp_path):
    """Text, turns and messages alike, whatever domain the lines give."""
    path = tmp_path / "own.jsonl"
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    write_rows(path, [{"prompt": "a", "domain": "x"}, {"turns": ["b", "c"]}, {"messages": messages}])
    records = load_prompts(DatasetChoice.parse(str(path)))

    assert [record.domain for record in records] == ["own"] * 3
    assert [record.prompt for record in records] == ["a", [{"role": "user", "content": "b"}], messages]
    assert [record.later_turns for record in records] == [(), ("c",), ()]


def test_turns_cut_what_the_user_says_later(tmp_path):
    """One asks the first alone; more than there are asks all."""
    path = tmp_path / "question.jsonl"
    write_rows(path, [{"question_id": 81, "turns": TALKS[0]}])
    later = {
        turns: load_prompts(DatasetChoice("mt-bench", str(path), turns=turns))[0].later_turns
        for turns in (None, 1, 2, 9)
    }

    assert later == {None: ("Now a limerick.",), 1: (), 2: ("Now a limerick.",), 9: ("Now a limerick.",)}


def test_offset_and_limit_cut_the_order_of_the_file(tmp_path):
    """A limit beyond the end asks what there is."""
    path = own_file(tmp_path, 6)

    assert asked(path, limit=2) == ["p0", "p1"]
    assert asked(path, offset=3) == ["p3", "p4", "p5"]
    assert asked(path, offset=3, limit=2) == ["p3", "p4"]
    assert asked(path, offset=5, limit=9) == ["p5"]


def test_a_shuffle_is_a_permutation_fixed_by_its_seed(tmp_path):
    """The cuts are cuts of one order, so that two of them never share a prompt."""
    path = own_file(tmp_path, 40)
    whole = asked(path, shuffle_seed=3)

    assert sorted(whole) == sorted(asked(path))
    assert whole != asked(path)
    assert whole == asked(path, shuffle_seed=3)
    assert whole != asked(path, shuffle_seed=4)
    assert asked(path, shuffle_seed=3, limit=8) + asked(path, shuffle_seed=3, offset=8) == whole


def test_a_shuffle_is_the_same_on_every_machine(tmp_path):
    """By numbers that Python promises for a seed: 0.844, 0.758, 0.421, 0.259, 0.511 for seed 0."""
    assert asked(own_file(tmp_path, 5), shuffle_seed=0) == ["p3", "p2", "p4", "p1", "p0"]


def test_nothing_behind_the_last_prompt_is_read(tmp_path):
    """A damaged line is met only when a prompt behind it is wanted, in a file of one's own and in a data set."""
    own, copy = tmp_path / "own.jsonl", tmp_path / "copy.jsonl"
    own.write_text('{"prompt": "a"}\n{broken\n')
    copy.write_text(json.dumps(GRADE_SCHOOL[0]) + "\n{broken\n")

    for choice in (DatasetChoice("own", str(own), limit=1), DatasetChoice("gsm8k", str(copy), limit=1)):
        assert len(load_prompts(choice)) == 1
    for choice in (
        DatasetChoice("own", str(own), limit=2),
        DatasetChoice("gsm8k", str(copy), limit=1, shuffle_seed=0),
        DatasetChoice("gsm8k", str(copy), offset=1),
    ):
        with pytest.raises(InputError, match=r".jsonl:2:2: not JSON"):
            load_prompts(choice)


def test_no_prompt_left_is_an_error(tmp_path):
    """An offset behind the end, an empty file, a file that holds another split."""
    own = own_file(tmp_path, 2)
    (tmp_path / "empty.jsonl").write_text("\n")
    write_rows(tmp_path / "train.json", [{**TASKS[0], "task_id": 601}])

    with pytest.raises(InputError, match=r"^own \(.*own.jsonl\): no prompt behind offset 2$"):
        load_prompts(DatasetChoice("own", own, offset=2))
    with pytest.raises(InputError, match=r"^own \(.*empty.jsonl\): no prompts$"):
        load_prompts(DatasetChoice("own", str(tmp_path / "empty.jsonl")))
    with pytest.raises(InputError, match=r"^mbpp \(.*train.json\): no prompts$"):
        load_prompts(DatasetChoice("mbpp", str(tmp_path / "train.json")))
    with pytest.raises(InputError, match=r"^code: no prompt behind offset 99$"):
        load_prompts(DatasetChoice("code", offset=99))


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.json", "rows.parquet"])
def test_a_missing_column_is_one_error_with_what_was_found_and_wanted(tmp_path, file):
    """A prompt file under the name of a data set, or another data set."""
    path = tmp_path / file
    write_rows(path, [{"turns": ["a"], "answer": "b"}])
    place = {"rows.jsonl": ":1", "rows.json": ", entry 1", "rows.parquet": ", row 1"}[file]

    with pytest.raises(InputError, match=rf"^{path}{place}: gsm8k needs a column question, found answer, turns\. Give"):
        load_prompts(DatasetChoice("gsm8k", str(path)))
    with pytest.raises(InputError, match=r"needs a column prompt or text, found answer, turns"):
        load_prompts(DatasetChoice("mbpp", str(path)))


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", {"question": None}, r":1: question must be a text that is not empty, found None"),
        ("gsm8k", {"question": ["a"]}, r":1: question must be a text that is not empty, found \['a'\]"),
        ("gsm8k", {"question": ""}, r":1: question must be a text that is not empty, found ''"),
        ("mt-bench", {"turns": []}, r":1: turns must be a list of texts, none of them empty, found \[\]"),
        ("mt-bench", {"turns": ["a", ""]}, r":1: turns must be a list of texts"),
        ("mt-bench", {"prompt": "a"}, r":1: prompt must be a list of texts"),
        ("alpaca", {"instruction": "a"}, r":1: alpaca needs a column input, found instruction"),
        ("alpaca", {"instruction": "a", "input": 3}, r":1: input must be a text, found 3"),
    ],
)
def test_a_wrong_row_names_its_place(tmp_path, name, row, message):
    """What it should hold and what it holds."""
    path = tmp_path / "rows.jsonl"
    write_rows(path, [row])

    with pytest.raises(InputError, match=message):
        load_prompts(DatasetChoice(name, str(path)))


def test_an_input_that_is_null_is_none(tmp_path):
    """Some copies write what has no input as null."""
    path = tmp_path / "alpaca_data.json"
    write_rows(path, [{**INSTRUCTIONS[0], "input": None}])

    assert prompts_of(load_prompts(DatasetChoice("alpaca", str(path)))) == [("1", ("Name three birds.",))]


def test_an_id_that_stands_twice_is_one_error_with_both_places(tmp_path):
    """Results are kept by data set and id."""
    for index, file in enumerate(("test.jsonl", "test2.jsonl")):
        row = {"question_id": "same", "question_content": f"q{index}", "starter_code": ""}
        write_rows(tmp_path / file, [row])

    with pytest.raises(InputError, match=r"test2.jsonl:1: the id 'same' is taken by .*test.jsonl:1\."):
        load_prompts(DatasetChoice("livecodebench", str(tmp_path)))
