"""The loop's promises: invariants of DESIGN.md, L-01, L-10, L-13, FT-01 to FT-07, FT-20, 21, 24 to 26."""

from __future__ import annotations

import contextlib
import gc
import math
import threading

import attrs
import numpy as np
import pytest
import torch
from tokenizers import normalizers
from torch._subclasses.fake_tensor import FakeTensor

from caddtree.core.decoder import Decoder
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import InputError, NumericalError, StageError
from caddtree.core.marginals import Marginals
from caddtree.core.target import Target
from caddtree.drafters.ngram import Ngram
from caddtree.drafters.none import NoDrafter
from caddtree.tree_builders.caddtree import CaDDTree
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.tiny_models import FAMILIES, ScriptedDrafter, plain_greedy, prompts, tiny_model
from tests.tiny_pair import tiny_tokenizer

NUM_NEW = 40


@attrs.define
class AnyCost:
    """A cost model of arbitrary positive numbers."""

    seed: int = 0

    def prepare(self, decoder):
        pass

    def before_choice_seconds(self, context_length):
        return 0.001

    def after_choice_seconds(self, num_draft_nodes, context_length):
        table = np.random.default_rng(self.seed).uniform(0.5, 3.0, 1025).cumsum() / 100
        return table[num_draft_nodes]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def truth(model):
    return {tuple(prompt): plain_greedy(model, prompt, NUM_NEW + 20) for prompt in prompts(12)}


def make(model, drafter=None, builder=None, cost_model=None, **options):
    return Decoder(
        target=model,
        drafter=drafter or NoDrafter(),
        tree_builder=builder or Chain(),
        verifier=SdpaVerifier(),
        cost_model=cost_model,
        **options,
    )


class Forwards:
    """Counts the forwards of a model's decoder."""

    def __init__(self, model):
        self.count, self.on_call = 0, lambda: None
        self.handle = model.get_decoder().register_forward_hook(self._add)

    def _add(self, *_):
        self.count += 1
        self.on_call()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def stripping_tokenizer():
    """A tokenizer that drops white space at both ends, with a chat template that adds nothing."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Strip()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return tokenizer


BUILDERS = {
    "chain": (Chain(), None),
    "chain-3": (Chain(length=3), None),
    "ddtree-1": (DDTree(node_budget=1), None),
    "ddtree-40": (DDTree(node_budget=40), None),
    "caddtree-scan": (CaDDTree(max_node_budget=48), AnyCost()),
    "caddtree-first-stop": (CaDDTree(max_node_budget=48, search="first_stop"), AnyCost(3)),
    "caddtree-price": (CaDDTree(max_node_budget=48, objective="price"), AnyCost(5)),
}


class TestGreedyIsExact:
    @pytest.mark.parametrize("builder", BUILDERS)
    @pytest.mark.parametrize("right", [0.6, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 1.0))])
    def test_l01_output_equals_plain_greedy(self, model, truth, builder, right):
        """Invariant 1, L-01: rubbish, decent and perfect drafts give the very tokens of plain decoding."""
        tree_builder, cost_model = BUILDERS[builder]
        decoder = make(model, ScriptedDrafter(truth, right=right), tree_builder, cost_model)
        for prompt, expected in truth.items():
            generation = decoder.generate(list(prompt), max_new_tokens=NUM_NEW)

            assert list(generation.token_ids) == expected[:NUM_NEW]
            assert generation.finish_reason == "length"

    @pytest.mark.parametrize("family", FAMILIES)
    def test_l01_every_family_equals_transformers_generate(self, family):
        """L-01 on families with and without sliding windows, against ``model.generate`` itself."""
        model = tiny_model(family, seed=3)
        known = {}
        for prompt in prompts(5, seed=9):
            known[tuple(prompt)] = plain_greedy(model, prompt, NUM_NEW)
        for decoder in (
            make(model),
            make(model, ScriptedDrafter(known, right=0.6, required_layers=(0, 2, 3)), DDTree(node_budget=24)),
            make(model, Ngram(), DDTree(node_budget=12)),
        ):
            for prompt, expected in known.items():
                generated = model.generate(
                    torch.tensor([prompt]),
                    max_new_tokens=NUM_NEW,
                    do_sample=False,
                    attention_mask=torch.ones(1, len(prompt)),
                )[0, len(prompt) :].tolist()

                assert expected == generated
                assert list(decoder.generate(list(prompt), max_new_tokens=NUM_NEW).token_ids) == expected
            decoder.target.close()

    def test_l10_output_does_not_depend_on_budget_or_cost(self, model, truth):
        """L-10: budgets 1 to 256 and five random cost curves change speed only."""
        prompt, expected = next(iter(truth.items()))
        for budget in (1, 2, 3, 5, 8, 17, 64, 256):
            drafter = ScriptedDrafter(truth, right=0.5)
            assert (
                list(
                    make(model, drafter, DDTree(node_budget=budget))
                    .generate(list(prompt), max_new_tokens=NUM_NEW)
                    .token_ids
                )
                == expected[:NUM_NEW]
            )
        for seed in range(5):
            decoder = make(model, ScriptedDrafter(truth, right=0.5), CaDDTree(max_node_budget=64), AnyCost(seed))
            assert list(decoder.generate(list(prompt), max_new_tokens=NUM_NEW).token_ids) == expected[:NUM_NEW]


class TestSampling:
    @pytest.mark.parametrize("builder", ["chain", "ddtree-40", "caddtree-scan"])
    @pytest.mark.parametrize(
        "options", [{"temperature": 0.7}, {"temperature": 1.0, "top_k": 5}, {"temperature": 1.3, "top_p": 0.8}]
    )
    def test_text_equals_plain_sampling_with_the_same_seed(self, model, truth, builder, options):
        """Invariant 2: keyed noise makes speculation invisible at temperature > 0."""
        tree_builder, cost_model = BUILDERS[builder]
        speculative = make(model, ScriptedDrafter(truth, right=0.5), tree_builder, cost_model)
        plain = make(model)
        for seed, prompt in enumerate(truth):
            expected = plain.generate(list(prompt), max_new_tokens=24, seed=seed, **options).token_ids

            assert speculative.generate(list(prompt), max_new_tokens=24, seed=seed, **options).token_ids == expected

    def test_l13_same_seed_same_text_and_other_seeds_differ(self, model):
        """L-13: also after other requests."""
        decoder = make(model, Ngram(), DDTree(node_budget=8))
        first = decoder.generate([1, 2, 3], max_new_tokens=30, temperature=1.0, seed=7).token_ids
        other = decoder.generate([1, 2, 3], max_new_tokens=30, temperature=1.0, seed=8).token_ids

        assert decoder.generate([1, 2, 3], max_new_tokens=30, temperature=1.0, seed=7).token_ids == first
        assert other != first

    def test_small_temperature_equals_greedy(self, model, truth):
        """Temperature towards zero is greedy decoding."""
        prompt, expected = next(iter(truth.items()))
        generation = make(model).generate(list(prompt), max_new_tokens=NUM_NEW, temperature=1e-5)

        assert list(generation.token_ids) == expected[:NUM_NEW]


class TestInputs:
    @pytest.mark.parametrize(
        "prompt",
        [[], (), range(0), torch.empty(0), "", " \n\t ", [{}], [{"role": "user", "content": ""}], 5, None],
        ids=repr,
    )
    def test_ft01_nothing_to_continue_is_an_error_before_any_forward(self, model, prompt):
        """FT-01: also whitespace and a chat of which the tokenizer leaves nothing; the next request is fine."""
        decoder = make(model, tokenizer=stripping_tokenizer())
        with Forwards(model) as forwards:
            with pytest.raises(InputError):
                decoder.generate(prompt, max_new_tokens=3)
            assert forwards.count == 0
            assert len(decoder.generate([1], max_new_tokens=3).token_ids) == 3
            assert forwards.count == 3

    def test_ft02_overflow_names_both_numbers(self, model):
        """FT-02: the prompt, and the prompt with max_new_tokens, against the context."""
        decoder = make(Target(model, context_limit=32))
        with pytest.raises(InputError, match=r"32 tokens.*context is 32"):
            decoder.generate([1] * 32, max_new_tokens=1)
        with pytest.raises(InputError, match=r"20 tokens and max_new_tokens 13 make 33.*context is 32"):
            decoder.generate([1] * 20, max_new_tokens=13)
        assert len(decoder.generate([1] * 20, max_new_tokens=12).token_ids) == 12

    def test_ft03_the_context_limit_clips_the_tree(self, model, truth):
        """FT-03: no position at or beyond the limit is forwarded; the text is plain text cut there."""
        prompt, expected = next(iter(truth.items()))
        limit = len(prompt) + 13
        target = Target(model, context_limit=limit)
        seen = []
        decoder = make(target, ScriptedDrafter(truth, right=1.0), DDTree(node_budget=20))
        forward = target._decoder.forward

        def spy(*args, **kwargs):
            seen.append(int(kwargs["position_ids"].max()))
            return forward(*args, **kwargs)

        target._decoder.forward = spy
        try:
            generation = decoder.generate(list(prompt))
        finally:
            del target._decoder.forward

        assert list(generation.token_ids) == expected[:13]
        assert generation.finish_reason == "length"
        assert max(seen) < limit

    @pytest.mark.parametrize("count", [0, -1, 1.5, True])
    def test_ft04_bad_lengths_are_rejected(self, model, count):
        """FT-04: 0, negative, fractional and bool."""
        with pytest.raises(InputError, match="max_new_tokens"):
            make(model).generate([1], max_new_tokens=count)

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_ft04_short_lengths_are_exact(self, model, truth, count):
        """FT-04: inside the first block."""
        prompt, expected = next(iter(truth.items()))
        decoder = make(model, ScriptedDrafter(truth, right=1.0), DDTree(node_budget=20))

        assert list(decoder.generate(list(prompt), max_new_tokens=count).token_ids) == expected[:count]

    @pytest.mark.parametrize(
        ("prompt", "found"),
        [
            ([1, -1], "-1 at index 1"),
            ([61], "61 at index 0"),
            ([1, 2.0], "2.0 at index 1"),
            ([[1]], "index 0"),
            ([True], "True"),
        ],
    )
    def test_ft06_bad_token_ids_are_named(self, model, prompt, found):
        """FT-06: out of range, float, nested, bool."""
        with pytest.raises(InputError, match=found.replace("[", r"\[")):
            make(model).generate(prompt, max_new_tokens=2)

    @pytest.mark.parametrize(
        "option",
        [
            {"temperature": -0.1},
            {"temperature": math.nan},
            {"temperature": math.inf},
            {"temperature": "1"},
            {"top_p": 0.0},
            {"top_p": 1.1},
            {"top_k": -1},
            {"top_k": 0},
            {"seed": 2**64},
            {"seed": -1},
            {"stop": [""]},
            {"nonsense": 1},
        ],
    )
    def test_ft07_bad_options_are_named(self, model, option):
        """FT-07: rejected with the name of the option."""
        with pytest.raises(InputError, match=next(iter(option))):
            make(model).generate([1], max_new_tokens=2, **option)

    def test_ft07_temperature_zero_means_greedy_whatever_else_is_set(self, model, truth):
        """FT-07: the documented mapping."""
        prompt, expected = next(iter(truth.items()))
        generation = make(model).generate(list(prompt), max_new_tokens=9, temperature=0, top_p=0.5, top_k=3, seed=4)

        assert list(generation.token_ids) == expected[:9]


class TestStops:
    def test_ft05_a_stop_token_ends_the_text_wherever_it_falls(self, model, truth):
        """FT-05: at the first token, inside an accepted path and as the bonus; KV rows equal the emitted tokens."""
        places = set()
        for prompt, expected in truth.items():
            for place in range(0, 24):
                token = expected[place]
                if token in expected[:place]:
                    continue
                decoder = make(model, ScriptedDrafter(truth, right=0.8), DDTree(node_budget=16))
                decoder.eos_token_ids = frozenset({token})
                session = decoder.open(list(prompt), max_new_tokens=NUM_NEW)
                while session.finish_reason is None:
                    session.step()
                generation = session.generation()

                assert list(generation.token_ids) == expected[: place + 1]
                assert generation.finish_reason == "stop"
                assert session.target_state.context_length == len(prompt) + place
                if place:
                    last = generation.rounds[-1]
                    places.add("bonus" if len(last.tokens) == last.tree_depth + 1 else "inside")
                decoder.target.close()
            if len(places) == 2:
                break
        assert places == {"bonus", "inside"}


WAYS_TO_CANCEL = ["callable", "event", "interrupt", "close"]


class TestFaults:
    @pytest.mark.parametrize("where", ["prefill", "root", "tree"])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_ft20_non_finite_target_logits_fail_the_request_only(self, model, truth, where, value):
        """FT-20: NumericalError, and the next request equals one of a fresh decoder."""
        prompt, expected = next(iter(truth.items()))
        decoder = make(model, ScriptedDrafter(truth, right=0.6), DDTree(node_budget=12))
        plain_head, calls = decoder.target.head_logits, []

        def broken(hidden):
            logits = plain_head(hidden).clone()
            calls.append(len(logits))
            if where == "prefill":
                logits[0, 3] = value
            elif len(calls) == 3:
                logits[0 if where == "root" else -1, 5] = value
            return logits

        decoder.target.head_logits = broken
        with pytest.raises(NumericalError, match="not finite"):
            decoder.generate(list(prompt), max_new_tokens=NUM_NEW)
        decoder.target.head_logits = plain_head

        assert list(decoder.generate(list(prompt), max_new_tokens=NUM_NEW).token_ids) == expected[:NUM_NEW]

    def test_ft21_nan_drafts_fall_back_to_plain_rounds(self, model, truth, caplog):
        """Invariant 6, FT-21: exact output, marked rounds, and the drafter is switched off after some."""

        class Broken(ScriptedDrafter):
            def draft(self, state, request):
                good = super().draft(state, request)
                return Marginals(good.tokens, torch.full_like(good.log_probs, math.nan))

        prompt, expected = next(iter(truth.items()))
        generation = make(model, Broken(truth), DDTree(node_budget=8)).generate(list(prompt), max_new_tokens=NUM_NEW)

        assert list(generation.token_ids) == expected[:NUM_NEW]
        assert sum(round_.unusable_draft for round_ in generation.rounds) == 8
        assert "switched off" in caplog.text

    @pytest.mark.parametrize("part", ["drafter", "tree_builder", "cost_model", "verifier", "observer"])
    def test_ft24_an_exception_names_component_and_round(self, model, truth, part):
        """FT-24: at the third call, and the decoder serves the next request."""
        prompt, expected = next(iter(truth.items()))
        decoder = make(model, ScriptedDrafter(truth, right=0.5), CaDDTree(max_node_budget=9), AnyCost())
        calls = []

        def failing(*args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("planted")
            return original(*args, **kwargs)

        class Proxy:
            def __init__(self, inner, method):
                self.inner, self.method = inner, method

            def __getattr__(self, name):
                return failing if name == self.method else getattr(self.inner, name)

        if part == "observer":
            original = lambda round_: None  # noqa: E731
            decoder.observers.append(type("Watch", (), {"on_round": staticmethod(failing)})())
        else:
            method = {
                "drafter": "draft",
                "tree_builder": "build",
                "cost_model": "before_choice_seconds",
                "verifier": "verify",
            }[part]
            inner = getattr(decoder, part)
            original = getattr(inner, method)
            setattr(decoder, part, Proxy(inner, method))
        with pytest.raises(StageError, match=r"failed in round \d+: RuntimeError: planted"):
            decoder.generate(list(prompt), max_new_tokens=NUM_NEW)

        assert list(decoder.generate(list(prompt), max_new_tokens=NUM_NEW).token_ids) == expected[:NUM_NEW]

    def test_ft24_a_builder_that_breaks_the_tree_is_named(self, model, truth):
        """FT-24: a tree deeper than the text may still grow is refused, not decoded."""

        class TooDeep:
            needs_cost_model = False

            def build(self, marginals, context):
                return DraftTree.from_parents([context.root_token, 1, 2, 3], [-1, 0, 1, 2])

        decoder = make(model, ScriptedDrafter(truth), TooDeep())
        with pytest.raises(StageError, match=r"tree_builder TooDeep failed in round 0: TreeError: .*at most 2 deep"):
            decoder.generate(list(next(iter(truth))), max_new_tokens=4)

    def test_ft25_nothing_is_left_over_between_requests(self, model, truth):
        """FT-25: shorter, longer, identical, after an error and after a cancellation."""
        decoder = make(model, ScriptedDrafter(truth, right=0.6, required_layers=(1, 3)), DDTree(node_budget=12))
        for prompt, expected in truth.items():
            with pytest.raises(InputError):
                decoder.generate([999])
            decoder.generate(list(prompt), max_new_tokens=30, should_stop=iter([False, False, True]).__next__)
            for _ in range(2):
                assert list(decoder.generate(list(prompt), max_new_tokens=NUM_NEW).token_ids) == expected[:NUM_NEW]

    @pytest.mark.parametrize("way", WAYS_TO_CANCEL)
    def test_ft26_cancellation_at_every_round_leaves_a_prefix(self, model, truth, way):
        """FT-26: after each forward of a 40-round run no other one begins, and the text is a prefix of plain text."""
        prompt, expected = next(iter(truth.items()))
        decoder = make(model)
        for last in range(1, 41):
            with Forwards(model) as forwards:
                tokens = cancelled_text(decoder, list(prompt), way, forwards, last)

            assert forwards.count == last
            # the token of an interrupted forward is lost
            assert tokens == expected[: last - (way == "interrupt")]
        assert list(decoder.generate(list(prompt), max_new_tokens=41).token_ids) == expected[:41]

    def test_ft26_a_cancelled_generation_says_so(self, model, truth):
        """FT-26: the reason, and the rounds there were."""
        prompt, expected = next(iter(truth.items()))
        decoder = make(model, ScriptedDrafter(truth, right=0.5), DDTree(node_budget=12))
        for num_rounds in range(4):
            answers = iter([False] * num_rounds + [True])
            generation = decoder.generate(list(prompt), max_new_tokens=NUM_NEW, should_stop=answers.__next__)

            assert len(generation.rounds) == num_rounds
            assert generation.finish_reason == "cancelled"
            assert list(generation.token_ids) == expected[: len(generation.token_ids)]

    @pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("way", WAYS_TO_CANCEL)
    def test_ft26_a_hundred_cancelled_requests_leave_no_memory(self, model, truth, way, count):
        """FT-26: less than 1 MB of tensors more than before, a fifth of it after a fifth; 100 caches would be 2."""
        prompt = next(iter(truth))
        decoder = make(model, ScriptedDrafter(truth, right=0.5, required_layers=(0, 2)), DDTree(node_budget=12))
        decoder.generate(list(prompt), max_new_tokens=9)
        before = tensor_bytes()
        session = decoder.open(list(prompt), max_new_tokens=NUM_NEW)
        assert session.finish_reason is None
        assert tensor_bytes() - before > 2e4
        del session
        for _ in range(count):
            with Forwards(model) as forwards:
                cancelled_text(decoder, list(prompt), way, forwards, 3)

        assert tensor_bytes() - before < 1e4 * count
        decoder.target.close()


def cancelled_text(decoder, prompt, way, forwards, last):
    """Stream 41 tokens, cancelled once ``last`` forwards have been; return the tokens that came out."""
    event = threading.Event()

    def on_forward():
        if forwards.count == last:
            event.set()
            if way == "interrupt":
                raise KeyboardInterrupt

    forwards.on_call = on_forward
    should_stop = {"callable": lambda: forwards.count >= last, "event": event.is_set}.get(way)
    stream, tokens = decoder.stream(prompt, max_new_tokens=41, should_stop=should_stop), []
    with contextlib.suppress(KeyboardInterrupt):
        for chunk in stream:
            tokens += chunk.token_ids
            if way == "close" and event.is_set():
                stream.close()
    return tokens


def tensor_bytes():
    """Storage behind all tensors that Python still knows."""
    gc.collect()
    # packed weights have no storage of their own to look at; they belong to the decoder, which stays
    alive = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and o.layout == torch.strided]
    # what a compiler has traced with holds no numbers
    alive = [item for item in alive if not isinstance(item, FakeTensor)]
    return sum({item.untyped_storage().data_ptr(): item.untyped_storage().nbytes() for item in alive}.values())


class TestRecords:
    def test_figures_count_rounds_only(self, model, truth):
        """The token that prefill gives is in neither count."""
        prompt = next(iter(truth))
        generation = make(model, ScriptedDrafter(truth, right=0.7), DDTree(node_budget=8)).generate(
            list(prompt), max_new_tokens=NUM_NEW
        )
        gained = sum(len(round_.tokens) for round_ in generation.rounds)

        assert gained == len(generation.token_ids) - 1
        assert generation.mean_acceptance_length == pytest.approx(gained / len(generation.rounds))
        assert generation.tokens_per_second == pytest.approx(gained / generation.decode_seconds)
        assert all(round_.seconds.total > 0 for round_ in generation.rounds)

    def test_observers_see_every_round(self, model):
        """``on_round`` once per round, in order."""
        seen = []
        decoder = make(model, observers=[type("Watch", (), {"on_round": staticmethod(seen.append)})()])
        generation = decoder.generate([1, 2], max_new_tokens=6)

        assert tuple(seen) == generation.rounds

    def test_ft14_the_alarm_says_once_that_nothing_is_accepted(self, model, caplog):
        """FT-14: mean acceptance below 1.05 over 50 rounds."""
        decoder = make(model, ScriptedDrafter({}, right=0.0), DDTree(node_budget=1))
        for prompt in prompts(4, seed=5):
            decoder.generate(prompt, max_new_tokens=60)

        assert caplog.text.count("hardly ever agrees") == 1
