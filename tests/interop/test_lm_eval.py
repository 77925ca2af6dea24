"""The harness's command line in a process of its own, and the model class asked as the harness asks it."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import types
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.api.registry import get_model, model_registry
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing

from caddtree.core.errors import InputError, RecipeError
from caddtree.interop import lm_eval as interop
from caddtree.interop.lm_eval import __main__ as command
from caddtree.interop.lm_eval.arguments import generation_options
from caddtree.interop.lm_eval.model import CaddtreeLM
from tests.tiny_pair import tiny_tokenizer, write_pair

PROMPTS = ["the cat", "the dog sat on", "a mat, and"]
PLAIN = {"drafter.name": "none", "tree_builder.name": "chain"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The recipe of a tiny pair whose target has few positions."""
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def lm(pair):
    return CaddtreeLM(pair, device="cuda:0")


@pytest.fixture(scope="module")
def hf(pair):
    """The harness's own model over the same target."""
    return HFLM(pretrained=str(pair.parent / "target"), device="cpu", dtype="float32")


def generations(model, *requests):
    return model.generate_until([Instance("generate_until", {}, request, 0) for request in requests], disable_tqdm=True)


def likelihoods(model, *requests):
    return model.loglikelihood([Instance("loglikelihood", {}, request, 0) for request in requests], disable_tqdm=True)


def rolling(model, text):
    return model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)[0]


def greedy(limit=24, *until, **more):
    return {"until": list(until), "max_gen_toks": limit, "do_sample": False, "temperature": 0.0, **more}


def sampled(limit=24, **more):
    return {"until": [], "max_gen_toks": limit, "do_sample": True, "temperature": 1.5, **more}


def plain_text(lm, prompt, limit):
    """What Transformers' own greedy decoding writes."""
    ids = torch.tensor([lm.tokenizer.encode(prompt)])
    whole = torch.ones_like(ids)
    made = lm.decoder.target.model.generate(ids, attention_mask=whole, max_new_tokens=limit, do_sample=False)
    return lm.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)


def exact_likelihood(lm, context, continuation):
    """The float64 sum over single tokens, and whether each is the likeliest; ids, not texts."""
    logits = lm.decoder.target.model(torch.tensor([context + continuation])).logits[0].detach().double()
    log_probs = [row - math.log(float(row.exp().sum())) for row in logits]
    at = range(len(context) - 1, len(context) + len(continuation) - 1)
    total = sum(float(log_probs[row][token]) for row, token in zip(at, continuation, strict=True))
    return total, all(int(log_probs[row].argmax()) == token for row, token in zip(at, continuation, strict=True))


def choice_scores(lm, prompt, choices):
    return [exact_likelihood(lm, lm.tok_encode(prompt), lm.tok_encode(choice))[0] for choice in choices]


def write_tasks(folder: Path, prompts: list[str], answers: list[str], choices: list[str]) -> None:
    """A task that generates and one that chooses, over local files."""
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = (
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\n"
        "test_split: test\n"
        'doc_to_text: "{{prompt}}"\n'
    )
    (folder / "writes.yaml").write_text(
        "task: tiny_writes\noutput_type: generate_until\n" + common + 'doc_to_target: "{{answer}}"\n'
        "generation_kwargs: {until: ['zzz'], max_gen_toks: 40}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    (folder / "chooses.yaml").write_text(
        "task: tiny_chooses\noutput_type: multiple_choice\n" + common + f"doc_to_choice: {json.dumps(choices)}\n"
        'doc_to_target: 0\ntarget_delimiter: ""\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )


def test_the_harness_command_runs_both_kinds_of_tasks(tmp_path):
    """Plain ``lm_eval``: scores as counted by hand, texts of plain decoding, the recipe and its speed in the file."""
    plain = CaddtreeLM("demo-plain", device="cpu")
    prompts, choices = (
        ["import os\nimport", "for index in range(", "def area(width, height):"],
        [" sys", " self", " os"],
    )
    texts = [plain_text(plain, prompt, 12) for prompt in prompts]
    write_tasks(tmp_path, prompts, [*texts[:2], "something else"], choices)
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [
            Path(sys.executable).with_name("lm_eval"), "--model", "caddtree",
            "--model_args", "recipe=demo-ddtree,tree_builder.node_budget=9", "--tasks", "tiny_writes,tiny_chooses",
            "--include_path", tmp_path, "--gen_kwargs", "max_gen_toks=12", "--device", "cpu", "--batch_size", "auto",
            "--output_path", tmp_path / "out.json", "--log_samples",
        ],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **offline},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("out_*.json")
    (samples,) = tmp_path.glob("samples_tiny_writes_*.jsonl")
    found, scores = json.loads(path.read_text()), [choice_scores(plain, prompt, choices) for prompt in prompts]
    num_first = sum(row[0] == max(row) for row in scores)
    assert found["results"]["tiny_writes"]["exact_match,none"] == pytest.approx(2 / 3)
    assert found["results"]["tiny_chooses"]["acc,none"] == pytest.approx(num_first / 3)
    assert 0 < num_first < 3
    assert [json.loads(line)["resps"] for line in samples.read_text().splitlines()] == [[[text]] for text in texts]
    assert generations(plain, *[(prompt, greedy(12)) for prompt in prompts]) == texts
    assert found["config"]["recipe"]["tree_builder"] == {"name": "ddtree", "node_budget": 9}
    speed = found["config"]["speed"]
    assert (speed["num_requests"], speed["num_new_tokens"]) == (3, 36)
    assert speed["mean_acceptance_length"] > 1 == plain.speed.mean_acceptance_length
    assert f"{speed['tokens_per_second']:.1f} tokens/s, tau {speed['mean_acceptance_length']:.2f}" in done.stderr


def test_neither_caddtree_nor_torch_loads_the_harness():
    """It is an extra: nothing imports it unless it runs already."""
    code = "import sys, torch, caddtree.loading, caddtree.interop; assert 'lm_eval' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_registration_does_not_keep_the_harness_from_its_own_models():
    """It registers them only while it knows none."""
    code = (
        "from caddtree.interop.lm_eval import register; register()\n"
        "from lm_eval.api.registry import model_registry; assert {'hf', 'caddtree'} <= set(model_registry)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_registration_adds_one_name_to_the_harness():
    """Its own models stay; a second call changes nothing."""
    interop.register()
    before = set(model_registry)
    interop.register_in_harness()

    assert get_model("caddtree") is CaddtreeLM
    assert get_model("hf") is HFLM
    assert set(model_registry) == before


def test_later_releases_find_the_model_by_its_entry_point():
    """They read the group ``lm_eval.models``."""
    (point,) = entry_points(group="lm_eval.models", name="caddtree")
    assert point.load() is CaddtreeLM


def test_a_harness_that_cannot_be_registered_with_does_not_end_the_import_of_torch(monkeypatch, caplog):
    """A stand-in without a registry, as tests of other programs put up: one warning."""
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    interop.register_in_harness()
    assert not caplog.records
    assert "lm_eval" not in sys.modules

    monkeypatch.setitem(sys.modules, "lm_eval", types.ModuleType("lm_eval"))
    interop.register_in_harness()
    assert "not registered with lm_eval: ModuleNotFoundError" in caplog.text


def test_the_module_hands_over_to_the_harness(monkeypatch):
    """``python -m caddtree.interop.lm_eval`` registers first."""
    seen = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.append("caddtree" in model_registry))
    command.main()
    assert seen == [True]


def test_the_module_says_which_extra_is_missing(monkeypatch):
    """Instead of a traceback."""
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    with pytest.raises(SystemExit, match=r"pip install 'caddtree\[lm-eval\]'"):
        command.main()


def test_answers_are_those_of_the_harness_own_model(lm, hf):
    """Greedy, with stop strings, and with prompts of which the harness cuts the beginning."""
    text = plain_text(lm, PROMPTS[0], 40)
    stops = [text[7:9], text[15]]
    requests = [
        (PROMPTS[0], greedy(40)),
        (PROMPTS[0], greedy(40, *stops)),
        (PROMPTS[0], greedy(40, "never there")),
        (PROMPTS[1], {"until": text[3], "max_gen_toks": 9}),
        (PROMPTS[2], greedy(7, top_p=0.5)),
        ("the cat sat " * 300, greedy(24)),
    ]
    found = generations(lm, *requests)

    assert found == generations(hf, *requests)
    assert found[0] == text == generations(lm, (PROMPTS[0], {**greedy(40), "until": None}))[0]
    assert found[1] == min((text.split(stop)[0] for stop in stops), key=len) != text
    assert found[2] == text


def test_long_prompts_are_cut_with_one_line(lm, caplog):
    """However many they are."""
    with caplog.at_level(logging.INFO, logger="lm_eval.caddtree"):
        generations(lm, *[("cat " * 600, greedy(4)), ("the", greedy(4)), ("dog " * 600, greedy(4))])

    (line,) = [record.message for record in caplog.records if "cut off" in record.message]
    assert "2 of 3 prompts are too long for the context of 512 tokens" in line
    assert "tokens/s, tau" in caplog.records[-1].message


def test_an_answer_without_room_is_refused(lm):
    """Before anything is decoded."""
    with pytest.raises(InputError, match="max_gen_toks 512 leaves no room for a prompt in a context of 512"):
        generations(lm, ("the", greedy(512)))


def test_the_written_end_of_text_is_a_stop_string():
    """A target may spell it in other tokens."""
    assert generation_options({"until": ["a", "a"]}, end="<|end|>", seed=0).stop == ("a", "<|end|>")


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_every_name_of_the_length_limit_is_honoured(lm, name):
    """As many tokens, whatever it is called."""
    before = lm.speed.num_new_tokens
    generations(lm, ("the", {"until": [], name: 5}))
    assert lm.speed.num_new_tokens - before == 5


def test_a_task_that_names_no_limit_gets_that_of_the_harness(lm, hf):
    """256 tokens."""
    before = lm.speed.num_new_tokens
    generations(lm, ("the", {}))
    assert lm.speed.num_new_tokens - before == hf.max_gen_toks == 256


def test_samples_are_those_of_plain_decoding_with_the_seed(lm, pair):
    """Whatever the draft tree; temperature alone asks for sampling too, and a seed of its own changes the text."""
    plain = CaddtreeLM(pair, **PLAIN)
    requests = [("the", sampled()), ("the", sampled(seed=3)), ("the", sampled(top_k=4, top_p=0.8, seed=3))]
    found = generations(lm, *requests)

    assert found == generations(plain, *requests)
    assert plain.speed.num_draft_nodes == 0
    assert len({*found, *generations(lm, ("the", greedy()))}) == 4
    assert generations(lm, ("the", {"until": [], "max_gen_toks": 24, "temperature": 1.5})) == found[:1]


def test_the_seed_of_the_run_is_that_of_torch(lm):
    """``lm_eval --seed`` sets it."""
    with torch.random.fork_rng():
        texts = []
        for seed in (5, 6, 5):
            torch.manual_seed(seed)
            texts += generations(lm, ("the", sampled()))

    assert texts[0] == texts[2] != texts[1]


def test_repeats_differ_and_do_not_depend_on_other_requests(lm):
    """A sample is the same with ``--limit`` and without."""
    all_ = generations(lm, *[(prompt, sampled(seed=1)) for prompt in [*PROMPTS, PROMPTS[0], PROMPTS[0]]])

    assert len({all_[0], all_[3], all_[4]}) == 3
    assert generations(lm, (PROMPTS[2], sampled(seed=1)), (PROMPTS[0], sampled(seed=1))) == [all_[2], all_[0]]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"repetition_penalty": 1.2}, "'repetition_penalty' is not supported"),
        ({"max_lenght": 3}, "'max_lenght' is not supported"),
        ({"temprature": 1}, "did you mean temperature"),
        ({"num_beams": 4}, "num_beams=4"),
        ({"do_sample": True}, "do_sample=True needs a temperature above 0, found None"),
        ({"do_sample": True, "temperature": 0.0}, "do_sample=True needs a temperature above 0, found 0.0"),
        ({"do_sample": "yes"}, "do_sample must be true or false, found 'yes'"),
        ({"temperature": "hot"}, "temperature must be a number, found 'hot'"),
        ({"top_p": 2}, "top_p must be above 0 and at most 1, found 2"),
        ({"top_k": 0}, "top_k must be at least 1, found 0"),
        ({"max_gen_toks": 0}, "must be at least 1, found 0"),
        ({"max_gen_toks": 8, "max_tokens": 9}, "max_gen_toks=8, max_tokens=9 mean the same; give max_gen_toks alone"),
        ({"until": [3]}, "until must hold strings that are not empty, found 3"),
        ({"until": ["a", ""]}, "until must hold strings that are not empty, found ''"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(lm, kwargs, message):
    """Before the first answer, although an earlier request is fine."""
    before = lm.speed
    with pytest.raises(InputError, match=message):
        generations(lm, ("the", greedy(4)), ("the", {"until": [], **kwargs}))
    assert lm.speed == before


def test_options_that_greedy_decoding_does_not_use_are_named_once(lm, caplog):
    """Many tasks give a temperature beside ``do_sample: false``."""
    with caplog.at_level(logging.INFO, logger="lm_eval.caddtree"):
        generations(
            lm, *[("the", {"until": [], "max_gen_toks": 2, "do_sample": False, "temperature": 1, "num_beams": 1})] * 2
        )

    assert [record.message for record in caplog.records if "not used" in record.message] == [
        "caddtree: without do_sample decoding is greedy; not used: temperature"
    ]


def test_likelihoods_are_exact(lm, hf):
    """Against float64 by hand, and against the harness's own model; with and without a context."""
    requests = [(PROMPTS[0], " cat sat on the mat"), (PROMPTS[1] + " ", "it"), ("", "the dog")]
    encoded = [
        (lm.tok_encode(PROMPTS[0]), lm.tok_encode(" cat sat on the mat")),
        (lm.tok_encode(PROMPTS[1]), lm.tok_encode(" it")),
        ([lm.tokenizer.eos_token_id], lm.tok_encode("the dog")),
    ]

    for found, ids, theirs in zip(likelihoods(lm, *requests), encoded, likelihoods(hf, *requests), strict=True):
        assert found == (pytest.approx(exact_likelihood(lm, *ids)[0], rel=1e-5), False)
        assert found == (pytest.approx(theirs[0], rel=1e-5), theirs[1])


def test_a_continuation_that_greedy_decoding_writes_is_known(lm):
    """Every one of its tokens is the likeliest; one that is not ends it."""
    ids = lm.tok_encode(PROMPTS[0])
    written = list(lm.decoder.generate(ids, max_new_tokens=4, ignore_eos=True).token_ids)
    other = [*written[:3], (written[3] + 1) % 300]
    requests = [((PROMPTS[0], "..."), ids, continuation) for continuation in (written, other)]
    found = lm._loglikelihood_tokens(requests, disable_tqdm=True)

    assert [is_greedy for _, is_greedy in found] == [True, False]
    assert exact_likelihood(lm, ids, written) == (pytest.approx(found[0][0], rel=1e-5), True)
    assert exact_likelihood(lm, ids, other) == (pytest.approx(found[1][0], rel=1e-5), False)


def test_a_context_that_is_too_long_loses_its_beginning(lm, hf, caplog):
    """What remains is as long as the context allows; one line says so."""
    request = ("the cat sat on the mat " * 200, " and the dog")
    (found,) = likelihoods(lm, request)
    ids, continuation = lm._encode_pair(*request)
    expected, _ = exact_likelihood(lm, ids[len(continuation) - lm.max_length - 1 :], continuation)

    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert found == (pytest.approx(likelihoods(hf, request)[0][0], rel=1e-5), found[1])
    assert caplog.text.count("their beginnings are cut off") == 1


@pytest.mark.parametrize(("continuation", "count"), [("", 0), ("cat " * 600, r"\d+")])
def test_a_continuation_that_cannot_be_scored_is_refused(lm, continuation, count):
    """Nothing to score, or more than the context holds."""
    with pytest.raises(InputError, match=f"has {count} tokens of its own"):
        likelihoods(lm, ("the cat", continuation))


def test_rolling_likelihoods_read_the_whole_text(lm, hf):
    """Every token is predicted once, also of a text of several windows."""
    short, long = "the cat sat on the mat", "the cat sat on the mat, and the dog sat on the cat " * 90
    prefix = [lm.tokenizer.eos_token_id]

    assert rolling(lm, short) == pytest.approx(exact_likelihood(lm, prefix, lm.tok_encode(short))[0], rel=1e-5)
    assert len(lm.tok_encode(long)) > 2 * lm.max_length
    assert rolling(lm, long) == pytest.approx(rolling(hf, long), rel=1e-5)


def test_targets_that_break_are_refused(lm, monkeypatch):
    """A NaN would otherwise be a score."""
    monkeypatch.setattr(lm.decoder.target, "head_logits", lambda hidden: torch.full((len(hidden), 300), torch.nan))
    with pytest.raises(ArithmeticError, match="logits are not finite"):
        likelihoods(lm, ("the", " cat"))


def test_chats_are_written_by_the_template(lm, hf):
    """As the harness's own model writes them; a template of that name is used from then on."""
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]

    assert lm.apply_chat_template(chat) == hf.apply_chat_template(chat) == "user: the cat\nassistant: sat\n"
    assert lm.apply_chat_template(chat, False) == hf.apply_chat_template(chat, False) == "user: the cat\nassistant: sat"
    assert lm.tokenizer_name == hf.tokenizer_name
    assert lm.chat_template(True) == hf.chat_template(True) == lm.tokenizer.chat_template


def test_a_template_chosen_by_name_is_used(pair):
    """With the variables of ``chat_template_args``."""
    own = CaddtreeLM(pair, chat_template_args={"mood": "loud"})
    own.tokenizer.chat_template = {"default": "{{ messages[0]['content'] }}", "moody": "{{ mood }}"}
    chat = [{"role": "user", "content": "the cat"}]

    assert own.apply_chat_template(chat) == "the cat"
    own.chat_template("moody")
    assert own.apply_chat_template(chat) == "loud"
    own.tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template; leave out --apply_chat_template"):
        own.apply_chat_template(chat)


def test_special_tokens_are_those_of_the_harness_own_model(lm, hf, monkeypatch):
    """One at the beginning, never two: a chat template may have written it."""
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|end|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    monkeypatch.setattr(lm, "tokenizer", tokenizer)
    monkeypatch.setattr(hf, "tokenizer", tokenizer)

    for text in ("the cat", "<|end|>the cat"):
        assert lm.tok_encode(text).count(0) == 1
        assert lm.tok_encode(text) == hf.tok_encode(text)
    assert lm.tok_encode("the cat", add_special_tokens=False).count(0) == 0
    assert lm.prefix_token_id == hf.prefix_token_id == 0


def test_an_empty_prompt_stands_behind_the_prefix_token(lm):
    """A target needs one token."""
    assert generations(lm, ("", greedy(6))) == [plain_text(lm, "<|end|>", 6)]


def test_answers_are_cached_as_they_come(pair, tmp_path, monkeypatch):
    """A second run asks the decoder nothing; what an interrupted one has done is kept."""
    own = CaddtreeLM(pair)
    requests = [Instance("generate_until", {}, (prompt, greedy(4)), 0) for prompt in PROMPTS]
    interrupted = CachingLM(own, str(tmp_path / "answers.db"))
    whole = own.decoder.generate
    monkeypatch.setattr(
        own.decoder,
        "generate",
        lambda prompt, **options: whole(prompt, **options) if own.speed.num_requests < 2 else 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        interrupted.generate_until(requests)
    monkeypatch.undo()
    first = CachingLM(own, str(tmp_path / "answers.db")).generate_until(requests)

    assert own.speed.num_requests == 3
    assert CachingLM(own, str(tmp_path / "answers.db")).generate_until(requests) == first
    assert own.speed.num_requests == 3
    assert first == [plain_text(own, prompt, 4) for prompt in PROMPTS]


def test_likelihoods_are_cached_too(lm):
    """Under the arguments that the harness looks up."""
    kept = {}
    hook, lm.cache_hook = (
        lm.cache_hook,
        types.SimpleNamespace(add_partial=lambda *entry: kept.update({entry[:2]: entry[2]})),
    )
    try:
        (value,) = likelihoods(lm, ("the", " cat"))
        total = rolling(lm, "the cat")
    finally:
        lm.cache_hook = hook

    assert kept == {("loglikelihood", ("the", " cat")): value, ("loglikelihood_rolling", ("the cat",)): total}


@pytest.mark.parametrize("batch_size", [1, "1", "auto", "auto:4"])
def test_batches_of_one_are_accepted(pair, batch_size):
    """``auto`` means 1 then, whatever its bound."""
    assert CaddtreeLM(pair, batch_size=batch_size, max_batch_size=8, device="cpu").device.type == "cpu"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 8}, InputError, "batch_size is 8, but sequences are decoded one at a time"),
        ({"batch_size": "4"}, InputError, "batch_size is '4'"),
        ({"recipe": None}, InputError, r"model_args need recipe=NAME, one of .*demo-ddtree"),
        ({"generation.temperature": 1}, InputError, "generation.temperature: the task decides .* use --gen_kwargs"),
        ({"device": "cuda:7", "target.device": "cpu"}, InputError, "--device is cuda:7, but .* target.device=cpu"),
        ({"device": "cuda:7", "target": {"device": "cpu"}}, InputError, "--device is cuda:7, but .* target.device=cpu"),
        ({"pretrained": "gpt2"}, RecipeError, "pretrained.* is no section of a recipe"),
        ({"tree_builder.node_budgte": 3}, RecipeError, "did you mean node_budget"),
        ({"recipe": "demoo"}, RecipeError, "there is no recipe 'demoo'; did you mean demo"),
    ],
)
def test_arguments_that_cannot_be_honoured_are_refused(pair, arguments, error, message):
    """Before anything is loaded."""
    with pytest.raises(error, match=message):
        CaddtreeLM(**{"recipe": pair, **arguments})


def test_arguments_change_the_recipe_by_value(pair):
    """Numbers, words, lists and nothing, as the harness parses them, and whole sections."""
    own = CaddtreeLM.create_from_arg_obj(
        {
            "recipe": str(pair), "target.prefill_chunk": 7, "target.device": "cpu", "target.context_limit": None,
            "runtime": {"graphs": "never"}, "runtime.buckets": [1, 4], "cost_model.overhead_seconds": 1e-05,
        },
        {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"},
    )  # fmt: skip

    assert (own.recipe.target.prefill_chunk, own.recipe.target.device) == (7, "cpu")
    assert own.recipe.target.context_limit is None
    assert (own.recipe.runtime.graphs, own.recipe.runtime.buckets) == ("never", (1, 4))
    assert own.recipe.cost_model.options["overhead_seconds"] == 1e-05


def test_what_gives_way_is_said(pair, caplog):
    """The harness's default device, code of model folders, the recipe's own way to generate."""
    with caplog.at_level(logging.INFO, logger="lm_eval.caddtree"):
        CaddtreeLM(pair, device="cuda:0", trust_remote_code=True)

    if not torch.cuda.is_available():
        assert "the recipe's target.device decides, not the harness's default cuda:0" in caplog.text
    assert "trust_remote_code holds for data sets" in caplog.text
    assert "the recipe's generation section is not used" in caplog.text
