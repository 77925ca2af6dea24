"""Comparisons: fair order, honest identity, intervals."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest

from caddtree.core.decoder import Decoder
from caddtree.core.errors import InputError
from caddtree.drafters.ngram import Ngram
from caddtree.drafters.none import NoDrafter
from caddtree.experiments.compare import compare, geometric_mean
from caddtree.experiments.prompts import PromptRecord
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.tiny_models import tiny_model

PROMPTS = [PromptRecord(str(index), "even" if index % 2 == 0 else "odd", [index + 1, 2, 3] * 3) for index in range(6)]


@pytest.fixture(scope="module")
def decoders():
    model = tiny_model()
    return {
        "plain": Decoder(target=model, drafter=NoDrafter(), tree_builder=Chain(), verifier=SdpaVerifier()),
        "ngram": Decoder(target=model, drafter=Ngram(), tree_builder=DDTree(node_budget=6), verifier=SdpaVerifier()),
    }


def test_a_comparison_reports_what_the_design_names(decoders):
    """The keys that scripts read; identity; the baseline against itself is 1."""
    report = compare(decoders, PROMPTS, max_new_tokens=12).to_dict()

    for variant in report["variants"]:
        assert {
            "recipe",
            "tokens_per_second",
            "speedup",
            "mean_acceptance_length",
            "mean_node_budget",
            "identical",
        } <= set(variant)
        assert variant["identical"] is True
    assert report["variants"][0]["speedup"] == pytest.approx(1.0)
    assert set(report["variants"][1]["speedup_by_domain"]) == {"even", "odd"}
    assert report["variants"][1]["mean_acceptance_length"] >= 1.0
    assert report["num_prompts"] == 6


def test_a_wrong_output_is_not_called_identical(decoders):
    """A decoder that changes one token of one prompt."""

    class Wrong:
        unwatched = decoders["plain"].unwatched

        def generate(self, prompt, **options):
            found = decoders["plain"].generate(prompt, **options)
            return attrs.evolve(found, token_ids=(*found.token_ids[:-1], 0)) if prompt == PROMPTS[3].prompt else found

    variants = compare({"plain": decoders["plain"], "wrong": Wrong()}, PROMPTS, max_new_tokens=5).variants

    assert [variant.identical for variant in variants] == [True, False]


def test_the_order_rotates_from_prompt_to_prompt(decoders):
    """No variant always goes first."""
    seen = []
    compare(
        decoders,
        PROMPTS,
        max_new_tokens=3,
        on_generation=lambda name, record, generation: seen.append((record.id, name)),
    )

    assert seen[:4] == [("0", "plain"), ("0", "ngram"), ("1", "ngram"), ("1", "plain")]


def test_repeats_are_all_run_and_the_median_counts(decoders):
    """Three runs each, one kept."""
    seen = []
    found = compare(decoders, PROMPTS[:2], repeats=3, max_new_tokens=4, on_generation=lambda *run: seen.append(run))

    assert len(seen) == 2 * 2 * 3
    assert all(len(variant.generations) == 2 for variant in found.variants)


def test_geometric_mean_by_hand():
    """exp of the mean; the interval holds it; too few values have no interval."""
    logs = list(np.log([1.0, 2.0, 4.0, 2.0, 2.0, 1.5]))
    found = geometric_mean(logs)

    assert found.value == pytest.approx(math.exp(sum(logs) / 6))
    assert found.low < found.value < found.high
    assert geometric_mean(logs[:2]).low == geometric_mean(logs[:2]).value
    assert geometric_mean([]).value == 0.0


def test_nothing_to_compare_is_an_error(decoders):
    """No prompt, no decoder."""
    with pytest.raises(InputError, match="at least one"):
        compare(decoders, [])
    with pytest.raises(InputError, match="at least one"):
        compare({}, PROMPTS)
