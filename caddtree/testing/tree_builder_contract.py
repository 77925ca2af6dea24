"""What every tree builder promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import pytest
import torch

from caddtree.core.context import RoundContext
from caddtree.core.decoder import Decoder
from caddtree.core.draft_tree import DraftTree
from caddtree.core.marginals import Marginals
from caddtree.core.protocols import TreeBuilder
from caddtree.plugins.hooks import Kind
from caddtree.testing import tree_checks
from caddtree.testing.claims import must_work, require
from caddtree.testing.inputs import random_marginals, round_context
from caddtree.testing.losslessness import SAMPLINGS, check_text_is_the_targets
from caddtree.testing.partners import PartnerCosts, PartnerDrafter, built_in, concave, stairs, steep
from caddtree.testing.speed import check_speed
from caddtree.testing.strategy_contract import Contract

Make = Callable[[], TreeBuilder]
"""A new strategy of the options under test."""


@attrs.frozen(eq=False)
class BuilderCase:
    """One round that a builder builds for."""

    marginals: Marginals
    context: RoundContext


def _case(marginals: Marginals | None = None, **facts: Any) -> BuilderCase:
    facts = {"cost_model": PartnerCosts(), **facts}
    return BuilderCase(random_marginals() if marginals is None else marginals, round_context(**facts))


def _logits(depth: int = 6, vocabulary_size: int = 40) -> torch.Tensor:
    return torch.randn(depth, vocabulary_size, generator=torch.Generator().manual_seed(5)) * 3


def _padded_rows() -> Marginals:
    """Rows of 1, 3 and 2 candidates; what pads them is no token at all."""
    shares = [[0.9, 0.0, 0.0], [0.5, 0.3, 0.1], [0.6, 0.2, 0.0]]
    tokens = torch.tensor([[4, -1, -2], [7, 3, 9], [2, 8, -1]])
    return Marginals(tokens, torch.tensor(shares).log())


def _narrow() -> Marginals:
    """One candidate of one position, and no others to widen to."""
    return Marginals(torch.tensor([[5]]), torch.tensor([[-0.25]]))


CASES: dict[str, Callable[[], BuilderCase]] = {
    "usual": _case,
    "one candidate at depth 1": lambda: _case(_narrow()),
    "depth 1": lambda: _case(random_marginals(1)),
    "width 1": lambda: _case(random_marginals(7, 1)),
    "a vocabulary of 2": lambda: _case(random_marginals(7, 16, 2)),
    "the whole vocabulary": lambda: _case(random_marginals(4, 61)),
    "nothing to draft": lambda: _case(remaining_tokens=1),
    "a block of no positions": lambda: _case(random_marginals().clip(0)),
    "two tokens left": lambda: _case(remaining_tokens=2),
    "the last positions": lambda: _case(context_length=20, position_limit=24),
    "equal probabilities": lambda: _case(Marginals.from_logits(torch.zeros(6, 40), 8)),
    "a certain token": lambda: _case(Marginals.from_logits(_logits() * 1000, 8)),
    "rows of unequal length": lambda: _case(_padded_rows()),
    "a row without candidates": lambda: _case(
        Marginals.from_logits(_logits().index_fill(0, torch.tensor([3]), -torch.inf), 8)
    ),
    "sampling": lambda: _case(random_marginals(temperature=0.7), temperature=0.7),
    "a token that ends the text": lambda: _case(stop_tokens=frozenset(random_marginals().tokens[1, :2].tolist())),
    "three sizes allowed": lambda: _case(candidate_counts=(0, 3, 11)),
    "no draft nodes allowed": lambda: _case(candidate_counts=(0,)),
    "padded forwards": lambda: _case(candidate_counts=(0, 3, 7, 15), row_buckets=(1, 4, 8, 16), previous_rows=8),
    "steep costs": lambda: _case(cost_model=PartnerCosts(steep)),
    "costs in stairs": lambda: _case(cost_model=PartnerCosts(stairs), tokens_per_second=8.0),
    "concave costs": lambda: _case(cost_model=PartnerCosts(concave), cost_scale=2.0, tokens_per_second=50.0),
}
"""Rounds at the edges and in between; every check of a tree goes through all of them."""

_HINT = (
    "A builder cannot choose what is said; it can change the marginals, or return a tree that is no tree: look at the "
    "other checks."
)


class TreeBuilderContract(Contract):
    """The contract of a tree builder: marginals and the facts of a round to a draft tree.

    A class is ``strategy = YourBuilder`` and, where it has options, ``options``; see :class:`Contract` for the rest.
    """

    kind: ClassVar[Kind] = "tree_builder"
    calibrates_weights: ClassVar[bool] = False
    """Whether its log-weights are calibrated, and so no sums of the marginals' log-probabilities."""

    @pytest.fixture(params=CASES)
    def case(self, request: pytest.FixtureRequest) -> BuilderCase:
        """Return a round."""
        return CASES[request.param]()

    def observe(self, strategy: Any, target_model: Any) -> object:
        """Return the trees of all rounds, and of large blocks at prices that make sizes differ."""
        found = [tree_checks.as_plain(build(strategy, make())) for make in CASES.values()]
        for seed, spread in enumerate((1.0, 4.0, 9.0)):
            for curve in (stairs, concave, None):
                for speed in (None, 8.0, 60.0):
                    costs = PartnerCosts() if curve is None else PartnerCosts(curve)
                    block = random_marginals(15, 16, 200, seed=seed, spread=spread)
                    case = _case(block, cost_model=costs, tokens_per_second=speed)
                    found.append(tree_checks.as_plain(build(strategy, case)))
        return found

    def test_it_is_a_tree_builder(self, make: Make) -> None:
        """It has ``build``, and says by a bool whether it needs a cost model."""
        builder = make()
        require(
            isinstance(builder, TreeBuilder) and type(builder.needs_cost_model) is bool,
            f"{self.strategy.__name__} needs a method build(marginals, context) and a bool needs_cost_model",
        )

    def test_the_tree_is_flat_arrays_on_the_host(self, make: Make, case: BuilderCase) -> None:
        """Tokens, parents and depths are int64, log-weights float32, one entry per node."""
        tree_checks.check_arrays(build(make(), case))

    def test_node_0_is_the_root_of_the_round(self, make: Make, case: BuilderCase) -> None:
        """The token of the context, without parent, at depth 0 and of weight 1."""
        tree_checks.check_root(build(make(), case), case.context)

    def test_parents_come_before_children(self, make: Make, case: BuilderCase) -> None:
        """Every draft node has a parent with a smaller number."""
        tree_checks.check_order(build(make(), case))

    def test_a_node_is_one_deeper_than_its_parent(self, make: Make, case: BuilderCase) -> None:
        """Depths count from the root."""
        tree_checks.check_depths(build(make(), case))

    def test_siblings_differ(self, make: Make, case: BuilderCase) -> None:
        """No two children of a node carry one token."""
        tree_checks.check_siblings(build(make(), case))

    def test_the_tree_is_no_deeper_than_the_round_allows(self, make: Make, case: BuilderCase) -> None:
        """Tokens that may still be emitted and the target's positions both clip it; nothing left is the root alone."""
        tree_checks.check_depth_limit(build(make(), case), case.context)

    def test_the_tree_is_no_larger_than_the_runtime_allows(self, make: Make, case: BuilderCase) -> None:
        """The largest of ``candidate_counts`` bounds the draft nodes."""
        tree_checks.check_counts(build(make(), case), case.context)

    def test_every_draft_node_is_a_candidate_of_its_depth(self, make: Make, case: BuilderCase) -> None:
        """Real candidates only: what pads a short row is no token."""
        tree_checks.check_candidates(build(make(), case), case.marginals)

    def test_log_weights_are_the_path_products(self, make: Make, case: BuilderCase) -> None:
        """A node's log-weight is the sum of the log-probabilities from the root."""
        if self.calibrates_weights:
            pytest.skip("the contract class says that this builder calibrates its weights")
        tree_checks.check_path_products(build(make(), case), case.marginals)

    def test_children_do_not_outweigh_their_parent(self, make: Make, case: BuilderCase) -> None:
        """Weights are probabilities of prefixes, calibrated or not."""
        tree_checks.check_weights_fall(build(make(), case))

    def test_the_same_round_gives_the_same_tree(self, make: Make, case: BuilderCase) -> None:
        """Asked twice, and of a second builder with the same options."""
        builder = make()
        first, second, other = build(builder, case), build(builder, case), build(make(), case)
        _require_same(first, second, "asked twice")
        _require_same(first, other, "asked of a second builder with the same options")

    def test_a_builder_remembers_no_round(self, make: Make) -> None:
        """After rounds of other requests it builds what a new builder builds."""
        used = make()
        for names in (list(CASES), list(CASES)[::-1]):
            for name in names:
                fresh, found = build(make(), CASES[name]()), build(used, CASES[name]())
                _require_same(fresh, found, f"round {name!r}, asked of a new builder and of one that built before")

    def test_the_marginals_are_left_as_they_were(self, make: Make, case: BuilderCase) -> None:
        """Tokens and log-probabilities belong to the round: a builder that changes them works on a copy."""
        given = case.marginals
        tokens, log_probs = given.tokens.clone(), given.log_probs.clone()
        build(make(), case)
        for name, before, after in (("tokens", tokens, given.tokens), ("log_probs", log_probs, given.log_probs)):
            require(
                torch.equal(before, after),
                f"build changed marginals.{name} in place. They are the drafter's: work on a clone.",
            )

    def test_costs_are_asked_only_by_a_builder_that_needs_them(self, make: Make) -> None:
        """A cost model that no builder needs is never prepared, and there may be none."""
        builder, costs = make(), PartnerCosts()
        if builder.needs_cost_model:
            return
        build(builder, _case(cost_model=costs))
        require(
            not costs.was_asked,
            f"{self.strategy.__name__} asked the cost model although needs_cost_model is False, so that it is not "
            f"prepared. Return True.",
        )
        with must_work("build without a cost model where needs_cost_model is False", "Return True if it needs one."):
            build(builder, _case(cost_model=None))

    @pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
    def test_the_text_is_the_targets_own(self, make: Make, target_model: Any, sampling: Mapping[str, Any]) -> None:
        """Whole requests equal plain decoding token by token, greedy and sampled with the same seed."""
        check_text_is_the_targets(self._decoders(make, target_model), target_model, sampling, _HINT)

    def test_the_text_of_a_vocabulary_of_2_is_the_targets_own(self, make: Make) -> None:
        """The smallest vocabulary that leaves a choice."""
        model = self.make_target(2)
        check_text_is_the_targets(self._decoders(make, model), model, {}, _HINT)

    def test_building_is_fast(self, make: Make) -> None:
        """A block of 15 positions and 1,000 tokens, against ``ddtree`` with 64 draft nodes."""
        builder, yardstick = make(), built_in("tree_builder", "ddtree", node_budget=64)
        case = _case(random_marginals(15, 16, 1000))
        check_speed(
            "build over 15 positions of 16 candidates",
            lambda: builder.build(case.marginals, case.context),
            lambda: yardstick.build(case.marginals, case.context),
            "tree_builder ddtree with 64 draft nodes",
            self.slowest_allowed,
        )

    def _decoders(self, make: Make, model: Any) -> Callable[[Sequence[Sequence[int]]], Decoder]:
        return lambda known: Decoder(
            target=model,
            drafter=PartnerDrafter(known),
            tree_builder=make(),
            verifier=built_in("verifier", "sdpa"),
            cost_model=PartnerCosts(),
        )


def build(builder: TreeBuilder, case: BuilderCase) -> DraftTree:
    """Return the tree of a round."""
    what = f"build for a block of {case.marginals.depth} positions, at most {case.context.max_depth} deep"
    with must_work(what), torch.inference_mode():
        return builder.build(case.marginals, case.context)


def _require_same(first: DraftTree, second: DraftTree, when: str) -> None:
    require(
        tree_checks.as_plain(first) == tree_checks.as_plain(second),
        f"one round gave two trees, {when}: tokens {first.tokens.tolist()[:12]} and {second.tokens.tolist()[:12]}, "
        f"parents {first.parents.tolist()[:12]} and {second.parents.tolist()[:12]}. A tree follows from the marginals, "
        f"the context and the options alone; draw random numbers from a generator seeded by them.",
    )


__all__ = ["BuilderCase", "CASES", "TreeBuilderContract", "build"]
