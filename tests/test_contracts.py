"""What every drafter, cost model and verifier of the registry promises, alone and in every combination.

Builders have theirs in ``tests/tree_builders/test_contract.py``.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import caddtree
from caddtree.core.acceptance import MatchChoice
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import CompatibilityError, NumericalError, RecipeError
from caddtree.core.marginals import LARGEST_LOG_PROB
from caddtree.core.protocols import CostModel, Drafter, DraftRequest, Verifier
from caddtree.core.sampler import Sampler
from caddtree.core.target import Target
from caddtree.loading import load_model
from caddtree.plugins.hooks import KINDS
from caddtree.plugins.registry import default_registry
from caddtree.profiling import store
from caddtree.profiling.measure import measure_profile
from tests.cost_models.profiles import profile
from tests.drafters.checkpoints import tiny_checkpoint
from tests.tiny_models import plain_greedy, tiny_model
from tests.tiny_pair import SIZE, write_pair

NAMES = {kind: default_registry().names(kind) for kind in KINDS}
REFUSED: dict[tuple[str, ...], str] = {}
"""Combinations that cannot work together, by name in the order of the pipeline, and what the refusal says."""


@pytest.fixture(autouse=True)
def triton_without_a_device(monkeypatch):
    """The verifier binds here, and its attention runs by the plain reference; tests/runtime runs the kernels."""
    monkeypatch.setattr("caddtree.verifiers.triton.availability", SimpleNamespace(takes_triton=lambda tensor: True))


@pytest.fixture(scope="module")
def model():
    return tiny_model(vocab_size=SIZE, seed=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint and a profile, for the strategies that need one."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_checkpoint(folder / "drafter", vocab_size=SIZE)
    profile().write(folder / "profile.json")
    return folder


def made(kind, name, folder):
    options = {
        ("drafter", "dflash"): {"model": str(folder / "drafter")},
        ("cost_model", "table"): {"path": str(folder / "profile.json"), "force": True},
        ("cost_model", "convex"): {"path": str(folder / "profile.json"), "force": True},
    }
    return default_registry().create(kind, name, options.get((kind, name)))


# --- drafters: a text that repeats itself in two ways, so that every drafter has something to say

TEXT = [*range(5, 30), *range(5, 14), *range(5, 12), 60, 61, 7, 8, 9]
OTHER = [*range(100, 140, 2), *range(100, 120, 2), 7, 7]


@pytest.fixture(params=NAMES["drafter"])
def drafter(request, model, folder):
    """A bound drafter and its target."""
    found, target = made("drafter", request.param, folder), Target(model, prefill_chunk=8)
    target.tap(found.required_layers)
    found.bind(target)
    yield found, target
    target.close()


def commits(target, tokens):
    """The chunks of a prefill as a drafter is given them."""
    found = []
    target.prefill(target.start(len(tokens)), tokens, lambda chunk, features: found.append((list(chunk), features)))
    return found


def committed(drafter, target, tokens):
    state = drafter.start()
    for chunk, features in commits(target, tokens):
        drafter.commit(state, chunk, features)
    return state


def plain(marginals):
    return None if marginals is None else (marginals.tokens.tolist(), marginals.log_probs.tolist())


@pytest.mark.parametrize("max_depth", [1, 2, 4, 50])
def test_a_draft_is_no_deeper_than_asked_for(drafter, max_depth):
    """Nor than its block; a drafter of block size 1 drafts nothing, and only that one."""
    found, target = drafter
    marginals = found.draft(committed(found, target, TEXT), DraftRequest(10, len(TEXT), max_depth))

    assert isinstance(found, Drafter)
    assert (marginals is None) == (found.block_size == 1)
    assert marginals is None or 1 <= marginals.depth <= min(max_depth, found.block_size - 1)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_draft_holds_distributions_best_first(drafter, temperature):
    """Tokens of the vocabulary, none twice at a position; log-probabilities of at most 0 that fall along a row."""
    found, target = drafter
    marginals = found.draft(committed(found, target, TEXT), DraftRequest(10, len(TEXT), 50, temperature))
    if marginals is None:
        assert found.block_size == 1
        return
    assert marginals.tokens.dtype == torch.int64
    assert marginals.is_usable()
    for tokens, log_probs in zip(marginals.tokens, marginals.log_probs, strict=True):
        real = log_probs > -torch.inf
        assert real.any()
        assert (log_probs[1:] <= log_probs[:-1]).all()
        assert (log_probs <= LARGEST_LOG_PROB).all()
        assert float(log_probs[real].double().exp().sum()) <= 1 + 1e-3
        assert ((tokens[real] >= 0) & (tokens[real] < SIZE)).all()
        assert len(set(tokens[real].tolist())) == int(real.sum())


def test_a_draft_follows_from_the_committed_text_alone(drafter):
    """Twice from one state, and from a second state of the same text: the same numbers."""
    found, target = drafter
    state, request = committed(found, target, TEXT), DraftRequest(10, len(TEXT), 50)
    drafts = [found.draft(state, request), found.draft(state, request)]
    drafts.append(found.draft(committed(found, target, TEXT), request))

    assert plain(drafts[0]) == plain(drafts[1]) == plain(drafts[2])


def test_two_sequences_do_not_mix(drafter):
    """Commits and drafts taken in turns give what each sequence gives alone."""
    found, target = drafter
    texts = [TEXT, OTHER]
    alone = [plain(found.draft(committed(found, target, t), DraftRequest(7, len(t), 50))) for t in texts]
    states = [found.start(), found.start()]
    for pair in itertools.zip_longest(*(commits(target, text) for text in texts)):
        for state, chunk in zip(states, pair, strict=True):
            if chunk is not None:
                found.commit(state, *chunk)
    for _ in range(2):
        drafts = [found.draft(state, DraftRequest(7, len(t), 50)) for state, t in zip(states, texts, strict=True)]
        assert [plain(draft) for draft in drafts] == alone

    assert found.block_size == 1 or alone[0] != alone[1]


# --- cost models: counts and contexts inside and far outside of what may have been measured

COUNTS = np.array([0, 1, 2, 3, 4, 7, 10, 11, 64, 256, 1500])
CONTEXTS = (1, 64, 100, 217, 300, 301, 480, 20_000)
PLAIN_PARTS = {"drafter": "ngram", "tree_builder": "ddtree", "verifier": "sdpa"}


def prepared_cost_model(name, model, folder):
    found = made("cost_model", name, folder)
    parts = {kind: made(kind, part, folder) for kind, part in PLAIN_PARTS.items()}
    found.prepare(caddtree.Decoder(target=model, **parts))
    return found


@pytest.fixture(scope="module")
def prepared(model, folder):
    """Cost models by name, prepared on one pipeline."""
    return {name: prepared_cost_model(name, model, folder) for name in NAMES["cost_model"]}


@pytest.mark.parametrize("name", NAMES["cost_model"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_round_has_a_price(prepared, name, context):
    """Finite seconds above 0 after the choice, 0 or more before it, inside and outside the measured range."""
    model = prepared[name]
    after = model.after_choice_seconds(COUNTS, context)

    assert isinstance(model, CostModel)
    assert after.shape == COUNTS.shape
    assert np.isfinite(after).all()
    assert (after > 0).all()
    assert 0 <= model.before_choice_seconds(context) < np.inf


@pytest.mark.parametrize("name", NAMES["cost_model"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_many_prices_at_once_are_the_prices_one_by_one(prepared, name, context):
    """In any order, with repetitions, none at all; the counts are not changed."""
    model = prepared[name]
    single = {count: float(model.after_choice_seconds(np.array([count]), context)[0]) for count in COUNTS.tolist()}
    for counts in (COUNTS, COUNTS[::-1].copy(), np.array([10, 0, 10, 1500, 2]), COUNTS[:0]):
        kept = counts.copy()
        assert model.after_choice_seconds(counts, context).tolist() == pytest.approx(
            [single[count] for count in counts.tolist()], rel=1e-12
        )
        assert (counts == kept).all()


@pytest.mark.parametrize("name", NAMES["cost_model"])
def test_a_price_does_not_depend_on_what_was_asked_before(model, folder, name):
    """Contexts asked up, then down, of one that was never asked before."""
    fresh = prepared_cost_model(name, model, folder)
    up, down = (
        {c: (fresh.before_choice_seconds(c), *fresh.after_choice_seconds(COUNTS, c).tolist()) for c in contexts}
        for contexts in (CONTEXTS, CONTEXTS[::-1])
    )

    assert up == down


@pytest.mark.parametrize("name", NAMES["cost_model"])
def test_a_cost_model_answers_before_it_is_prepared(name, folder):
    """It may be asked while its own seconds are being measured."""
    model = made("cost_model", name, folder)

    assert (model.after_choice_seconds(COUNTS, 64) > 0).all()
    assert np.isfinite(model.before_choice_seconds(64))


# --- verifiers: the walk of a loop that knows neither trees nor caches

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def random_tree(root, truth, seed):
    """A random tree whose first branch begins as the target's own answer: the walk goes some way, then leaves."""
    generator = torch.Generator().manual_seed(seed)
    parents, tokens = [-1, *range(len(truth))], [root, *truth]
    for _ in range(14):
        parent = int(torch.randint(0, len(parents), (), generator=generator))
        token = int(torch.randint(0, SIZE, (), generator=generator))
        siblings = {tokens[node] for node, above in enumerate(parents) if above == parent}
        if token not in siblings:
            parents.append(parent)
            tokens.append(token)
    return DraftTree.from_parents(tokens, parents)


@torch.inference_mode()
def oracle_walk(model, text, tree, sampler):
    """Return path and choices: at every node a plain forward over its whole text."""
    tokens, parents = tree.tokens.tolist(), tree.parents.tolist()
    path, chosen, node = [0], [], 0
    while True:
        so_far = [*text, *(tokens[index] for index in path)]
        logits = model(torch.tensor([so_far]), use_cache=False).logits[0, -1]
        chosen.append(sampler.choose(logits, len(so_far) - 1))
        children = [n for n, parent in enumerate(parents) if parent == node and tokens[n] == chosen[-1]]
        if not children:
            return tuple(path), tuple(chosen)
        node = children[0]
        path.append(node)


@pytest.mark.parametrize("name", NAMES["verifier"])
@pytest.mark.parametrize("sampler", [Sampler(), Sampler(temperature=1.0, seed=3)], ids=["greedy", "sampled"])
def test_a_verifier_walks_as_plain_forwards_say(model, folder, name, sampler):
    """Round after round on one state: trees that agree for 0 to 3 tokens, the root alone among them."""
    verifier, target = made("verifier", name, folder), Target(model)
    verifier.bind(target)
    state = target.start(200)
    target.prefill(state, PROMPT, lambda tokens, features: None)
    text, root, lengths = list(PROMPT), 7, []
    for seed in range(6):
        ahead = DraftTree.from_parents([root], [-1])
        truth = []
        for _ in range(seed % 4):
            _, chosen = oracle_walk(model, [*text, root, *truth][:-1], DraftTree.root_only([root, *truth][-1]), sampler)
            truth.append(chosen[0])
        tree = ahead if seed == 4 else random_tree(root, truth, seed)
        walk = verifier.verify(state, tree, MatchChoice(sampler))
        path, chosen = oracle_walk(model, text, tree, sampler)

        assert isinstance(verifier, Verifier)
        assert (walk.path, walk.tokens) == (path, chosen)
        target.commit(state, walk.path)
        text += [root, *chosen[:-1]]
        root = chosen[-1]
        lengths.append(len(chosen))
        assert state.context_length == len(text)
    assert max(lengths) >= 4


@pytest.mark.parametrize("name", NAMES["verifier"])
def test_a_verifier_refuses_numbers_that_are_not_finite(folder, name):
    """NaN in the target's head ends the request, whatever the tree."""
    broken = tiny_model(vocab_size=SIZE, seed=4)
    verifier, target = made("verifier", name, folder), Target(broken)
    verifier.bind(target)
    state = target.start(50)
    target.prefill(state, PROMPT, lambda tokens, features: None)
    with torch.no_grad():
        broken.get_output_embeddings().weight[11] = torch.nan

    for tree in (DraftTree.root_only(7), random_tree(7, [], 0)):
        with pytest.raises(NumericalError, match="not finite"):
            verifier.verify(state, tree, MatchChoice(Sampler()))


# --- together

SEEN = list(range(1, 200))
"""A prompt that holds every token that the pair is likely to say, so that n-grams are found."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The tiny pair's recipe and model, quick profiles in a folder of their own, and plain answers."""
    recipe = write_pair(tmp_path_factory.mktemp("pair"))
    model, tokenizer = load_model(caddtree.load_recipe(recipe).target)
    held = {"model": model, "tokenizer": tokenizer}
    none = caddtree.load(recipe, {"drafter": {"name": "none"}, "tree_builder": {"name": "chain"}}, **held)
    sampled = none.generate(SEEN, max_new_tokens=10, temperature=1.0, seed=5).token_ids
    greedy = none.generate(SEEN, max_new_tokens=10).token_ids
    assert list(greedy) == plain_greedy(model, SEEN, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CADDTREE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(
            store,
            "measure_profile",
            lambda decoder, key, *, max_count: measure_profile(
                decoder, key, max_count=min(max_count, 4), contexts=(16,), repeats=1
            ),
        )
        yield recipe, held, greedy, sampled


@pytest.mark.parametrize("names", itertools.product(*NAMES.values()), ids="-".join)
def test_every_combination_decodes_as_plain_decoding_or_is_refused_with_a_reason(pair, names):
    """Greedy and sampled; a refusal comes when the recipe is loaded, and is listed here."""
    recipe, held, greedy, sampled = pair
    sections = {kind: {"name": name} for kind, name in zip(NAMES, names, strict=True)}
    if names in REFUSED:
        with pytest.raises((RecipeError, CompatibilityError), match=REFUSED[names]):
            caddtree.load(recipe, sections, **held)
        return
    decoder = caddtree.load(recipe, sections, **held)
    found = decoder.generate(SEEN, max_new_tokens=10)

    assert found.token_ids == greedy
    assert decoder.generate(SEEN, max_new_tokens=10, temperature=1.0, seed=5).token_ids == sampled
    has_drafts = any(round_.num_draft_nodes for round_ in found.rounds)
    if names[0] == "none":
        assert not has_drafts
    elif not decoder.tree_builder.needs_cost_model:
        assert has_drafts
    else:
        assert all(round_.predicted_seconds > 0 for round_ in found.rounds)
