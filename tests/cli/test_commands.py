"""The command line on a tiny pair: output, exit codes, errors as one line, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.tiny_pair import write_pair


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair"))


def caddtree(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", "from caddtree.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        **options,
    )


def test_generate_streams_the_text_that_json_holds(recipe):
    """Text on stdout, the summary on stderr; --json parses and holds the rounds; --set and --stop count."""
    streamed = caddtree("generate", "the cat", "--recipe", recipe, "--max-new-tokens", 12)
    as_json = caddtree(
        "generate",
        "the cat",
        "--recipe",
        recipe,
        "--max-new-tokens",
        12,
        "--json",
        "--set",
        "tree_builder.node_budget=2",
    )
    found = json.loads(as_json.stdout)

    assert streamed.returncode == as_json.returncode == 0
    assert streamed.stdout == found["text"] + "\n"
    assert "tokens/s" in streamed.stderr
    assert len(found["token_ids"]) == 12
    assert max(round_["num_draft_nodes"] for round_ in found["rounds"]) == 2


def test_a_chat_from_a_pipe_answers_every_line(recipe):
    """Two lines, two answers, then the end of input."""
    found = caddtree("chat", "--recipe", recipe, "--max-new-tokens", 4, input="the cat\nthe dog\n")

    assert found.returncode == 0
    assert found.stderr.count("tokens/s") == 2


def test_compare_prints_one_object(recipe, tmp_path):
    """And names a recipe that is given twice."""
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "the cat"}\n{"prompt": "the dog sat"}\n')
    found = caddtree("compare", "--recipes", recipe, "--prompts", prompts, "--max-new-tokens", 6, "--json")
    twice = caddtree("compare", "--recipes", f"{recipe},{recipe}", "--prompts", prompts)

    assert json.loads(found.stdout)["variants"][0]["identical"] is True
    assert twice.returncode == 2
    assert "named twice" in twice.stderr


def test_plugins_and_recipes_are_listed():
    """Every built-in strategy; a shipped recipe shown and checked."""
    listed = json.loads(caddtree("plugins", "--json").stdout)
    names = {(entry["kind"], entry["name"]) for entry in listed["strategies"]}
    shown = json.loads(caddtree("recipe", "show", "demo", "--json").stdout)

    assert {
        ("drafter", "dflash"),
        ("tree_builder", "caddtree"),
        ("cost_model", "convex"),
        ("verifier", "sdpa"),
    } <= names
    assert listed["broken"] == []
    assert shown["tree_builder"]["name"] == "caddtree"
    assert caddtree("recipe", "check", "caddtree-qwen3-8b").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "x", "--recipe", "nowhere"], "nowhere"),
        (["generate", "", "--recipe", "RECIPE"], "no tokens"),
        (["generate", "x", "--recipe", "RECIPE", "--set", "tree_builder.node_budget=0"], "node_budget"),
        (["generate", "x", "--recipe", "RECIPE", "--temperature", "-1"], "temperature"),
        (["compare", "--recipes", "RECIPE", "--prompts", "missing.jsonl"], "missing.jsonl"),
        (["recipe", "check", "missing.yaml"], "missing.yaml"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(recipe, arguments, message):
    """No traceback."""
    found = caddtree(*[recipe if argument == "RECIPE" else argument for argument in arguments])

    assert found.returncode == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_ctrl_c_keeps_what_was_printed_and_exits_130(recipe):
    """FT-26: SIGINT in the middle of a long answer; what stands on stdout is a prefix of the whole answer."""
    arguments = [
        "generate",
        "the cat",
        "--recipe",
        str(recipe),
        "--max-new-tokens",
        "480",
        "--set",
        "tree_builder.node_budget=1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", "from caddtree.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    first = os.read(process.stdout.fileno(), 1)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    whole = caddtree(*arguments).stdout

    assert process.returncode == 130
    assert b"Traceback" not in errors
    shown = (first + rest).decode("utf-8", errors="ignore").rstrip("\n")
    assert whole.startswith(shown[:-1])
    assert len(shown) < len(whole)
