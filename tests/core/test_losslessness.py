"""Greedy text is the target's own, on many prompts, and the checks that say so can fail. L-01, L-06, L-09, L-11."""

from __future__ import annotations

import functools

import attrs
import numpy as np
import pytest
import torch
from transformers import DynamicCache

from caddtree.core.decoder import Decoder
from caddtree.core.errors import StageError
from caddtree.core.marginals import Marginals
from caddtree.core.protocols import DraftRequest
from caddtree.plugins.recipe import load_recipe
from caddtree.plugins.registry import default_registry
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.core import mutants
from tests.core.test_pipeline import Forwards
from tests.recipes.test_shipped_recipes import PIPELINES
from tests.tiny_models import ScriptedDrafter, prompts, tiny_model

NUM_NEW, DEPTH, VOCABULARY = 64, 7, 61
LENGTHS = (1, 6, 13, 24, 40)
PROMPTS = {length: prompts(10, seed=length, low=length, high=length) for length in LENGTHS}


@attrs.define(eq=False)
class StandIn:
    """In place of the trained drafter of a shipped recipe: keeps the text, leaves the logits to its heirs."""

    next_logits: dict[tuple[int, ...], torch.Tensor]
    """Text -> what the target says next, along every plain continuation."""
    model: object
    required_layers: tuple[int, ...] = ()
    block_size: int = DEPTH + 1

    def bind(self, target):
        pass

    def start(self):
        return []

    def commit(self, state, tokens, features):
        state.extend(tokens)

    def draft(self, state, request: DraftRequest):
        return self.marginals((*state, request.root_token), min(DEPTH, request.max_depth))


class RandomDrafter(StandIn):
    """Knows nothing."""

    def marginals(self, text, depth):
        return self._drawn(len(text), depth)

    @staticmethod
    @functools.cache
    def _drawn(seed, depth):
        return Marginals.from_logits(torch.randn(depth, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2)


class WrongDrafter(StandIn):
    """Knows what the target says next, and drafts everything else."""

    def marginals(self, text, depth):
        return self._without(int(self.next_logits[text].argmax()), depth)

    @staticmethod
    @functools.cache
    def _without(token, depth):
        logits = torch.linspace(0, 30, VOCABULARY).expand(depth, VOCABULARY).clone()
        logits[:, token] = -torch.inf
        return Marginals.from_logits(logits)


class TargetItself(StandIn):
    """Runs the target, greedily, on the text and on its own drafts; a text it has seen is not run again."""

    def marginals(self, text, depth):
        rows = []
        for _ in range(depth):
            if text not in self.next_logits:
                self.next_logits[text] = self.model(torch.tensor([text]), use_cache=False).logits[0, -1]
            rows.append(self.next_logits[text])
            text = (*text, int(rows[-1].argmax()))
        return Marginals.from_logits(torch.stack(rows))


STAND_INS = {"random": RandomDrafter, "wrong": WrongDrafter, "target": TargetItself}


def shipped_pipelines():
    """Drafter and tree builder of every shipped recipe; a trained drafter is replaced by each of the stand-ins."""
    pairs = {}
    for path in PIPELINES:
        recipe = load_recipe(path)
        builder = default_registry().create("tree_builder", recipe.tree_builder.name, recipe.tree_builder.options)
        for name in STAND_INS if recipe.drafter.name == "dflash" else [recipe.drafter.name]:
            # recipes that differ in their largest budget only are one pipeline here: nodes never get that far
            pairs.setdefault(f"{name}-{recipe.tree_builder.name}", (name, builder))
    return pairs


SHIPPED = shipped_pipelines()


@attrs.frozen(eq=False)
class Oracle:
    """A model and what plain ``generate`` says about every prompt."""

    model: object
    truth: dict[tuple[int, ...], list[int]]
    next_logits: dict[tuple[int, ...], torch.Tensor]

    own_runs: dict[tuple[int, ...], torch.Tensor] = attrs.field(factory=dict)

    def drafter(self, name):
        if name in STAND_INS:
            return STAND_INS[name](self.own_runs if name == "target" else self.next_logits, self.model)
        return default_registry().create("drafter", name, {})


NUM_LAYERS = {"qwen3": 2, "mistral": 1}


@pytest.fixture(scope="module", params=NUM_LAYERS)
def oracle(request):
    model = tiny_model(request.param, seed=5, num_hidden_layers=NUM_LAYERS[request.param])
    truth, next_logits = {}, {}
    for length, batch in PROMPTS.items():
        # prompts of one length: nothing is padded
        ids = torch.tensor(batch)
        plain = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NUM_NEW,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        logits = torch.stack(plain.logits, dim=1)
        best = logits.topk(2).values
        # near ties would make this a test of rounding
        assert (best[..., 0] - best[..., 1]).min() > 1e-4
        for prompt, text, rows in zip(batch, plain.sequences.tolist(), logits, strict=True):
            truth[tuple(prompt)] = text[length:]
            next_logits |= {tuple(text[: length + index]): row for index, row in enumerate(rows)}
    return Oracle(model, truth, next_logits)


class CheapNodes:
    """Uneven costs at which a round of ten to twenty nodes often pays."""

    table = 0.02 + np.random.default_rng(2).uniform(0.5, 3.0, 1025).cumsum() / 5000

    def prepare(self, decoder):
        pass

    def before_choice_seconds(self, context_length):
        return 0.001

    def after_choice_seconds(self, num_draft_nodes, context_length):
        return self.table[num_draft_nodes]


def make(model, drafter, builder):
    return Decoder(
        target=model, drafter=drafter, tree_builder=builder, verifier=SdpaVerifier(), cost_model=CheapNodes()
    )


def assert_greedy_is_exact(decoder, truth, num_new=NUM_NEW):
    """The very tokens of plain decoding; return all rounds."""
    rounds = []
    for prompt, expected in truth.items():
        generation = decoder.generate(list(prompt), max_new_tokens=num_new)
        assert list(generation.token_ids) == expected[:num_new], "differs from plain decoding"
        rounds += generation.rounds
    return rounds


@pytest.mark.parametrize("count", [4, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pipeline", SHIPPED)
def test_l01_l11_every_shipped_pipeline_equals_plain_generate(oracle, pipeline, count):
    """L-01: 20 or 50 prompts, 64 tokens, all equal; L-11: a drafter that is the target is accepted to full depth."""
    name, builder = SHIPPED[pipeline]
    truth = {tuple(prompt): oracle.truth[tuple(prompt)] for group in PROMPTS.values() for prompt in group[:count]}
    rounds = assert_greedy_is_exact(make(oracle.model, oracle.drafter(name), builder), truth)
    gained = [(len(round_.tokens), round_.tree_depth + 1) for round_ in rounds]

    assert len(truth) == 5 * count
    if name == "target":
        assert all(tokens == depth for tokens, depth in gained)
        assert max(gained) == (DEPTH + 1, DEPTH + 1)
    if name == "wrong":
        assert all(tokens == 1 for tokens, _ in gained)
    if name != "none":
        assert max(round_.num_draft_nodes for round_ in rounds) >= DEPTH


def test_l01_the_shipped_recipes_are_the_expected_pipelines():
    """Chain, DDTree and CaDDTree with each stand-in, n-grams, and plain decoding."""
    trained = {f"{name}-{builder}" for name in STAND_INS for builder in ("chain", "ddtree", "caddtree")}

    assert set(SHIPPED) == trained | {"ngram-caddtree", "none-chain"}


@pytest.mark.parametrize("plant", mutants.ALL)
def test_l06_every_mutant_is_killed_by_the_greedy_check(oracle, plant, monkeypatch):
    """L-06: the check of L-01 passes before the fault is planted and fails after, or the decoder refuses the walk."""
    decoder = make(oracle.model, ScriptedDrafter(oracle.truth, right=0.6), DDTree(node_budget=24))
    assert_greedy_is_exact(decoder, oracle.truth, num_new=24)
    plant(monkeypatch)

    said = "differs from plain decoding|the path must lead from the root to a child each time"
    with pytest.raises((AssertionError, StageError), match=said):
        assert_greedy_is_exact(decoder, oracle.truth, num_new=24)


@torch.inference_mode()
def chain_loop(model, drafter, prompt, num_new):
    """Chain speculation with Transformers' own cache, which is cropped after every round: knows no trees."""
    drafter.vocabulary = model.config.vocab_size
    cache, tokens, rounds = DynamicCache(config=model.config), list(prompt), []
    logits = model(torch.tensor([prompt]), past_key_values=cache).logits[0]
    tokens.append(int(logits[-1].argmax()))
    while (remaining := num_new - (len(tokens) - len(prompt))) > 0:
        draft = []
        if remaining > 1:
            request = DraftRequest(tokens[-1], len(tokens) - 1, remaining - 1)
            draft = drafter.draft(tokens[:-1], request).tokens[:, 0].tolist()
        choices = model(torch.tensor([[tokens[-1], *draft]]), past_key_values=cache).logits[0].argmax(-1).tolist()
        accepted = 0
        while accepted < len(draft) and draft[accepted] == choices[accepted]:
            accepted += 1
        rounds.append(choices[: accepted + 1])
        tokens += rounds[-1]
        if surplus := cache.get_seq_length() - (len(tokens) - 1):
            cache.crop(-surplus)
    return tokens[len(prompt) :], rounds, cache


def assert_same_rows(cache, expected, length):
    """Keys and values of every layer, row by row, to float64 rounding."""
    for layer, other in zip(cache.layers, expected.layers, strict=True):
        for name in ("keys", "values"):
            found = getattr(layer, name)[:, :, :length]
            assert found.shape == getattr(other, name).shape
            assert (found - getattr(other, name)).abs().max() <= 1e-12


def test_l09_a_chain_shaped_tree_is_the_chain_decoder():
    """L-09: same tokens, rounds and forwards, and the KV rows of a chain loop and of a fresh prefill of the text."""
    model = tiny_model(dtype=torch.float64)
    known = {}
    for prompt in prompts(12):
        ids = torch.tensor([prompt])
        plain = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=60)
        known[tuple(prompt)] = plain[0, len(prompt) :].tolist()
    drafter = ScriptedDrafter(known, right=0.7)
    decoder = make(model, drafter, Chain())
    for prompt, truth in known.items():
        with Forwards(model) as expected_forwards:
            tokens, rounds, expected = chain_loop(model, drafter, list(prompt), 40)
        with Forwards(model) as forwards:
            session = decoder.open(list(prompt), max_new_tokens=40)
            while session.finish_reason is None:
                session.step()
        fresh = DynamicCache(config=model.config)
        with torch.inference_mode():
            model(torch.tensor([[*prompt, *tokens[:-1]]]), past_key_values=fresh)

        assert session.tokens == [*prompt, *tokens] == [*prompt, *truth[:40]]
        assert [list(round_.tokens) for round_ in session.rounds] == rounds
        assert forwards.count == expected_forwards.count == 1 + len(rounds)
        assert session.target_state.context_length == len(prompt) + 39
        assert_same_rows(session.target_state.cache, expected, len(prompt) + 39)
        assert_same_rows(session.target_state.cache, fresh, len(prompt) + 39)
