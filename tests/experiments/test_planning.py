"""Plans: every cell once, variants of a prompt together, in an order that is random and reproducible."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest

from caddtree.experiments.experiment_files import load_experiment
from caddtree.experiments.planning import make_plan
from caddtree.experiments.prompts import PromptRecord
from caddtree.experiments.sweep import load_all_prompts
from tests.experiments.tiny_experiment import write_experiment


@pytest.fixture
def experiment(tmp_path):
    return load_experiment(write_experiment(tmp_path))


def plan_of(experiment, prompts=None):
    return make_plan(experiment, prompts or load_all_prompts(experiment))


def test_every_combination_is_one_cell(experiment):
    """4 variants, 2 settings, 2 sets of 3 prompts; nothing twice."""
    plan, blocks = plan_of(experiment)

    assert len(plan.cells) == len({cell.id for cell in plan.cells}) == 4 * 2 * 2 * 3
    assert all({cell.variant for cell in block.cells} == set(plan.variants) for block in blocks)
    assert all(len({cell.block for cell in block.cells}) == 1 for block in blocks)


def test_seeds_are_for_sampling_alone(experiment):
    """A greedy cell would be the same under every seed and is run once."""
    experiment = attrs.evolve(experiment, options=attrs.evolve(experiment.options, seeds=(5, 6, 7)))
    seeds = Counter((cell.setting, cell.seed) for cell in plan_of(experiment)[0].cells)

    assert set(seeds) == {("temperature=0", 5), *(("temperature=1", seed) for seed in (5, 6, 7))}


def test_repeats_come_one_after_another_and_data_sets_take_turns(experiment):
    """What is stopped early has seen something of everything."""
    experiment = attrs.evolve(experiment, options=attrs.evolve(experiment.options, repeats=2))
    blocks = plan_of(experiment)[1]

    assert [block.cells[0].repeat for block in blocks] == [0] * 12 + [1] * 12
    assert [block.cells[0].dataset for block in blocks[:4]] == ["first", "first", "second", "second"]


def test_the_order_of_variants_is_random_but_always_the_same(experiment):
    """Every variant comes first somewhere; a second plan is equal; another order seed is not."""
    orders = [tuple(cell.variant for cell in block.cells) for block in plan_of(experiment)[1]]
    again = [tuple(cell.variant for cell in block.cells) for block in plan_of(experiment)[1]]
    other = attrs.evolve(experiment, options=attrs.evolve(experiment.options, order_seed=1))

    assert len({order[0] for order in orders}) == 4
    assert orders == again
    assert orders != [tuple(cell.variant for cell in block.cells) for block in plan_of(other)[1]]


def test_a_cell_is_known_by_what_is_run(experiment):
    """Another text under the same id, other options of one variant: those cells are others, the rest stays."""
    prompts = load_all_prompts(experiment)
    ids = {cell.id for cell in plan_of(experiment, prompts)[0].cells}
    changed = {**prompts, "first": [PromptRecord("first-0", "first", "another text"), *prompts["first"][1:]]}

    assert len(ids & {cell.id for cell in plan_of(experiment, changed)[0].cells}) == len(ids) * 5 // 6
    assert ids == {cell.id for cell in plan_of(experiment, prompts)[0].cells}
    limited = attrs.evolve(
        experiment,
        settings=tuple(attrs.evolve(s, options=attrs.evolve(s.options, top_k=3)) for s in experiment.settings),
    )
    assert not ids & {cell.id for cell in plan_of(limited, prompts)[0].cells}


def test_changed_model_files_change_the_fingerprint(experiment, tmp_path):
    """FT-42: results made with other weights are not mixed in; variants without that file keep theirs."""
    from caddtree.experiments import fingerprint

    before = plan_of(experiment)[0].fingerprints
    fingerprint._folder_hash.cache_clear()
    assert plan_of(experiment)[0].fingerprints == before
    (tmp_path / "drafter" / "config.json").open("a").write(" ")
    fingerprint._folder_hash.cache_clear()
    after = plan_of(experiment)[0].fingerprints

    assert after["plain"] == before["plain"]
    assert after["chain"] != before["chain"]


def test_changed_code_changes_every_fingerprint(experiment, monkeypatch):
    """FT-42: whatever file it was."""
    from caddtree.experiments import fingerprint

    before = plan_of(experiment)[0].fingerprints
    monkeypatch.setattr(fingerprint, "_code_hash", lambda: "other")
    after = plan_of(experiment)[0].fingerprints

    assert all(after[name] != before[name] for name in before)


def test_changed_code_of_an_observer_changes_every_fingerprint(experiment, monkeypatch):
    """It may say where a text ends; without one nothing is asked."""
    from caddtree.experiments import fingerprint
    from caddtree.plugins.recipe import StageChoice

    class Rule:
        def ends_text(self, tokens):
            return False

    registry = fingerprint.default_registry()
    info = attrs.evolve(registry.describe()[0], kind="observer", name="rule", strategy_class=Rule)
    monkeypatch.setitem(registry._strategies, ("observer", "rule"), info)
    hashes = ["one"]
    monkeypatch.setattr(fingerprint, "_plugin_hash", lambda found: hashes[-1] if found is Rule else None)
    bare = plan_of(experiment)[0].fingerprints
    variants = [
        attrs.evolve(variant, recipe=attrs.evolve(variant.recipe, observers=(StageChoice("rule"),)))
        for variant in experiment.variants
    ]
    watched = attrs.evolve(experiment, variants=tuple(variants))
    first = plan_of(watched)[0].fingerprints
    hashes.append("two")
    second = plan_of(watched)[0].fingerprints

    assert all(len({bare[name], first[name], second[name]}) == 3 for name in bare)
