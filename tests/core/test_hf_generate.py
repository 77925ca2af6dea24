"""Transformers' entry for custom decoding: tokens, criteria, streamers and outputs of ``model.generate``."""

from __future__ import annotations

import functools
import threading

import pytest
import torch
from transformers import (
    MaxTimeCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TextIteratorStreamer,
    TextStreamer,
)

from tests.core.hf_calls import PROMPTS, make_both
from tests.tiny_models import prompts
from tests.tiny_pair import SIZE, tiny_tokenizer

GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def both(tokenizer):
    return make_both(tokenizer, vocab_size=SIZE)


@pytest.mark.parametrize("options", [GREEDY, SAMPLED, {**SAMPLED, "temperature": 0.7, "top_p": 0.9}])
def test_prompts_of_all_lengths_give_the_tokens_of_generate(both, options):
    """Six random prompts, one of a single token; paths leave the chain."""
    both.rounds.clear()
    for prompt in [*prompts(5, vocabulary=SIZE, seed=2, low=2, high=30), [5]]:
        plain = both.plain(prompt, **options)
        ours = both.ours(prompt, plain, **options)

        assert ours.tolist() == plain.tolist()
        assert (ours.dtype, ours.device, ours.shape) == (plain.dtype, plain.device, plain.shape)
    assert any(round_.num_accepted > 2 for round_ in both.rounds)
    assert any(round_.path != tuple(range(len(round_.path))) for round_ in both.rounds)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_the_type_of_the_answer_is_that_of_generate(both, dtype):
    """Also behind a prompt of another integer type."""
    ids = torch.tensor([PROMPTS[1]], dtype=dtype)
    plain = both.model.generate(ids, max_new_tokens=4, attention_mask=torch.ones_like(ids))
    ours = both.model.generate(
        ids, max_new_tokens=4, attention_mask=torch.ones_like(ids), custom_generate=both.decoder.custom_generate
    )

    assert ours.dtype == plain.dtype
    assert ours.tolist() == plain.tolist()


class Calls:
    """A logits processor or a stopping criterion that writes down what it is asked."""

    def __init__(self, last=None):
        self.asked, self.last = [], last

    def __call__(self, tokens, scores):
        self.asked.append(tokens[0].tolist())
        return scores if self.last is None else torch.tensor([len(self.asked) >= self.last])


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_a_processor_sees_at_every_node_the_path_of_that_node(both, options):
    """The very calls of plain generate: every emitted token once, in order, behind the text that leads to it."""
    for prompt in PROMPTS:
        there, here = Calls(), Calls()
        plain = both.plain(prompt, **options, logits_processor=[there])
        both.rounds.clear()
        both.ours(prompt, plain, **options, logits_processor=[here])

        assert here.asked == there.asked
        assert any(round_.num_accepted > 1 for round_ in both.rounds)


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_a_processor_of_the_callers_own_decides(both, options):
    """One that reads the whole text, one that remembers its calls, and one that writes into its argument."""

    def shifted(tokens, scores):
        return scores.roll(int(tokens.sum()) % 7, dims=1)

    class Counting:
        def __init__(self):
            self.count = 0

        def __call__(self, tokens, scores):
            self.count += 1
            return scores.roll(self.count % 5, dims=1)

    def in_place(tokens, scores):
        scores[:, tokens[0, -1] :: 2] = -50.0
        return scores

    for make in (lambda: shifted, Counting, lambda: in_place):
        plain = both.plain(PROMPTS[1], **options, logits_processor=[make()])
        ours = both.ours(PROMPTS[1], plain, **options, logits_processor=[make()])

        assert ours.tolist() == plain.tolist()


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_a_rule_of_allowed_tokens_is_kept(both, options):
    """``prefix_allowed_tokens_fn``, asked with the text of every node."""

    def allowed(row, tokens):
        return [token for token in range(SIZE) if (token + int(tokens.sum())) % 3]

    plain = both.plain(PROMPTS[1], **options, prefix_allowed_tokens_fn=allowed)

    assert both.ours(PROMPTS[1], plain, **options, prefix_allowed_tokens_fn=allowed).tolist() == plain.tolist()
    assert plain.tolist() != both.plain(PROMPTS[1], **options).tolist()


class Length(StoppingCriteria):
    """Stops at a number of tokens that no round is aligned with."""

    def __init__(self, length):
        self.length = length

    def __call__(self, tokens, scores, **_):
        return torch.full((tokens.shape[0],), tokens.shape[1] >= self.length)


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
@pytest.mark.parametrize("num_new", [1, 2, 3, 5, 8])
def test_a_criterion_stops_inside_an_accepted_path(both, options, num_new):
    """Token by token, wherever it falls; nothing behind it is there."""
    prompt = PROMPTS[1]
    whole = both.plain(prompt, **options)
    criteria = StoppingCriteriaList([Length(len(prompt) + num_new)])
    ours = both.ours(prompt, whole, **options, stopping_criteria=criteria)

    assert ours.tolist() == whole[:, : len(prompt) + num_new].tolist()


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_a_criterion_is_asked_once_after_every_token(both, options):
    """One that counts its calls stops where it stops plain generate."""
    for last in (1, 4, 7):
        there, here = Calls(last), Calls(last)
        plain = both.plain(PROMPTS[1], **options, stopping_criteria=StoppingCriteriaList([there]))
        ours = both.ours(
            PROMPTS[1],
            both.plain(PROMPTS[1], **options),
            **options,
            stopping_criteria=StoppingCriteriaList([here]),
        )

        assert ours.tolist() == plain.tolist()
        assert here.asked == there.asked


def test_a_criterion_sees_the_scores_that_are_asked_for(both):
    """As there: all rows so far under ``output_scores``, None otherwise."""
    found = []

    class Look(StoppingCriteria):
        def __call__(self, tokens, scores, **_):
            found.append((tokens.shape[1], scores if scores is None else len(scores)))
            return torch.tensor([False])

    for options in ({}, {"return_dict_in_generate": True, "output_scores": True}):
        found.clear()
        both.plain(PROMPTS[1], **options, stopping_criteria=StoppingCriteriaList([Look()]))
        there = list(found)
        found.clear()
        both.ours(PROMPTS[1], both.plain(PROMPTS[1]), **options, stopping_criteria=StoppingCriteriaList([Look()]))

        assert found == there


def some_strings(both, tokenizer, prompt):
    """Pieces of what plain generate says that begin and end inside tokens and rounds."""
    plain = both.plain(prompt)
    text = tokenizer.decode(plain[0, len(prompt) :])
    return plain, [text[2:3], text[5:8], [text[9:11], text[4:6]], "never said"]


def test_stop_strings_by_criteria_end_the_text_where_plain_generate_ends(both, tokenizer):
    """StopStringCriteria of the caller's own."""
    for prompt in PROMPTS:
        plain, strings = some_strings(both, tokenizer, prompt)
        for stop in strings:
            criteria = StoppingCriteriaList([StopStringCriteria(tokenizer, stop)])
            expected = both.plain(prompt, stop_strings=stop, tokenizer=tokenizer)

            assert both.ours(prompt, plain, stopping_criteria=criteria).tolist() == expected.tolist()


def test_stop_strings_as_an_argument_use_the_decoders_tokenizer(both, tokenizer):
    """``generate`` hands a callable those arguments that its signature names."""
    plain, strings = some_strings(both, tokenizer, PROMPTS[1])
    for stop in strings:
        expected = both.plain(PROMPTS[1], stop_strings=stop, tokenizer=tokenizer)
        ours = both.ours(PROMPTS[1], plain, stop_strings=stop, tokenizer=tokenizer)

        assert ours.tolist() == expected.tolist()


def test_max_time_ends_the_text(both):
    """How far it comes is the clock's; what is there is a beginning of the whole."""
    plain = both.plain(PROMPTS[1])
    stopped = both.ours(PROMPTS[1], plain, max_time=1e-9)
    longer = both.ours(PROMPTS[1], plain, stopping_criteria=StoppingCriteriaList([MaxTimeCriteria(1000.0)]))

    assert stopped.tolist() == plain[:, : len(PROMPTS[1]) + 1].tolist()
    assert longer.tolist() == plain.tolist()


@pytest.mark.parametrize("options", [GREEDY, {**SAMPLED, "top_k": 9}, {"repetition_penalty": 1.4}])
def test_a_dictionary_holds_what_was_asked_for(both, options):
    """Scores behind all processors and logits before them, row by row; the cache is not given away."""
    asked = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, **options}
    plain = both.plain(PROMPTS[1], **asked)
    ours = both.ours(PROMPTS[1], plain, **asked)

    assert type(ours) is type(plain)
    assert ours.sequences.tolist() == plain.sequences.tolist()
    for name in ("scores", "logits"):
        here, there = getattr(ours, name), getattr(plain, name)
        assert len(here) == len(there)
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
        here[0].zero_()  # the caller's own, outside inference mode
    assert ours.past_key_values is None

    ours = both.ours(PROMPTS[1], return_dict_in_generate=True, **options)
    assert (ours.scores, ours.logits, ours.attentions, ours.hidden_states) == (None,) * 4
    # as there: without a dictionary there is no place for them
    assert isinstance(both.ours(PROMPTS[1], output_scores=True, **options), torch.Tensor)


def test_logits_are_those_before_a_processor_that_writes_into_them(both):
    """Plain generate gives away the row that was written into; here it is a copy."""

    def in_place(tokens, scores):
        scores[:, ::2] = -50.0
        return scores

    ours = both.ours(PROMPTS[1], return_dict_in_generate=True, output_logits=True, logits_processor=[in_place])

    assert all(float(row.min()) > -50.0 for row in ours.logits)


def test_scores_end_where_the_text_ends(both):
    """A stop inside an accepted path."""
    prompt = PROMPTS[1]
    asked = {"return_dict_in_generate": True, "output_scores": True}
    whole = both.plain(prompt, **asked)
    for num_new in (1, 4):
        criteria = StoppingCriteriaList([Length(len(prompt) + num_new)])
        ours = both.ours(prompt, whole, **asked, stopping_criteria=criteria)

        assert len(ours.scores) == num_new


class Recorder:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.values, self.ended = [], 0

    def put(self, value):
        assert not self.ended
        self.values.append((tuple(value.shape), value.dtype, value.tolist()))

    def end(self):
        self.ended += 1


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_a_streamer_gets_what_generate_gives_it(both, options):
    """The prompt, every token by itself, and one end; also where it is bound to the callable by hand."""
    there, here, bound = Recorder(), Recorder(), Recorder()
    plain = both.plain(PROMPTS[1], streamer=there, **options)
    both.ours(PROMPTS[1], plain, streamer=here, **options)
    entry = functools.partial(both.decoder.custom_generate, streamer=bound)
    both.ours(PROMPTS[1], plain, custom_generate=entry, **options)
    both_ways = Recorder()
    entry = functools.partial(both.decoder.custom_generate, streamer=both_ways)
    both.ours(PROMPTS[1], plain, custom_generate=entry, streamer=both_ways, **options)

    assert here.values == bound.values == both_ways.values == there.values
    assert (here.ended, bound.ended, both_ways.ended, there.ended) == (1, 1, 1, 1)


@pytest.mark.parametrize("skip_prompt", [False, True])
def test_a_text_streamer_prints_what_it_prints_for_generate(both, tokenizer, capsys, skip_prompt):
    """On standard output, prompt or no prompt."""
    plain = both.plain(PROMPTS[1], streamer=TextStreamer(tokenizer, skip_prompt=skip_prompt))
    there = capsys.readouterr().out
    both.ours(PROMPTS[1], plain, streamer=TextStreamer(tokenizer, skip_prompt=skip_prompt))

    assert capsys.readouterr().out == there
    assert len(there) > 5


def test_an_iterator_streamer_is_read_from_another_thread(both, tokenizer):
    """Piece for piece the text, and an end that its reader does not wait for in vain."""
    plain = both.plain(PROMPTS[1])
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    thread = threading.Thread(target=both.ours, args=(PROMPTS[1], plain), kwargs={"streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    expected = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    both.plain(PROMPTS[1], streamer=expected)

    assert pieces == list(expected)
    assert "".join(pieces) == tokenizer.decode(plain[0, len(PROMPTS[1]) :])
