"""Tiny copies of the data sets with contents of our own, in every layout that they are handed out in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pyarrow
from pyarrow import parquet

BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows in the format that the file's name tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
        return
    is_list = ".jsonl" not in path.name
    text = json.dumps(list(rows), indent=1) if is_list else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@attrs.frozen
class Copy:
    """A local copy: its files, and the ids and turns that they should become."""

    name: str
    files: dict[str, list[dict[str, Any]]]
    prompts: list[tuple[str, tuple[str, ...]]]

    def write(self, folder: Path) -> Path:
        """Write the files and return the folder."""
        for file, rows in self.files.items():
            write_rows(folder / file, rows)
        return folder


MATH = [
    {"problem": "How much is $2 + 3$?", "solution": "5", "answer": "5", "unique_id": "test/sums/1.json"},
    {"problem": "Halve $8$.", "solution": "4", "answer": "4", "unique_id": "test/sums/7.json"},
]
GRADE_SCHOOL = [
    {"question": "Ada has 3 pens and loses 1. How many?", "answer": "#### 2"},
    {"question": "Count: 1, 2?", "answer": "#### 3"},
]
AIME = [
    {"problem_idx": 1, "problem": "Find $n$.", "answer": 70},
    {"problem_idx": 2, "problem": "Find $m$.", "answer": 588},
]
FUNCTIONS = [
    {
        "task_id": "HumanEval/0",
        "prompt": 'def one():\n    """Return 1."""\n',
        "canonical_solution": "",
        "test": "",
        "entry_point": "one",
    },
    {
        "task_id": "HumanEval/1",
        "prompt": 'def two():\n    """Return 2."""\n',
        "canonical_solution": "",
        "test": "",
        "entry_point": "two",
    },
]
TASKS = [
    {
        "task_id": number,
        "prompt": f"Write a Python function that returns {number}.",
        "code": "",
        "test_list": ["assert f()"],
    }
    for number in (2, 11, 12, 510, 511)
]
CONTESTS = [
    {"question_content": "Add two numbers.", "starter_code": "", "question_id": "abc1_a", "private_test_cases": "eJ"},
    {
        "question_content": "Sort a list.",
        "starter_code": "class Solution:\n",
        "question_id": "2800",
        "private_test_cases": "eJ",
    },
    {"question_content": "Print nothing.", "starter_code": "", "question_id": "1873_A", "private_test_cases": "eJ"},
]
TALKS = [["Write a haiku.", "Now a limerick."], ["Name a colour.", "Why this one?"]]
INSTRUCTIONS = [
    {"instruction": "Name three birds.", "input": "", "output": "", "text": ""},
    {"instruction": "Translate into French.", "input": "good day", "output": "", "text": ""},
]

MATH_PROMPTS = [(row["unique_id"], (row["problem"] + BOXED,)) for row in MATH]
GRADE_SCHOOL_PROMPTS = [(str(index), (row["question"] + BOXED,)) for index, row in enumerate(GRADE_SCHOOL, 1)]
AIME_PROMPTS = [(str(index), (row["problem"] + BOXED,)) for index, row in enumerate(AIME, 1)]
FUNCTION_ASKED = (
    "Write a solution in Python: the whole function that begins as follows and does what its docstring says.\n"
)
FUNCTION_PROMPTS = [(row["task_id"], (f"{FUNCTION_ASKED}```python\n{row['prompt']}\n```",)) for row in FUNCTIONS]
TASK_PROMPTS = [(str(row["task_id"]), (row["prompt"],)) for row in TASKS[1:4]]
PROGRAM_ASKED = (
    "Write a solution in Python to the following problem. Answer with the code alone, in one code block.\n\n"
)
STREAMS = "\n\nRead from standard input and write to standard output."
BEGIN = "\n\nBegin with this code and leave its names as they are:\n```python\nclass Solution:\n\n```"
CONTEST_PROMPTS = [
    ("abc1_a", (f"{PROGRAM_ASKED}Add two numbers.{STREAMS}",)),
    ("2800", (f"{PROGRAM_ASKED}Sort a list.{BEGIN}",)),
    ("1873_A", (f"{PROGRAM_ASKED}Print nothing.{STREAMS}",)),
]
TALK_PROMPTS = [(str(index), tuple(turns)) for index, turns in enumerate(TALKS, 1)]
INSTRUCTION_PROMPTS = [("1", ("Name three birds.",)), ("2", ("Translate into French.\n\nInput:\ngood day",))]

ONE_PART, HASHED_PART = "-00000-of-00001.parquet", "-00000-of-00001-a09b74b3ef9c3b56.parquet"


def _question(row: dict[str, Any]) -> dict[str, Any]:
    return {"question": row["problem"], "answer": str(row["answer"])}


def _numbered(change: Callable[[int, list[str]], dict[str, Any]]) -> list[dict[str, Any]]:
    return [change(index, turns) for index, turns in enumerate(TALKS)]


FASTCHAT = _numbered(lambda index, turns: {"question_id": 81 + index, "category": "writing", "turns": turns})
HUB_TALKS = _numbered(
    lambda index, turns: {"prompt": turns, "prompt_id": 7_000 - index, "category": "writing", "reference": []}
)
WITH_TEXT = [{"text": row["prompt"], "task_id": row["task_id"], "code": "", "test_list": []} for row in TASKS]

COPIES = [
    Copy("math500", {"test.jsonl": MATH}, MATH_PROMPTS),
    Copy("math500", {f"data/test{ONE_PART}": MATH}, MATH_PROMPTS),
    Copy(
        "gsm8k", {f"main/test{ONE_PART}": GRADE_SCHOOL, f"main/train{ONE_PART}": GRADE_SCHOOL * 2}, GRADE_SCHOOL_PROMPTS
    ),
    Copy("gsm8k", {"test.jsonl": GRADE_SCHOOL, "train.jsonl": GRADE_SCHOOL * 2}, GRADE_SCHOOL_PROMPTS),
    Copy("gsm8k", {"grade_school_math/data/test.jsonl": GRADE_SCHOOL}, GRADE_SCHOOL_PROMPTS),
    Copy(
        "gsm8k",
        {"main/test-00001-of-00002.parquet": GRADE_SCHOOL[1:], "main/test-00000-of-00002.parquet": GRADE_SCHOOL[:1]},
        GRADE_SCHOOL_PROMPTS,
    ),
    Copy("aime25", {f"data/train{ONE_PART}": AIME}, AIME_PROMPTS),
    Copy("aime25", {"test.jsonl": [{**row, "id": str(index)} for index, row in enumerate(AIME)]}, AIME_PROMPTS),
    Copy(
        "aime25",
        {"aime2025-II.jsonl": [_question(AIME[1])], "aime2025-I.jsonl": [_question(AIME[0])]},
        AIME_PROMPTS,
    ),
    Copy("humaneval", {f"openai_humaneval/test{ONE_PART}": FUNCTIONS}, FUNCTION_PROMPTS),
    Copy("humaneval", {"HumanEval.jsonl.gz": FUNCTIONS}, FUNCTION_PROMPTS),
    Copy("humaneval", {"data/HumanEval.jsonl": FUNCTIONS}, FUNCTION_PROMPTS),
    Copy("mbpp", {f"sanitized/test{ONE_PART}": TASKS[1:4], f"full/test{ONE_PART}": WITH_TEXT}, TASK_PROMPTS),
    Copy("mbpp", {"sanitized-mbpp.json": TASKS, "mbpp.jsonl": WITH_TEXT[:1]}, TASK_PROMPTS),
    Copy("mbpp", {"mbpp.jsonl": WITH_TEXT}, TASK_PROMPTS),
    Copy("livecodebench", {"test.jsonl": CONTESTS}, CONTEST_PROMPTS),
    Copy(
        "livecodebench",
        {"test2.jsonl": CONTESTS[1:2], "test.jsonl": CONTESTS[:1], "test6.jsonl": CONTESTS[2:]},
        CONTEST_PROMPTS,
    ),
    Copy("mt-bench", {"question.jsonl": FASTCHAT}, TALK_PROMPTS),
    Copy("mt-bench", {"data/mt_bench/question.jsonl": FASTCHAT}, TALK_PROMPTS),
    Copy("mt-bench", {"raw/question.jsonl": HUB_TALKS}, TALK_PROMPTS),
    Copy("mt-bench", {f"data/train{HASHED_PART}": HUB_TALKS}, TALK_PROMPTS),
    Copy("alpaca", {f"data/train{HASHED_PART}": INSTRUCTIONS}, INSTRUCTION_PROMPTS),
    Copy("alpaca", {"alpaca_data.json": [{**row, "text": None} for row in INSTRUCTIONS]}, INSTRUCTION_PROMPTS),
]


def hub_rows_of(name: str) -> tuple[list[dict[str, Any]], list[tuple[str, tuple[str, ...]]]]:
    """Return the rows that the library yields for a data set, and their prompts."""
    rows = {
        "math500": (MATH, MATH_PROMPTS),
        "gsm8k": (GRADE_SCHOOL, GRADE_SCHOOL_PROMPTS),
        "aime25": (AIME, AIME_PROMPTS),
        "humaneval": (FUNCTIONS, FUNCTION_PROMPTS),
        "mbpp": (TASKS[1:4], TASK_PROMPTS),
        "mt-bench": (HUB_TALKS, TALK_PROMPTS),
        "alpaca": (INSTRUCTIONS, INSTRUCTION_PROMPTS),
    }
    return rows[name]
