"""Every built-in strategy through the kit that third parties use: found by the registry, not by a list.

A strategy that needs more than its defaults says so below, as a plugin author would in a test class. One that is new
fails here, by its name, until it has an entry.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from caddtree.plugins.registry import default_registry
from caddtree.testing import CostModelContract, DrafterContract, TreeBuilderContract, VerifierContract
from tests.cost_models.profiles import profile
from tests.drafters.checkpoints import tiny_checkpoint

CONTRACTS = {
    "drafter": DrafterContract,
    "tree_builder": TreeBuilderContract,
    "cost_model": CostModelContract,
    "verifier": VerifierContract,
}


class NoDrafter:
    """No options."""


class Ngram:
    options = {"max_suffix_length": 4, "draft_length": 8}
    other_options = {"min_suffix_length": 4, "max_occurrences": 1}
    invalid_options = [
        {"draft_length": 0},
        {"unseen": 0.0},
        {"max_occurrences": -3},
        {"max_suffix_length": 2, "min_suffix_length": 3},
    ]


class DFlash:
    """Two checkpoints that fit the kit's target."""

    options = {"model": "drafter"}
    other_options = {"model": "other", "dtype": "bfloat16", "draft_length": 2}
    invalid_options = [{"draft_length": 0}, {"width": 0}, {"dtype": "int8"}]

    @pytest.fixture
    def make_strategy(self, tmp_path):
        for seed, name in enumerate(("drafter", "other")):
            tiny_checkpoint(tmp_path / name, num_target_layers=2, target_layer_ids=(0, 1), seed=seed)
        return lambda model, **options: self.strategy(model=str(tmp_path / model), **options)


class Chain:
    invalid_options = [{"length": 0}]


class DDTree:
    options = {"node_budget": 24}
    invalid_options = [{"node_budget": 0}]


class CaDDTree:
    options = {"max_node_budget": 64}
    invalid_options = [{"max_node_budget": 0}, {"search": "fast"}, {"objective": "speed"}]


class Measured:
    """Two profiles, measured elsewhere."""

    options = {"path": "profile.json", "force": True}
    other_options = {"path": "other.json", "force": False}

    @pytest.fixture
    def make_strategy(self, tmp_path):
        profile().write(tmp_path / "profile.json")
        profile(draft_seconds=[0.003, 0.004]).write(tmp_path / "other.json")
        return lambda path, **options: self.strategy(path=str(tmp_path / path), **options)


class Analytic:
    """Every rate given: what is left out is measured, and differs."""

    options = {"flops_per_second": 1e9, "bytes_per_second": 1e9, "overhead_seconds": 1e-3, "draft_seconds": 1e-3}
    other_options = {"flops_per_second": 1e7, "bytes_per_second": 1e6}
    invalid_options = [{"flops_per_second": 0.0}, {"overhead_seconds": -1.0}, {"draft_seconds": float("inf")}]


class Sdpa:
    """No options."""


INTERPRETED = ("test_a_node_sees_the_context_its_ancestors_and_itself", "test_two_sequences_do_not_mix")
"""Checks of the kernel itself, which takes Triton's interpreter half a minute; the others run by its reference."""


class Triton:
    """Bound without a device, under Triton's interpreter."""

    interpreted = INTERPRETED

    @pytest.fixture(autouse=True)
    def without_a_device(self, monkeypatch, request):
        takes_all = SimpleNamespace(takes_triton=lambda tensor: True)
        monkeypatch.setattr("caddtree.verifiers.triton.availability", takes_all)
        if self.interpreted is None or request.node.originalname in self.interpreted:
            monkeypatch.setattr("caddtree.kernels.tree_attention.availability", takes_all)


PREPARED: dict[tuple[str, str], type] = {
    ("drafter", "none"): NoDrafter,
    ("drafter", "ngram"): Ngram,
    ("drafter", "dflash"): DFlash,
    ("tree_builder", "chain"): Chain,
    ("tree_builder", "ddtree"): DDTree,
    ("tree_builder", "caddtree"): CaDDTree,
    ("cost_model", "table"): Measured,
    ("cost_model", "convex"): Measured,
    ("cost_model", "analytic"): Analytic,
    ("verifier", "sdpa"): Sdpa,
    ("verifier", "triton"): Triton,
}

BUILT_IN = {
    (info.kind, info.name): info.strategy_class
    for info in default_registry().describe()
    if info.provider.distribution == "caddtree"
}


def contract(key: tuple[str, str]) -> type:
    """The test class of one strategy."""
    kind, name = key
    bases: tuple[Any, ...] = (PREPARED.get(key, object), CONTRACTS[kind])
    return type(f"Test_{kind}_{name}", tuple(base for base in bases if base is not object), {"strategy": BUILT_IN[key]})


globals().update({f"Test_{kind}_{name}": contract((kind, name)) for kind, name in BUILT_IN})


@pytest.mark.slow
class TestTritonInterpreted(Triton, VerifierContract):
    """The whole contract on the interpreted kernel, for minutes; its speed there says nothing."""

    strategy = BUILT_IN["verifier", "triton"]
    interpreted = None
    num_draws = 100
    slowest_allowed = 1e6


@pytest.mark.parametrize("key", BUILT_IN, ids="-".join)
def test_a_built_in_strategy_says_how_it_is_tested(key):
    """A new one fails here by its name, whatever its defaults do."""
    assert key in PREPARED, f"{key[0]} {key[1]} needs an entry in PREPARED: its options, and how it is made"
