"""Data sets from the hub: what is asked of its libraries, and one clear error, soon, where it cannot be reached."""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
import time

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants

from caddtree.core.errors import InputError
from caddtree.experiments.datasets import DatasetChoice, hub, load_prompts
from caddtree.experiments.datasets.catalogue import HUB
from tests.experiments.datasets.layouts import CONTESTS, hub_rows_of, write_rows

LIBRARY_NAMES = [name for name, dataset in HUB.items() if not dataset.hub_files]
ADVICE = "Point to a local copy in the experiment, {{name: {name}, path: FOLDER_OR_FILE}}"


@pytest.fixture(autouse=True)
def no_copies(monkeypatch):
    monkeypatch.delenv("CADDTREE_DATASETS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def reached(monkeypatch):
    """A hub that answers; returns the addresses that it was asked for."""
    asked = []
    monkeypatch.setattr(hub, "_status", lambda url: asked.append(url) or 200)
    return asked


def fake_library(monkeypatch, answer):
    """Put a function in place of the library's that takes the same arguments; return what it was called with."""
    calls, takes = [], inspect.signature(datasets.load_dataset)

    def load_dataset(*args, **kwargs):
        calls.append(takes.bind(*args, **kwargs).arguments)
        return answer()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def refuse(error):
    def answer():
        raise error

    return answer


@pytest.mark.parametrize("name", LIBRARY_NAMES)
def test_a_data_set_is_loaded_by_id_configuration_and_split(monkeypatch, reached, name):
    """And by nothing else: no code of a data set is allowed to run."""
    rows, prompts = hub_rows_of(name)
    calls = fake_library(monkeypatch, lambda: datasets.Dataset.from_list(rows))
    records = load_prompts(DatasetChoice(name))

    found = [(record.id, (record.prompt[0]["content"], *record.later_turns)) for record in records]
    assert found == prompts
    ids = {
        "math500": ("HuggingFaceH4/MATH-500", None, "test"),
        "gsm8k": ("openai/gsm8k", "main", "test"),
        "aime25": ("MathArena/aime_2025", None, "train"),
        "humaneval": ("openai/openai_humaneval", "openai_humaneval", "test"),
        "mbpp": ("google-research-datasets/mbpp", "sanitized", "test"),
        "mt-bench": ("HuggingFaceH4/mt_bench_prompts", None, "train"),
        "alpaca": ("tatsu-lab/alpaca", None, "train"),
    }
    assert calls == [dict(zip(("path", "name", "split"), ids[name], strict=True))]
    assert reached == [f"{constants.ENDPOINT}/api/datasets/{ids[name][0]}"]


def test_livecodebench_downloads_a_file_only_once_its_rows_are_wanted(monkeypatch, reached, tmp_path):
    """The files take gigabytes, and the repository's own code is not run."""
    calls = []

    def hf_hub_download(*args, **kwargs):
        calls.append(real.bind(*args, **kwargs).arguments)
        path = tmp_path / args[1]
        number = int(args[1].removeprefix("test").removesuffix(".jsonl") or 1)
        write_rows(path, [{**row, "question_id": f"{row['question_id']}-{number}"} for row in CONTESTS])
        return str(path)

    real = inspect.signature(huggingface_hub.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)

    assert [record.id for record in load_prompts(DatasetChoice("livecodebench", limit=4))][2:] == [
        "1873_A-1",
        "abc1_a-2",
    ]
    repository = {"repo_id": "livecodebench/code_generation_lite", "repo_type": "dataset"}
    assert calls == [{**repository, "filename": "test.jsonl"}, {**repository, "filename": "test2.jsonl"}]
    assert len(load_prompts(DatasetChoice("livecodebench"))) == 18
    assert [call["filename"] for call in calls[2:]] == [
        "test.jsonl",
        *(f"test{number}.jsonl" for number in range(2, 7)),
    ]


def test_offline_the_library_is_asked_for_its_cache_without_a_request(monkeypatch, reached):
    """A copy in the cache of the hub's client needs no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    rows, prompts = hub_rows_of("gsm8k")
    fake_library(monkeypatch, lambda: datasets.Dataset.from_list(rows))

    assert len(load_prompts(DatasetChoice("gsm8k"))) == len(prompts)
    assert reached == []


def test_an_error_of_the_library_is_one_line_with_its_reason(monkeypatch, reached):
    """The first line of what it says, the data set, and what to do."""
    fake_library(monkeypatch, refuse(ValueError("no such config\nmany more words")))

    with pytest.raises(InputError) as caught:
        load_prompts(DatasetChoice("gsm8k"))

    text = str(caught.value)
    assert text.startswith("gsm8k: cannot be loaded from the hub (openai/gsm8k): ValueError: no such config. ")
    assert ADVICE.format(name="gsm8k") in text
    assert text.endswith("put a folder gsm8k into the folder that CADDTREE_DATASETS names (now not set)")


def test_the_error_says_what_the_environment_variable_lacks(monkeypatch, reached, tmp_path):
    """So that nobody looks for the mistake elsewhere."""
    monkeypatch.setenv("CADDTREE_DATASETS", str(tmp_path))
    fake_library(monkeypatch, refuse(ValueError()))

    with pytest.raises(InputError, match=rf": ValueError\. .* \(now {tmp_path}, which has none\)$"):
        load_prompts(DatasetChoice("gsm8k"))


def test_a_download_that_fails_names_its_file(monkeypatch, reached):
    """Of the six that LiveCodeBench has."""
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: refuse(OSError("disk full"))())

    with pytest.raises(InputError, match=r"^livecodebench: cannot be loaded .*: test.jsonl: OSError: disk full\."):
        load_prompts(DatasetChoice("livecodebench"))


def test_a_missing_library_says_what_to_install(monkeypatch, reached):
    """Before anything is asked of the network."""
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(InputError, match=r"^gsm8k: .* the library 'datasets' is missing \(pip install 'caddtree\[dat"):
        load_prompts(DatasetChoice("gsm8k"))
    assert reached == []


@pytest.mark.parametrize("status", [407, 500, 503])
def test_a_hub_or_proxy_that_only_answers_with_an_error_counts_as_not_reached(monkeypatch, status):
    """The client would try again for half a minute."""
    monkeypatch.setattr(hub, "_status", lambda url: status)
    calls = fake_library(monkeypatch, list)

    with pytest.raises(InputError, match=rf"cannot be reached: status {status} \(HF_HUB_OFFLINE=1 uses the cache"):
        load_prompts(DatasetChoice("gsm8k"))
    assert calls == []


@pytest.mark.parametrize("name", ["gsm8k", "livecodebench"])
def test_a_closed_port_is_an_error_at_once(monkeypatch, name):
    """Without the tries of the hub's client."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(InputError, match=rf"^{name}: .* cannot be reached: ConnectError: "):
            load_prompts(DatasetChoice(name))

    assert time.monotonic() - started < 3


def test_a_hub_that_never_answers_is_an_error_after_a_moment(monkeypatch):
    """A network that swallows what it is sent."""
    monkeypatch.setattr(hub, "REACH_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(InputError, match=r"cannot be reached: (ReadTimeout|no answer within 0.3 seconds)"):
            load_prompts(DatasetChoice("gsm8k"))

    assert time.monotonic() - started < 3


def test_a_name_that_cannot_be_looked_up_does_not_hang(monkeypatch):
    """The system's resolver heeds no timeout."""
    monkeypatch.setattr(hub, "REACH_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(30))
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")

    with pytest.raises(InputError, match=r"cannot be reached: no answer within 0.2 seconds"):
        load_prompts(DatasetChoice("gsm8k"))


def test_offline_every_data_set_ends_in_one_error_soon(tmp_path):
    """In a fresh process with an empty cache, all eight; shipped prompts and files of one's own go on working."""
    own = tmp_path / "own.jsonl"
    write_rows(own, [{"prompt": "a"}])
    code = (
        "import sys\n"
        "from caddtree.core.errors import InputError\n"
        "from caddtree.experiments.datasets import DatasetChoice, known_datasets, load_prompts\n"
        "for text in [sys.argv[1], *(info.name for info in known_datasets())]:\n"
        "    try:\n"
        "        print(text, len(load_prompts(DatasetChoice.parse(text))))\n"
        "    except InputError as error:\n"
        "        print(error)\n"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "CADDTREE_DATASETS"))}
    environment = {**clean, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(own)], env=environment, capture_output=True, text=True, timeout=60
    )
    seconds = time.monotonic() - started

    lines = done.stdout.splitlines()
    assert lines[:4] == [f"{own} 1", "reasoning 42", "instructions 40", "code 42"]
    assert len(lines) == 4 + len(HUB), done.stderr
    for line, name in zip(lines[4:], HUB, strict=True):
        assert line.startswith(f"{name}: cannot be loaded from the hub ({HUB[name].info.source}): ")
        assert ADVICE.format(name=name) in line
    assert seconds < 20  # for all eight and the start of the process, on a busy machine
