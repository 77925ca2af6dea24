"""The data sets that have a name: where they come from, which columns make a prompt, how local copies are laid out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs

from caddtree.experiments.datasets import templates


@attrs.frozen
class DatasetInfo:
    """One line of the table of data sets."""

    name: str
    num_prompts: int
    source: str
    """Its id on the Hugging Face hub, or that it is shipped."""
    summary: str


@attrs.frozen
class NamedDataset:
    """How a data set of the hub becomes prompts."""

    info: DatasetInfo
    split: str
    columns: tuple[tuple[str, ...], ...]
    """Columns that the template takes, each with the names it goes by; only the first must not be empty."""
    layouts: tuple[tuple[str, ...], ...]
    """Files of a local copy as patterns, one tuple per layout; the first layout that is there counts."""
    template: Callable[..., str] = templates.as_written
    config: str | None = None
    id_column: str | None = None
    """Where the rows have no id that all layouts share, the position is the id."""
    id_range: range | None = None
    """Ids of the split, for files that hold every split."""
    has_turns: bool = False
    """The column is a list: the turns of a user."""
    hub_files: tuple[str, ...] = ()
    """Files to download one by one, for a data set that the library would need code for."""


def known_datasets() -> tuple[DatasetInfo, ...]:
    """Return what there is to choose from by name: the shipped sets, then the ones of the hub."""
    return (*(info for info, _ in SHIPPED.values()), *(dataset.info for dataset in HUB.values()))


_PROMPT_FOLDER = Path(__file__).parent.parent.parent / "models" / "demo" / "prompts"


def _shipped(name: str, num_prompts: int, summary: str) -> tuple[DatasetInfo, Path]:
    return DatasetInfo(name, num_prompts, "shipped", summary), _PROMPT_FOLDER / f"{name}.jsonl"


SHIPPED = {
    found[0].name: found
    for found in (
        _shipped("reasoning", 42, "word problems in a few steps, written for the demo pair"),
        _shipped("instructions", 40, "lists, counts and sentences to make, written for the demo pair"),
        _shipped("code", 42, "beginnings of Python functions and classes, to be gone on with"),
    )
}
"""Name to description and file, of the prompts that the demo pair was not trained on."""

_DATASETS = (
    NamedDataset(
        DatasetInfo("math500", 500, "HuggingFaceH4/MATH-500", "competition mathematics, 500 problems of MATH"),
        split="test",
        columns=(("problem",),),
        template=templates.math_problem,
        id_column="unique_id",
        layouts=(("test.jsonl",), ("test-*.parquet",), ("data/test-*.parquet",)),
    ),
    NamedDataset(
        DatasetInfo("gsm8k", 1319, "openai/gsm8k", "word problems of grade-school mathematics"),
        config="main",
        split="test",
        columns=(("question",),),
        template=templates.math_problem,
        layouts=(
            ("main/test-*.parquet",),
            ("test-*.parquet",),
            ("test.jsonl",),
            ("grade_school_math/data/test.jsonl",),
        ),
    ),
    NamedDataset(
        DatasetInfo("aime25", 30, "MathArena/aime_2025", "competition mathematics, both AIME papers of 2025"),
        split="train",
        columns=(("problem", "question"),),
        template=templates.math_problem,
        layouts=(
            ("data/train-*.parquet",),
            ("train-*.parquet",),
            ("test.jsonl",),
            ("aime2025-I.jsonl", "aime2025-II.jsonl"),
        ),
    ),
    NamedDataset(
        DatasetInfo("humaneval", 164, "openai/openai_humaneval", "Python functions from signature and docstring"),
        config="openai_humaneval",
        split="test",
        columns=(("prompt",),),
        template=templates.python_function,
        id_column="task_id",
        layouts=(
            ("openai_humaneval/test-*.parquet",),
            ("test-*.parquet",),
            ("HumanEval.jsonl",),
            ("data/HumanEval.jsonl",),
        ),
    ),
    NamedDataset(
        DatasetInfo("mbpp", 257, "google-research-datasets/mbpp", "short Python tasks, the sanitized test split"),
        config="sanitized",
        split="test",
        columns=(("prompt", "text"),),
        id_column="task_id",
        id_range=range(11, 511),
        layouts=(
            ("sanitized/test-*.parquet",),
            ("test-*.parquet",),
            ("sanitized-mbpp.json",),
            ("mbpp.jsonl",),
        ),
    ),
    NamedDataset(
        DatasetInfo(
            "livecodebench", 1055, "livecodebench/code_generation_lite", "contest problems, May 2023 to April 2025"
        ),
        split="test",
        columns=(("question_content",), ("starter_code",)),
        template=templates.python_program,
        id_column="question_id",
        layouts=(("test.jsonl", "test[0-9].jsonl"),),
        hub_files=("test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7))),
    ),
    NamedDataset(
        DatasetInfo("mt-bench", 80, "HuggingFaceH4/mt_bench_prompts", "open questions of eight kinds, two turns each"),
        split="train",
        columns=(("turns", "prompt"),),
        has_turns=True,
        layouts=(
            ("question.jsonl",),
            ("data/train-*.parquet",),
            ("train-*.parquet",),
            ("raw/question.jsonl",),
            ("data/mt_bench/question.jsonl",),
        ),
    ),
    NamedDataset(
        DatasetInfo("alpaca", 52002, "tatsu-lab/alpaca", "instructions of every kind, some with an input"),
        split="train",
        columns=(("instruction",), ("input",)),
        template=templates.instruction,
        layouts=(("data/train-*.parquet",), ("train-*.parquet",), ("alpaca_data.json",)),
    ),
)

HUB = {dataset.info.name: dataset for dataset in _DATASETS}
"""Name to data set, in the order of the papers: mathematics, code, chat."""
