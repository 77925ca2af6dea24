"""Measuring whole rounds of a tiny pair; keeping, rebuilding and refusing profiles. FT-18, FT-28."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from caddtree.core.errors import CostModelError
from caddtree.core.pipeline import Decoder, Session
from caddtree.core.records import StageSeconds
from caddtree.core.target import Target
from caddtree.cost_models.convex import ConvexCostModel
from caddtree.cost_models.table import TableCostModel
from caddtree.drafters.dflash import DFlash
from caddtree.profiling import load_or_measure, measure_profile, profile_key, profile_path
from caddtree.tree_builders.caddtree import CaDDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.drafters.checkpoints import tiny_checkpoint
from tests.tiny_models import plain_greedy, tiny_model


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CADDTREE_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def make(tmp_path):
    model = tiny_model()
    folder = tiny_checkpoint(tmp_path / "drafter")

    def build(cost_model=None, *, budget=8, context_limit=None, **drafter):
        return Decoder(
            target=Target(model, context_limit=context_limit),
            drafter=DFlash(model=str(folder), **drafter),
            tree_builder=CaDDTree(max_node_budget=budget),
            verifier=SdpaVerifier(),
            cost_model=cost_model or TableCostModel(),
        )

    return build


def measured(decoder, **options):
    return measure_profile(
        decoder, profile_key(decoder), **{"max_count": 8, "contexts": (32,), "repeats": 2, **options}
    )


def test_a_profile_holds_whole_rounds_of_the_asked_counts(make):
    """Every count of the grid, 0 and the largest included, positive seconds."""
    found = measured(make(), contexts=(16, 64))

    assert found.counts == (0, 1, 2, 4, 8)
    assert found.contexts == (16, 64)
    assert (found.after_seconds > 0).all()
    assert (found.draft_seconds > 0).all()


def test_contexts_beyond_the_target_are_left_out(make):
    """A target of 64 positions is measured inside them."""
    assert measured(make(context_limit=64), contexts=(32, 2048)).contexts == (16,)


def test_ft28_an_outlier_and_a_stopped_clock_do_not_move_the_medians(make, monkeypatch):
    """FT-28: one round of 100 times the time, one of zero; the share of outliers is reported."""
    real = Session._record
    calls = []  # the first 149 rounds make the text

    def record(self, context, tree, walk, seconds, *rest):
        calls.append(1)
        level = 1e-3 * (1 + tree.num_drafts)
        factor = 100.0 if len(calls) == 190 else 0.0 if len(calls) == 180 else 1.0
        return real(self, context, tree, walk, StageSeconds(1e-3, 0.0, level * factor, 0.0), *rest)

    monkeypatch.setattr(Session, "_record", record)
    found = measured(make(), repeats=9)

    assert found.after_seconds[0].tolist() == pytest.approx([1e-3 * (1 + count) for count in found.counts])
    assert 0 < found.outlier_share < 0.1


def test_the_first_decode_measures_and_the_second_does_not(make, caplog, monkeypatch):
    """And says so; a second decoder of the same key reads the file."""
    from caddtree.profiling import store

    monkeypatch.setattr(
        store,
        "measure_profile",
        lambda decoder, key, max_count: measure_profile(decoder, key, max_count=4, contexts=(16,), repeats=1),
    )
    with caplog.at_level(logging.INFO, logger="caddtree"):
        decoder = make()
        tokens = list(decoder.generate([1, 2, 3], max_new_tokens=12).token_ids)
        assert profile_path(profile_key(decoder)).exists()
        make().generate([1, 2, 3], max_new_tokens=12)

    assert tokens == plain_greedy(decoder.target.model, [1, 2, 3], 12)
    assert caplog.text.count("measuring rounds once") == 1


def test_a_broken_profile_is_rebuilt_with_a_warning(make, caplog, monkeypatch):
    """Nothing is lost but the time."""
    from caddtree.profiling import store

    monkeypatch.setattr(
        store,
        "measure_profile",
        lambda decoder, key, max_count: measure_profile(decoder, key, max_count=4, contexts=(16,), repeats=1),
    )
    decoder = make()
    path = profile_path(profile_key(decoder))
    path.parent.mkdir(parents=True)
    path.write_text("{ broken")
    found = load_or_measure(decoder)

    assert "measured anew" in caplog.text
    assert found.counts == load_or_measure(decoder).counts


@pytest.mark.parametrize("change", ["drafter", "builder", "threads", "context"])
def test_whatever_changes_the_figures_changes_the_key(make, change):
    """Another drafter option, budget or thread count is another file; another context limit is not."""
    base = profile_path(profile_key(make()))
    if change == "drafter":
        other = profile_path(profile_key(make(draft_length=2)))
    elif change == "builder":
        other = profile_path(profile_key(make(budget=9)))
    elif change == "threads":
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        other = profile_path(profile_key(make()))
        torch.set_num_threads(threads)
    else:
        assert profile_path(profile_key(make(context_limit=100))) == base
        return
    assert other != base


@pytest.mark.parametrize("kind", [TableCostModel, ConvexCostModel])
def test_ft18_a_profile_of_another_machine_needs_force(make, tmp_path, kind):
    """FT-18: both values are named; ``force`` uses it; ``path`` is what is read."""
    found = measured(make())
    key = {**found.key, "device": "another processor"}
    path = tmp_path / "foreign.json"
    type(found)(
        key, found.contexts, found.counts, found.draft_seconds, found.after_seconds, found.spread_seconds
    ).write(path)
    with pytest.raises(CostModelError, match=r"another processor.*force"):
        make(kind(path=str(path))).prepare()
    forced = make(kind(path=str(path), force=True))
    forced.prepare()

    assert np.isfinite(forced.cost_model.after_choice_seconds(np.arange(9), 32)).all()


def test_convex_tells_its_misfit(make, tmp_path, caplog):
    """The largest relative error is kept and logged."""
    found = measured(make())
    path = tmp_path / "profile.json"
    found.write(path)
    decoder = make(ConvexCostModel(path=str(path)))
    with caplog.at_level(logging.INFO, logger="caddtree"):
        decoder.prepare()

    assert decoder.cost_model.misfit >= 0
    assert "off by" in caplog.text
