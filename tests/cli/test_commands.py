"""``generate``, ``chat`` and ``compare`` on a tiny pair: output, options, errors as one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from caddtree.core.errors import StageError
from caddtree.profiling import store
from caddtree.profiling.measure import measure_profile
from tests.cli.runner import caddtree, lines
from tests.tiny_pair import write_pair


def generated(recipe, *arguments, prompt="the cat"):
    """Return the JSON object of one ``generate``."""
    found = caddtree("generate", prompt, "--recipe", recipe, "--max-new-tokens", 12, "--json", *arguments)
    assert found.exit_code == 0, found.stderr
    return json.loads(found.stdout)


def quick_profile(decoder, key, max_count):
    return measure_profile(decoder, key, max_count=max_count, contexts=(16,), repeats=1)


def test_generate_streams_the_text_that_json_holds(recipe):
    """Text on stdout, the summary on stderr; --json parses and holds the rounds; --set counts."""
    streamed = caddtree("generate", "the cat", "--recipe", recipe, "--max-new-tokens", 12)
    found = generated(recipe, "--set", "tree_builder.node_budget=2")

    assert streamed.exit_code == 0
    assert streamed.stdout == found["text"] + "\n"
    assert "tokens/s" in streamed.stderr
    assert len(found["token_ids"]) == 12
    assert max(round_["num_draft_nodes"] for round_ in found["rounds"]) == 2


def test_an_error_behind_the_first_words_has_a_line_of_its_own(recipe, monkeypatch):
    """The text so far stays as it is; its line is ended on stderr, where the error follows."""

    def failing(session):
        raise StageError("verifier Broken failed in round 0")

    monkeypatch.setattr("caddtree.core.pipeline.Session.step", failing)
    found = caddtree("generate", "the cat", "--recipe", recipe)

    assert found.exit_code == 1
    assert found.stderr.endswith("\nerror: verifier Broken failed in round 0\n")


def test_a_rule_that_ends_the_text_is_named(recipe, monkeypatch):
    """Behind the finish reason, and in the JSON."""
    rule = type("Third", (), {"ends_text": staticmethod(lambda tokens: len(tokens) == 3)})
    monkeypatch.setattr("caddtree.core.decoder.AcceptanceAlarm", rule)
    streamed = caddtree("generate", "the cat", "--recipe", recipe)

    assert streamed.stderr.strip().endswith(", stop by Third]")
    assert (generated(recipe)["stopped_by"], len(generated(recipe)["token_ids"])) == ("Third", 3)


def test_a_prompt_may_come_from_standard_input(recipe):
    """``-`` reads it."""
    piped = caddtree("generate", "-", "--recipe", recipe, "--max-new-tokens", 12, "--json", input="the cat")

    assert json.loads(piped.stdout)["token_ids"] == generated(recipe)["token_ids"]


def test_temperature_and_seed_choose_the_text(recipe):
    """Greedy without, another text per seed, the same text for the same seed."""
    greedy = generated(recipe)["token_ids"]
    sampled = {seed: generated(recipe, "--temperature", 2, "--seed", seed)["token_ids"] for seed in (1, 2)}

    assert len({tuple(tokens) for tokens in (greedy, *sampled.values())}) == 3
    assert generated(recipe, "--temperature", 2, "--seed", 1)["token_ids"] == sampled[1]
    assert generated(recipe, "--seed", 1)["token_ids"] == greedy


@pytest.mark.parametrize("option", [["--top-k", 1], ["--top-p", 1e-6]])
def test_top_k_and_top_p_narrow_the_choice(recipe, option):
    """At their narrowest sampling is greedy."""
    assert generated(recipe, "--temperature", 2, *option)["token_ids"] == generated(recipe)["token_ids"]
    assert generated(recipe, "--temperature", 2)["token_ids"] != generated(recipe)["token_ids"]


def test_stop_may_be_repeated_and_ends_the_text(recipe):
    """The stop string that comes first counts, and is not shown."""
    whole = generated(recipe)["text"]
    stop = whole[4:6]
    found = generated(recipe, "--stop", "never said", "--stop", stop)

    assert found["text"] == whole[: whole.index(stop)]
    assert found["finish_reason"] == "stop"


def test_a_chat_from_a_pipe_answers_every_line(recipe):
    """Two lines, two answers, then an empty line or the end of input."""
    for end in ("", "\n", "\nnever read\n"):
        found = caddtree("chat", "--recipe", recipe, "--max-new-tokens", 4, input=f"the cat\nthe dog\n{end}")

        assert found.exit_code == 0
        assert found.stderr.count("tokens/s") == 2
        assert found.stderr.count("[4 tokens") == 2


def test_a_chat_remembers_what_was_said(recipe):
    """The second answer continues both lines and the first answer."""
    alone = caddtree("chat", "--recipe", recipe, "--max-new-tokens", 8, input="the dog\n").stdout
    both = caddtree("chat", "--recipe", recipe, "--max-new-tokens", 8, input="the cat\nthe dog\n").stdout

    assert both
    assert not both.endswith(alone)


def test_compare_prints_one_object(recipe, tmp_path):
    """And names a recipe that is given twice."""
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "the cat"}\n{"prompt": "the dog sat"}\n')
    found = caddtree("compare", "--recipes", recipe, "--prompts", prompts, "--max-new-tokens", 6, "--json")
    twice = caddtree("compare", "--recipes", f"{recipe},{recipe}", "--prompts", prompts)

    assert json.loads(found.stdout)["variants"][0]["identical"] is True
    assert twice.exit_code == 2
    assert "named twice" in twice.stderr


def test_compare_prints_a_table_of_recipes_that_share_a_target(recipe, tmp_path):
    """Two recipes, one table; --limit and --repeats count."""
    prompts, plain = tmp_path / "p.jsonl", recipe.with_name("plain.yaml")
    prompts.write_text('{"prompt": "the cat"}\n{"prompt": "the dog sat"}\n')
    text = recipe.read_text().replace("{name: dflash, model: ./drafter}", "{name: none}")
    plain.write_text(text)
    arguments = ["--prompts", prompts, "--max-new-tokens", 6, "--limit", 1, "--repeats", 2]
    shown = caddtree("compare", "--recipes", f"{plain}, {recipe}", *arguments)
    found = json.loads(caddtree("compare", "--recipes", f"{plain},{recipe}", *arguments, "--json").stdout)

    assert shown.exit_code == 0
    assert "1 prompts" in shown.stdout
    assert shown.stdout.count("too few prompts") == 2  # for an interval
    assert "1.00x" in shown.stdout
    assert (found["num_prompts"], found["repeats"]) == (1, 2)
    assert [variant["identical"] for variant in found["variants"]] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "x", "--recipe", "nowhere"], "nowhere"),
        (["generate", "", "--recipe", "RECIPE"], "no tokens"),
        (["generate", "x", "--recipe", "RECIPE", "--set", "tree_builder.node_budget=0"], "node_budget"),
        (["generate", "x", "--recipe", "RECIPE", "--temperature", "-1"], "temperature"),
        (["generate", "x", "--recipe", "RECIPE", "--top-k", "0"], "top_k must be at least 1"),
        (["generate", "x", "--recipe", "RECIPE", "--top-p", "1.5"], "top_p must be above 0 and at most 1"),
        (["generate", "x", "--recipe", "RECIPE", "--seed", "-1"], "seed must be at least 0"),
        (["generate", "x", "--recipe", "RECIPE", "--stop", ""], "must be a string that is not empty"),
        (["generate", "x", "--recipe", "RECIPE", "--max-new-tokens", "900"], "the context is 512"),
        # what Python makes of an argument that is no UTF-8
        (["generate", "the \udcff", "--recipe", "RECIPE"], r"the prompt is no valid text: character 4 is '\udcff'"),
        (["compare", "--recipes", "RECIPE", "--prompts", "missing.jsonl"], "missing.jsonl"),
        (["compare", "--recipes", ",", "--prompts", "PROMPTS"], "at least one recipe"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(recipe, tmp_path, arguments, message):
    """No traceback, nothing on stdout."""
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "a"}\n')
    paths = {"RECIPE": recipe, "PROMPTS": prompts}
    found = caddtree(*[paths.get(argument, argument) for argument in arguments])

    assert found.exit_code == 2
    assert message in lines(found.stderr)[-1]
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize("command", [["generate", "-"], ["chat"]])
def test_standard_input_that_is_no_utf_8_is_one_line_and_exit_code_2(recipe, command):
    """As an argument that is none; outside of the C locales Python itself refuses to read it."""
    found = caddtree(*command, "--recipe", recipe, input=b"the \xff\n")

    assert lines(found.stderr)[-1].startswith("error: ")
    assert found.exit_code == 2


@pytest.mark.parametrize("arguments", [["frobnicate"], ["generate"], ["compare", "--recipes", "demo"]])
def test_a_wrong_command_line_is_exit_code_2(arguments):
    """An unknown command, a missing argument, a missing option."""
    found = caddtree(*arguments)

    assert found.exit_code == 2
    assert found.stdout == ""
    assert "Traceback" not in found.stderr


def test_a_target_with_nan_weights_is_refused_with_exit_code_2(tmp_path):
    """A damaged checkpoint is the user's to mend; the tensor is named."""
    path = write_pair(tmp_path)
    weights = tmp_path / "target" / "model.safetensors"
    tensors = load_file(weights)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, weights, metadata={"format": "pt"})
    found = caddtree("generate", "the cat", "--recipe", path)

    assert found.exit_code == 2
    assert f"the tensor {name} holds NaN" in lines(found.stderr)[-1]


def test_the_first_decode_says_that_it_measures_and_a_broken_profile_is_measured_anew(recipe, tmp_path, monkeypatch):
    """Once on stderr, not again the second time; a damaged file is a warning, never an end."""
    monkeypatch.setenv("CADDTREE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(store, "measure_profile", quick_profile)
    adaptive = ["--set", "tree_builder.name=caddtree", "--set", "tree_builder.max_node_budget=4"]
    adaptive += ["--set", "cost_model.name=table"]
    runs = [caddtree("generate", "the cat", "--recipe", recipe, *adaptive) for _ in range(2)]
    (kept,) = (tmp_path / "profiles").iterdir()
    kept.write_text("{ broken")
    runs.append(caddtree("generate", "the cat", "--recipe", recipe, *adaptive))

    assert [run.exit_code for run in runs] == [0, 0, 0]
    assert [run.stderr.count("measuring rounds once, into") for run in runs] == [1, 0, 0]
    assert [run.stderr.count("it is measured anew") for run in runs] == [0, 0, 1]
    assert str(kept) in runs[0].stderr
    assert kept.name in runs[2].stderr
    assert len({run.stdout for run in runs}) == 1
    assert json.loads(kept.read_text())["max_count"] == 256
