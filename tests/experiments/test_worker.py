"""The worker: what a cell's record holds, chats of several turns, where outputs differ, and what is kept apart."""

from __future__ import annotations

import attrs
import pytest
import torch

from caddtree.experiments.engines.messages import Began, Loading
from caddtree.experiments.experiment_files import load_experiment
from caddtree.experiments.planning import make_job, make_plan
from caddtree.experiments.prompts import PromptRecord
from caddtree.experiments.records import Difference, Environment, Failed, LoadedVariant, Result
from caddtree.experiments.sweep import load_all_prompts
from caddtree.experiments.worker import Worker
from tests.experiments.tiny_experiment import write_experiment


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return load_experiment(write_experiment(tmp_path_factory.mktemp("worker"), prompts=2))


@pytest.fixture(scope="module")
def blocks(experiment):
    return make_plan(experiment, load_all_prompts(experiment))[1]


@pytest.fixture(scope="module")
def started(experiment, blocks):
    plan = make_plan(experiment, load_all_prompts(experiment))[0]
    worker = Worker(make_job(experiment, plan, blocks))
    return worker, list(worker.load())


def results(worker, block):
    return {message.cell.variant: message for message in worker.run(block) if isinstance(message, Result)}


def test_loading_says_what_was_loaded(started):
    """The environment first, then every variant with recipe, bytes and the time that is in no figure."""
    worker, loaded = started
    weights = {
        entry.variant: (entry.target_bytes, entry.drafter_bytes, entry.key_value_bytes) for entry in loaded[2::2]
    }
    model = worker._model
    config = model.config
    head = model.get_output_embeddings().weight

    assert [type(record) for record in loaded] == [Environment] + [Loading, LoadedVariant] * 4
    assert loaded[0].facts["dtype"] == "float32"
    assert loaded[0].facts["threads"] == torch.get_num_threads()
    assert weights["plain"][1] == 0
    assert weights["chain"][1] > 4 * head.numel()
    # every weight but the embedding table, of which a forward reads a few rows
    untied = model.get_input_embeddings().weight is not head
    table = 4 * model.get_input_embeddings().weight.numel() if untied else 0
    assert weights["chain"][0] == sum(4 * p.numel() for p in model.parameters()) - table
    assert weights["chain"][2] == 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert all(entry.warm_up_seconds > 0 for entry in loaded[2::2])


def test_a_cell_holds_what_the_decoder_reported(started, blocks):
    """Announced, then its tokens and columns of rounds, as long as each other; the order is the block's."""
    worker, _ = started
    messages = list(worker.run(blocks[0]))
    found = [message for message in messages if isinstance(message, Result)]

    assert [type(message) for message in messages] == [Began, Result] * 4
    assert [result.position for result in found] == [0, 1, 2, 3]
    assert tuple(result.cell for result in found) == blocks[0].cells
    for result in found:
        columns = attrs.asdict(result.rounds)
        assert {len(column) for column in columns.values()} == {len(result.rounds.num_gained)}
        # the token that prefill gives is in neither count
        assert result.num_gained == len(result.token_ids) - 1
        assert all(
            gained == accepted + 1
            for gained, accepted in zip(columns["num_gained"], columns["num_accepted"], strict=True)
        )
        assert result.decode_seconds > 0
        assert result.harness_seconds > 0
        assert result.token_ids == found[0].token_ids
    assert {result.cell.variant for result in found if result.reliability is None} == {"plain"}


def test_later_turns_of_a_chat_follow_the_answers(started, blocks):
    """The second turn is asked behind the first answer: as if the chat had been given whole."""
    worker, _ = started
    prompt = PromptRecord("chat", "first", [{"role": "user", "content": "the cat"}], later_turns=("the dog",))
    block = attrs.evolve(blocks[0], prompt=prompt)
    found = results(worker, block)["plain"]
    decoder = worker._decoders["plain"]
    first = decoder.generate(prompt.prompt, max_new_tokens=12)
    chat = [*prompt.prompt, {"role": "assistant", "content": first.text}, {"role": "user", "content": "the dog"}]
    second = decoder.generate(chat, max_new_tokens=12)

    assert tuple(found.token_ids) == first.token_ids + second.token_ids
    assert found.num_prompt_tokens == second.num_prompt_tokens
    assert len(found.rounds.num_gained) == len(first.rounds) + len(second.rounds)
    assert found.token_ids == results(worker, block)["caddtree objective=ratio"].token_ids


def test_where_outputs_differ_is_said_with_the_gap_of_the_target(started, blocks):
    """A variant is said to have given another fourth token: it leaves plain decoding there, far from a tie."""
    worker, _ = started
    block = blocks[0]
    honest = results(worker, block)["plain"].token_ids
    false = [*honest[:3], (honest[3] + 1) % 300, *honest[4:]]
    differences = list(worker._differences(block, {"plain": honest, "chain": false, "ddtree-4": honest}))
    # the gap by hand: a forward over prompt and common tokens
    tokens = worker._tokenizer.encode(block.prompt.prompt) + honest[:3]
    best, second = worker._model(torch.tensor([tokens])).logits[0, -1].topk(2).values.tolist()

    assert [difference.cell.variant for difference in differences] == ["chain"]
    assert differences[0].position == 3
    assert differences[0].gap == pytest.approx(
        (best - second) / torch.tensor(best).abs().log2().floor().exp2() / 2**-23
    )


def test_without_plain_tokens_nothing_is_said_to_differ(started, blocks):
    """The store compares tokens by itself once both are there."""
    worker, _ = started
    some = tuple(cell for cell in blocks[0].cells if cell.variant != "plain")

    assert not [m for m in worker.run(attrs.evolve(blocks[0], cells=some)) if isinstance(m, Difference)]


def test_a_prompt_that_cannot_be_used_fails_its_cells_alone(started, blocks):
    """Too long for the context; the next block is run."""
    worker, _ = started
    limit = worker._decoders["plain"].target.position_limit
    block = attrs.evolve(blocks[0], prompt=PromptRecord("long", "first", [5] * limit))
    failed = [message for message in worker.run(block) if isinstance(message, Failed)]

    assert len(failed) == 4
    assert all(f"the prompt has {limit} tokens" in message.reason for message in failed)
    assert len(results(worker, blocks[1])) == 4


def test_the_answer_is_shorter_where_the_context_ends(started, blocks):
    """More tokens are asked for than there is room: the answer ends with the context, in every variant alike."""
    worker, _ = started
    limit = worker._decoders["plain"].target.position_limit
    block = attrs.evolve(blocks[0], prompt=PromptRecord("long", "first", [5] * (limit - 4)))
    found = results(worker, block)

    assert {result.finish_reason for result in found.values()} <= {"length", "stop"}
    assert all(len(result.token_ids) <= 4 for result in found.values())


def test_data_sets_do_not_teach_one_another(started, blocks):
    """Each has a long-run speed of its own, as if a decoder served it alone."""
    worker, _ = started
    name = "caddtree objective=ratio"
    worker._speeds.clear()
    for block in blocks[:4]:
        list(worker.run(block))
    speeds = {key: speed for key, speed in worker._speeds.items() if key[0] == name}

    assert {key[1:] for key in speeds} == {
        (setting, dataset) for setting in ("temperature=0", "temperature=1") for dataset in ("first", "second")
    }
    assert all(speed.rounds > 0 for speed in speeds.values())
    assert len({id(speed) for speed in speeds.values()}) == 4


def test_a_first_prompt_that_cannot_be_used_warms_nothing_up_and_ruins_nothing(experiment, blocks):
    """The longest prompt is too long: the next one warms up, its own cells fail, the others are run."""
    plan, _ = make_plan(experiment, load_all_prompts(experiment))
    job = make_job(experiment, plan, blocks)
    long = PromptRecord("long", "first", [5] * 9000)
    worker = Worker(attrs.evolve(job, prompts=(long, *job.prompts)))
    loaded = [record for record in worker.load() if isinstance(record, LoadedVariant)]

    assert len(loaded) == 4
    assert len(results(worker, blocks[0])) == 4


def test_a_warm_up_asks_for_what_the_cells_ask_for(started, monkeypatch):
    """Every setting, with its own length, stopped early: buffers are as large as they will be."""
    from caddtree.experiments import worker as module

    worker, _ = started
    decoder, seen = worker._decoders["chain"], []

    def open_and_note(prompt):
        seen.append(decoder.options)
        return type(decoder).open(decoder, prompt)

    monkeypatch.setattr(decoder, "open", open_and_note)
    for request in worker.job.requests:
        module._warm_up(decoder, request, worker.job.prompts, 3)

    assert seen == list(worker.job.requests)
    assert [request.temperature for request in seen] == [0.0, 1.0]
    assert {request.max_new_tokens for request in seen} == {12}


def test_references_are_run_beside_what_is_left(started, blocks):
    """Plain decoding once more for the cells of a block that another worker began."""
    worker, _ = started
    plain = next(cell for cell in blocks[0].cells if cell.variant == "plain")
    others = tuple(cell for cell in blocks[0].cells if cell.variant != "plain")
    found = results(worker, attrs.evolve(blocks[0], cells=others[:1], references=(plain,)))

    assert set(found) == {"plain", others[0].variant}
