"""Measuring whole rounds of a tiny pair; keeping, rebuilding and refusing profiles. FT-18, FT-28."""

from __future__ import annotations

import logging

import attrs
import numpy as np
import pytest
import torch

import caddtree
from caddtree.core.decoder import Decoder
from caddtree.core.errors import CostModelError
from caddtree.core.options import GenerationOptions
from caddtree.core.pipeline import Session
from caddtree.core.profile import RoundSeconds
from caddtree.core.records import StageSeconds
from caddtree.core.target import Target
from caddtree.cost_models.convex import ConvexCostModel
from caddtree.cost_models.table import TableCostModel
from caddtree.drafters.dflash import DFlash
from caddtree.drafters.none import NoDrafter
from caddtree.profiling import load_or_measure, measure_profile, profile_key, profile_path
from caddtree.profiling.measure import steady_medians
from caddtree.runtime import StaticRunner
from caddtree.tree_builders.caddtree import CaDDTree
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree
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

    def build(
        cost_model=None,
        *,
        budget=8,
        builder=None,
        drafter=None,
        model=model,
        context_limit=None,
        runner=None,
        **drafter_options,
    ):
        return Decoder(
            target=Target(model, context_limit=context_limit, runner=runner),
            drafter=drafter or DFlash(model=str(folder), **drafter_options),
            tree_builder=builder or CaDDTree(max_node_budget=budget),
            verifier=SdpaVerifier(),
            cost_model=cost_model or TableCostModel(),
        )

    return build


def test_where_forwards_are_padded_their_sizes_are_measured_and_switches_too(make):
    """The counts are those that fill a bucket, and a round in the rows of the one before is what a size costs."""
    decoder = make(budget=20, runner=StaticRunner((1, 4, 9, 16, 65)))
    sizes = []
    decoder.target.runner.forward = counted(decoder.target.runner.forward, sizes)
    profile = measured(decoder, max_count=20, repeats=3)

    assert profile.counts == (0, 3, 8, 15)
    assert profile.switch_seconds >= 0
    # every size twice in a row, but for what goes before the sweeps
    rows = sizes[-2 * 5 * len(profile.counts) :]
    assert rows[::2] == rows[1::2]


def counted(forward, sizes):
    """Wrap a runner's forward: it notes the draft nodes."""

    def count(target, state, tree, attention):
        sizes.append(tree.num_drafts)
        return forward(target, state, tree, attention)

    return count


def measured(decoder, **options):
    return measure_profile(
        decoder, profile_key(decoder), **{"max_count": 8, "contexts": (32,), "repeats": 2, **options}
    )


def quick_profile(decoder, key, max_count):
    """A profile of a few rounds that says it reaches what was asked for."""
    found = measure_profile(decoder, key, max_count=4, contexts=(16,), repeats=1)
    return attrs.evolve(found, max_count=max_count)


def test_a_profile_holds_whole_rounds_of_the_asked_counts(make):
    """Every count of the grid, 0 and the largest included, positive seconds."""
    found = measured(make(), contexts=(16, 64))

    assert found.counts == (0, 1, 2, 3, 5, 7, 8)
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
        quick_profile,
    )
    with caplog.at_level(logging.WARNING, logger="caddtree"):
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
        quick_profile,
    )
    decoder = make()
    path = profile_path(profile_key(decoder))
    path.parent.mkdir(parents=True)
    path.write_text("{ broken")
    found = load_or_measure(decoder)

    assert "measured anew" in caplog.text
    assert found.counts == load_or_measure(decoder).counts


def test_whatever_changes_the_figures_changes_the_key(make, tmp_path, monkeypatch):
    """Drafter option or weights, target shape, builder kind, dtype, attention, contexts, threads, versions."""
    keys = [profile_key(make())]
    keys.append(profile_key(make(draft_length=2)))
    keys.append(profile_key(make(runner=StaticRunner((1, 16)))))
    keys.append(profile_key(make(runner=StaticRunner((1, 32)))))
    keys.append(profile_key(make(context_limit=100)))
    keys.append(profile_key(make(model=tiny_model(intermediate_size=96))))
    keys.append(profile_key(make(model=tiny_model(dtype=torch.bfloat16))))
    keys.append(profile_key(make(builder=DDTree(node_budget=8))))
    tiny_checkpoint(tmp_path / "drafter", seed=7, block_size=5)
    keys.append(profile_key(make()))
    monkeypatch.setattr(caddtree, "__version__", "0")
    keys.append(profile_key(make()))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    keys.append(profile_key(make()))
    torch.set_num_threads(threads)

    assert len({profile_path(key) for key in keys}) == len(keys)


def test_a_smaller_budget_shares_the_profile_and_a_larger_one_is_measured(make, monkeypatch):
    """``--set tree_builder.max_node_budget=64`` costs no new measurement; neither does another search."""
    from caddtree.profiling import store

    asked = []

    def counted(decoder, key, max_count):
        asked.append(max_count)
        return quick_profile(decoder, key, max_count)

    monkeypatch.setattr(store, "measure_profile", counted)
    for budget in (256, 64, 8, 512, 300):
        make(budget=budget).prepare()
    make(builder=CaDDTree(search="first_stop", objective="price")).prepare()

    assert asked == [256, 512]


def test_a_slow_machine_ends_with_fewer_repeats(make, caplog):
    """No time left: three rounds per cell are kept, and it is said."""
    with caplog.at_level(logging.INFO, logger="caddtree"):
        found = measured(make(), repeats=50, seconds=0.0)

    assert found.counts == (0, 1, 2, 3, 5, 7, 8)
    assert "stopped after 3 rounds per size" in caplog.text


@pytest.mark.parametrize(
    ("builder", "counts"), [(Chain(), (0, 1, 2, 3, 5)), (DDTree(node_budget=8), (0, 1, 2, 3, 5, 7, 8))]
)
def test_every_builder_can_be_profiled(make, builder, counts):
    """The chain has as many nodes as the block has slots; what it cannot reach leaves the grid."""
    assert measured(make(builder=builder)).counts == counts


def test_plain_decoding_can_be_profiled_and_priced(make):
    """Without a drafter there is one size, and the adaptive builder decodes all the same."""
    decoder = make(drafter=NoDrafter())
    found = measured(decoder, max_count=64)
    curves = RoundSeconds(found.contexts, found.draft_seconds, found.counts, found.after_seconds)

    assert found.counts == (0,)
    assert curves.after_seconds(np.array([0, 5]), 32).tolist() == [found.after_seconds[0, 0]] * 2


def test_measuring_is_greedy_whatever_the_decoder_asks_for(make):
    """A recipe's temperature and stop strings are no part of what a round costs, and are back afterwards."""
    decoder = make()
    decoder.options = GenerationOptions(temperature=1.0, max_new_tokens=3)
    with decoder.measuring():
        assert decoder.options.temperature == 0
        assert decoder.options.ignore_eos

    assert decoder.options.temperature == 1.0


@pytest.mark.parametrize("kind", [TableCostModel, ConvexCostModel])
def test_ft18_a_profile_of_another_machine_needs_force(make, tmp_path, kind):
    """FT-18: both values are named; ``force`` uses it; ``path`` is what is read."""
    found = measured(make())
    key = {**found.key, "device": "another processor"}
    path = tmp_path / "foreign.json"
    attrs.evolve(found, key=key).write(path)
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


def test_a_slow_spell_of_the_machine_does_not_bend_the_curve():
    """Half of the sweeps at twice the time, and the spell begins inside one: the shape stays, where medians bend it."""
    rng = np.random.default_rng(0)
    truth = np.array([4.0, 4.2, 4.5, 5.0, 6.0, 8.0])
    level = np.where(np.arange(15) < 7, 1.0, 2.0)[:, None] * rng.normal(1, 0.01, (15, 6))
    level[7, :3] = 1.0
    seconds = truth * level
    seconds[12, 2] *= 100  # one outlier
    seconds[13, 1] = np.nan
    shape = truth / truth[0]
    found = steady_medians(seconds)

    assert np.abs(found / found[0] / shape - 1).max() < 0.02
    assert np.abs(np.nanmedian(seconds, axis=0) / np.nanmedian(seconds[:, 0]) / shape - 1).max() > 0.02
