"""Every combination of registered strategies decodes as plain decoding does, or is refused with a reason.

What a strategy promises alone is checked by the kit, for the built-in ones in ``tests/testing``.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

import caddtree
from caddtree.core.errors import CompatibilityError, RecipeError
from caddtree.loading import load_model
from caddtree.plugins.hooks import STAGES
from caddtree.plugins.registry import default_registry
from caddtree.profiling import store
from caddtree.profiling.measure import measure_profile
from tests.tiny_models import plain_greedy
from tests.tiny_pair import write_pair

NAMES = {kind: default_registry().names(kind) for kind in STAGES}
REFUSED: dict[tuple[str, ...], str] = {}
"""Combinations that cannot work together, by name in the order of the pipeline, and what the refusal says."""
SEEN = list(range(1, 200))
"""A prompt that holds every token that the pair is likely to say, so that n-grams are found."""


@pytest.fixture(autouse=True)
def triton_without_a_device(monkeypatch):
    """The verifier binds here, and its attention runs by the plain reference; tests/runtime runs the kernels."""
    monkeypatch.setattr("caddtree.verifiers.triton.availability", SimpleNamespace(takes_triton=lambda tensor: True))


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
