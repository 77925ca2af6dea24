"""A target sharded over two processes decodes as one process does, and ends as one. FT-43, L-07."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, GPT2Config

import caddtree
from caddtree.core.decoder import Decoder
from caddtree.core.errors import CompatibilityError, ResourceError
from caddtree.core.group import Alone
from caddtree.core.target import Target
from caddtree.runtime import tensor_parallel, watch
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.core.test_out_of_memory import Fails
from tests.runtime import rank_program
from tests.tiny_models import FAMILIES, ScriptedDrafter, plain_greedy, tiny_model
from tests.tiny_pair import write_pair
from tests.verifiers.test_sdpa import BOUNDS, calm_model

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Run:
    """One torchrun of two processes."""

    code: int
    stdout: str
    stderr: str
    ranks: tuple[dict, ...] = ()


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def torchrun(*program, seconds=300) -> Run:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, program)]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
    return Run(done.returncode, done.stdout, done.stderr)


def launch(folder, *scenarios, seconds=300) -> dict[str, Run]:
    """What torchrun makes of each scenario, without the seconds in which every process of its own would import."""
    command = [sys.executable, str(Path(rank_program.__file__).with_name("rank_launcher.py")), str(folder), *scenarios]
    subprocess.run(command, timeout=seconds, env={**os.environ, **ENVIRONMENT}, check=True)
    return {
        name: Run(
            *(
                read((folder / f"{name}.{end}").read_text())
                for read, end in ((int, "code"), (str, "out"), (str, "err"))
            ),
            tuple(json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-?.json"))),
        )
        for name in scenarios
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    write_pair(folder)
    for dtype in BOUNDS:
        model = calm_model(dtype=dtype, vocab_size=rank_program.VOCABULARY)
        model.save_pretrained(rank_program.calm_folder(folder, dtype))
    truths = {}
    for family in FAMILIES:
        model = tiny_model(family, vocab_size=rank_program.VOCABULARY)
        model.save_pretrained(folder / family)
        truths[family] = plain_greedy(model, rank_program.TEXT, 24)
    (folder / "truths.json").write_text(json.dumps(truths))
    return folder


@pytest.fixture(scope="module")
def runs(pair):
    return launch(pair, "lockstep", "killed", "recipes")


@pytest.fixture(scope="module")
def lockstep(runs):
    run = runs["lockstep"]
    assert len(run.ranks) == 2, "\n".join(line for line in run.stderr.splitlines() if line.startswith("[rank"))
    return run


@pytest.fixture(scope="module")
def plain(pair):
    """What one process answers, and the tokens of plain decoding behind it."""
    decoder = caddtree.load(pair / "recipe.yaml")
    model, tokenizer = decoder.target.model, decoder.tokenizer
    held = {"model": model, "tokenizer": tokenizer}
    return rank_program.answers(pair / "recipe.yaml", {}, held), plain_greedy(
        model, tokenizer.encode(rank_program.PROMPT), 24
    )


def both(run, name):
    first, second = (rank[name] for rank in run.ranks)
    return first, second


def test_l07_tokens_are_those_of_one_process(lockstep, plain):
    """L-07: chain, DDTree and CaDDTree, a drafter with the target's own head and one without, greedy and sampled."""
    answers, greedy = plain
    for found in both(lockstep, "answers"):
        assert found == answers
    assert answers["chain dflash {}"] == greedy[:16]
    assert len({tuple(tokens) for tokens in answers.values()}) == len(rank_program.MODES)


@pytest.mark.slow
def test_l07_tokens_of_the_other_builders_and_drafters_are_those_of_one_process(pair):
    """L-07: the pairs that the test above leaves out."""
    decoder = caddtree.load(pair / "recipe.yaml")
    held = {"model": decoder.target.model, "tokenizer": decoder.tokenizer}
    expected = rank_program.answers(pair / "recipe.yaml", {}, held, rank_program.OTHER_PAIRS)
    run = launch(pair, "others")["others"]

    assert [rank["answers"] for rank in run.ranks] == [expected, expected]


def test_l07_padded_rows_and_generate_are_exact_too(lockstep, plain):
    """L-07: fixed shapes write the local heads by slot; Transformers' own entry leads to the same loop."""
    _, greedy = plain
    for name, count in (("padded", 24), ("custom_generate", 12)):
        for found in both(lockstep, name):
            assert found == greedy[:count], name


@pytest.mark.parametrize("family", FAMILIES)
def test_l07_long_accepted_paths_of_every_family(lockstep, pair, family):
    """L-07: tied heads and sliding windows among them; paths that leave the first branch are committed alike."""
    truth = json.loads((pair / "truths.json").read_text())[family]
    for found in both(lockstep, "families"):
        tokens, acceptance_length = found[family]

        assert tokens == truth
        assert acceptance_length > 1.5


def test_each_process_keeps_its_own_heads(lockstep):
    """Of two key/value heads one each; a message longer than one broadcast arrives whole."""
    assert both(lockstep, "heads") == (1, 1)
    assert both(lockstep, "long") == (100_000, 100_000)


@pytest.mark.parametrize("attention", ["masks", "kernel"])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_l07_logits_equal_those_of_the_whole_model(lockstep, pair, dtype, attention):
    """L-07: within the bounds of L-02, at every node of a tree behind a text of three chunks."""
    model = AutoModelForCausalLM.from_pretrained(rank_program.calm_folder(pair, dtype), dtype=dtype).eval()
    expected = rank_program.tree_logits(Target(model, prefill_chunk=32))
    for rank in range(2):
        found = torch.load(pair / f"{attention}-{rank}-{dtype}", weights_only=True)

        assert (found - expected).abs().max() <= BOUNDS[dtype]
    assert expected.std() > 0.3


def test_skewed_clocks_change_nothing(lockstep):
    """A clock nine times as fast, in one process: profile and tokens of the demo pair are those of the first."""
    whole = rank_program.demo_answers(caddtree.load("demo-plain"))
    for found in both(lockstep, "demo"):
        assert found == whole
    for found in both(lockstep, "demo again"):
        assert found == whole["{}"][:4]
    first, second = both(lockstep, "profile")
    assert first == second
    assert json.loads(first)["key"]["processes"] == "2"


def test_one_process_measures_for_all_and_keeps_the_profile(lockstep, pair):
    """The other has its own cache folder, and nothing in it; the second decoder reads what was kept."""
    assert len(list((pair / "cache-0").rglob("*.json"))) == 1
    assert not list((pair / "cache-1").rglob("*.json"))
    assert both(lockstep, "profile again") == both(lockstep, "profile")


def test_the_first_process_decides(lockstep, plain):
    """Its drafts, tree, walk and wish to stop are those of all; what the other sees is not asked for."""
    _, greedy = plain
    assert both(lockstep, "odd") == (greedy, greedy)
    assert both(lockstep, "stopped") == (["cancelled", 2], ["cancelled", 2])


def test_a_stopping_rule_is_answered_by_the_first_process_which_alone_is_told_of_rounds(lockstep):
    """The second would have gone on for three tokens; it still has the rule, or it would wait in vain."""
    first, second = both(lockstep, "ruled")
    assert (len(first), len(second)) == (3, 3)
    assert first == second == both(lockstep, "afterwards")[0][:3]
    first, second = both(lockstep, "observers")
    assert first[-2:] == ["Early", "Counter"]
    assert second == [*first[:-2], "_RuleAlone"]


def test_ft43_another_request_is_refused_by_all_and_the_next_is_served(lockstep, plain):
    """FT-43: both name the rank and the two values, and are in step afterwards."""
    for found in both(lockstep, "another prompt"):
        assert "a request: rank 1 has prompt 'the cat" in found
        assert "on the 1' (" in found
        assert "but rank 0 has 'the cat" in found
    for found in both(lockstep, "another option"):
        assert "rank 1 has max_new_tokens 6, but rank 0 has 5" in found
    assert both(lockstep, "afterwards") == (plain[1], plain[1])


def test_ft43_a_fault_of_one_process_ends_all(lockstep):
    """FT-43: the one says what failed, the other says who; neither decodes any more."""
    first, second = both(lockstep, "failed")
    assert second.startswith("StageError: drafter Changed failed in round 0: ZeroDivisionError")
    assert first.startswith("GroupError: ")
    assert "rank 1 failed: StageError: drafter Changed failed in round 0: ZeroDivisionError" in first
    for found in both(lockstep, "ended"):
        assert "rank 1 failed" in found
        assert "start all processes again" in found


def test_a_sharded_model_needs_its_group(lockstep):
    """Decoding it in one process only would wait for the others for ever."""
    for found in both(lockstep, "whole"):
        assert "the model is sharded over several processes" in found


def test_ft43_a_killed_process_ends_the_other_in_seconds(runs, pair):
    """FT-43: with its rank, the cause and the place."""
    run = runs["killed"]
    seconds = float((pair / "said-at").read_text()) - float((pair / "killed-at").read_text())

    assert run.code != 0
    assert seconds < 15
    assert "error: GroupError: round " in run.stderr
    assert "rank 1 has not been heard of for" in run.stderr


def test_ft43_another_recipe_ends_both_processes(runs):
    """FT-43: before anything is loaded, naming the rank, the key and both values."""
    run = runs["recipes"]

    assert run.code != 0
    said = "error: a recipe: rank 1 has tree_builder.node_budget 7, but rank 0 has 6. All processes must be"
    # torchrun may end one of them before it has spoken, because the other one has ended
    assert f"\n{said}" in f"\n{run.stderr}" or f"\nrank 1: {said}" in f"\n{run.stderr}"
    assert "exitcode  : 2" in run.stderr
    assert run.stdout == ""


def test_the_command_line_speaks_once(pair):
    """One text on standard output, one line of figures and one line per message on standard error."""
    recipe = pair / "recipe.yaml"
    run = torchrun(
        "-m", "caddtree", "generate", rank_program.PROMPT, "--recipe", recipe, "--set", "target.parallel=tensor"
    )
    text = caddtree.load(recipe).generate(rank_program.PROMPT).text

    assert run.code == 0, run.stderr
    assert run.stdout.rstrip("\n") == text.rstrip("\n")
    assert run.stderr.count("[24 tokens, ") == 1
    assert run.stderr.count("runtime: the target is sharded") == 1
    assert "warning" not in run.stderr.lower()


@pytest.mark.parametrize(
    ("parallel", "size", "message"),
    [
        ("tensor", "1", "this process is the only one; start two or more: torchrun --nproc-per-node 2"),
        ("auto", "2", "2 processes were started together, and each of them would do the same work"),
    ],
)
def test_the_way_a_process_was_started_must_fit(pair, monkeypatch, parallel, size, message):
    """Neither half a model nor the same work twice."""
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(CompatibilityError, match=message):
        caddtree.load(pair / "recipe.yaml", {"target": {"parallel": parallel}})


def test_processes_may_answer_each_on_its_own(pair, monkeypatch):
    """Where that is said aloud."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    decoder = caddtree.load(pair / "recipe.yaml", {"target": {"parallel": "none"}})

    assert isinstance(decoder.group, Alone)


def test_heads_are_dealt_out_evenly_or_not_at_all():
    """Two key/value heads serve two processes; the message says how many would do."""
    config = tiny_model().config
    tensor_parallel._check_plan(config, "qwen", 2)
    with pytest.raises(CompatibilityError, match=r"num_key_value_heads 2 cannot be dealt out to 4 .*start one of 2"):
        tensor_parallel._check_plan(config, "qwen", 4)
    with pytest.raises(CompatibilityError, match="num_attention_heads 4 cannot be dealt out to 3 processes"):
        tensor_parallel._check_plan(config, "qwen", 3)


def test_a_family_without_a_plan_is_refused():
    """By the name of its type."""
    with pytest.raises(CompatibilityError, match="no plan to shard models of type gpt2"):
        tensor_parallel._check_plan(GPT2Config(), "gpt", 2)


@pytest.mark.parametrize(
    ("device", "message"),
    [("cpu:0", "every process needs a device of its own"), ("xpu", "runs on cuda devices, and on the CPU")],
)
def test_devices_that_cannot_be_shared_out_are_refused(device, message):
    """An index would put all processes on one device."""
    with pytest.raises(CompatibilityError, match=message):
        tensor_parallel._device(device)


class Two(Alone):
    """A group whose other process is never asked."""

    size = 2


def test_memory_that_runs_out_in_one_of_two_processes_ends_the_request(monkeypatch):
    """The other is in the middle of a pass: a second attempt would wait for it for ever."""
    target, text = Target(tiny_model(), group=Two()), [3, 1, 4]
    truth = plain_greedy(target.model, text, 20)
    drafter = ScriptedDrafter({tuple(text): truth})
    decoder = Decoder(target=target, drafter=drafter, tree_builder=DDTree(node_budget=6), verifier=SdpaVerifier())
    session = decoder.open(text, max_new_tokens=20)
    calls = Fails(target.forward_view, {1})
    monkeypatch.setattr(target, "forward_view", calls)
    with pytest.raises(ResourceError, match="round 0: out of memory"):
        session.step()

    assert calls.count == 1


@pytest.fixture
def watches(monkeypatch):
    """Two processes' views of one another, in one process and a hundred times as fast."""
    for name in ("_BEAT_SECONDS", "_SILENT_SECONDS", "_SUSPECT_SECONDS"):
        monkeypatch.setattr(watch, name, getattr(watch, name) / 20)
    store = dist.HashStore()
    made = [watch.Watch(store, rank, 2, stuck_seconds=1.0) for rank in range(2)]
    yield made
    for each in made:
        each._stop.set()


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_a_silent_process_is_called_dead(watches):
    """By the one that lives, with what the dead was doing; sooner where a connection is lost as well."""
    watches[1].where = "round 3"
    watches[1].beat()
    watches[0]._thread.start()
    assert watches[0].ending is None
    assert "rank 1 has not been heard of for" in watches[0].found_within(3.0)
    assert watches[0].ending.endswith("last seen in round 3")


def test_the_first_fault_is_what_all_are_told(watches):
    """A second one is a consequence."""
    for each in watches:
        each._thread.start()
    watches[1].tell("failed: StageError: x")
    until(lambda: watches[0].ending is not None)
    watches[0].tell("failed: something else")

    assert watches[0].ending == watches[1].ending == "rank 1 failed: StageError: x"


def test_a_process_that_has_finished_is_not_missed(watches):
    """Silence after a farewell is no fault, unless somebody waits for more."""
    for each in watches:
        each._thread.start()
    watches[1].stop()
    until(lambda: watches[0].left == {1})
    time.sleep(1.0)

    assert watches[0].ending is None
    assert watches[0].found_within(0.5) == "rank 1 has ended its process"


def test_a_process_that_waits_for_the_dead_is_ended_from_outside():
    """Where no exception reaches the main thread: exit code 1 and one line."""
    program = (
        "import time, torch.distributed as dist\n"
        "from caddtree.runtime import watch\n"
        "watch._BEAT_SECONDS = 0.05\n"
        "store = dist.HashStore()\n"
        "mine, other = (watch.Watch(store, rank, 2, stuck_seconds=0.2) for rank in (1, 0))\n"
        "other.tell('failed: x')\n"
        "mine.start()\n"
        "mine.steps_entered, mine.where = 1, 'round 5'\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "rank 1: error: round 5: rank 0 failed: x"
