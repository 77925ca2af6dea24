"""Tree builders with one fault each, around the built-in DDTree."""

from __future__ import annotations

import random
from typing import Any

import attrs
import torch
from attrs.validators import ge, instance_of

from caddtree.core.draft_tree import DraftTree
from caddtree.core.marginals import Marginals
from caddtree.testing import TreeBuilderContract
from caddtree.tree_builders.ddtree import DDTree

REFUSED_TREE = "TreeError"
"""The decoding loop refuses the tree before the target sees it."""


class Contract(TreeBuilderContract):
    options = {"node_budget": 8}
    caught_by: dict[str, str]


def text(message: str) -> dict[str, str]:
    return {
        "test_the_text_is_the_targets_own": message,
        "test_the_text_of_a_vocabulary_of_2_is_the_targets_own": message,
    }


def arrays(tree: DraftTree) -> list[list[Any]]:
    return [tree.tokens.tolist(), tree.parents.tolist(), tree.log_weights.tolist()]


@attrs.frozen
class ChildBeforeParent(DDTree):
    """Draft nodes are numbered from the last to the first."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        order = [0, *range(tree.num_nodes - 1, 0, -1)]
        parents = [-1 if parent < 0 else order.index(parent) for parent in tree.parents[order].tolist()]
        return DraftTree(tree.tokens[order], torch.tensor(parents), tree.depths[order], tree.log_weights[order])


class TestChildBeforeParent(Contract):
    strategy = ChildBeforeParent
    caught_by = {
        "test_parents_come_before_children": "a parent must come before its child, found node 1 with parent",
        **text(REFUSED_TREE),
    }


@attrs.frozen
class DuplicateSiblings(DDTree):
    """The lightest leaf comes twice."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        if tree.num_drafts < 4 or tree.num_drafts in (context.candidate_counts or ()):
            return tree
        last = int(tree.log_weights.argmin())
        tokens, parents, weights = arrays(tree)
        return DraftTree.from_parents([*tokens, tokens[last]], [*parents, parents[last]], [*weights, weights[last]])


class TestDuplicateSiblings(Contract):
    strategy = DuplicateSiblings
    caught_by = {
        "test_siblings_differ": "siblings must differ, found nodes",
        "test_children_do_not_outweigh_their_parent": "must not outweigh it",
        **text(REFUSED_TREE),
    }


@attrs.frozen
class TooDeep(DDTree):
    """Takes the whole block, whatever the round allows."""

    def build(self, marginals, context):
        return super().build(marginals, attrs.evolve(context, remaining_tokens=1000, position_limit=10_000))


class TestTooDeep(Contract):
    strategy = TooDeep
    # the decoding loop clips what it gives to a builder
    caught_by = {"test_the_tree_is_no_deeper_than_the_round_allows": r"may be at most 0 deep .* found depth"}


@attrs.frozen
class DeepThroughTheRoot(DDTree):
    """Repeats the last position once more below the deepest node."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        if tree.num_drafts < 5 or tree.num_drafts in (context.candidate_counts or ()):
            return tree
        tokens, parents, weights = arrays(tree)
        deepest = int(tree.depths.argmax())
        return DraftTree.from_parents(
            [*tokens, int(marginals.tokens[-1, 0])], [*parents, deepest], [*weights, weights[deepest] - 9.0]
        )


class TestDeepThroughTheRoot(Contract):
    strategy = DeepThroughTheRoot
    caught_by = {
        "test_every_draft_node_is_a_candidate_of_its_depth": "but the block has|no candidate at depth",
        "test_log_weights_are_the_path_products": "must be the sum of log-probabilities",
        "test_the_tree_is_no_deeper_than_the_round_allows": "found depth",
        **text(REFUSED_TREE),
    }


@attrs.frozen
class WrongRoot(DDTree):
    """The root is the token after the root."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        tokens = tree.tokens.clone()
        tokens[0] = (tokens[0] + 1) % 2
        return attrs.evolve(tree, tokens=tokens)


class TestWrongRoot(Contract):
    strategy = WrongRoot
    caught_by = {
        "test_node_0_is_the_root_of_the_round": r"node 0 must be the root: token 1 .* found token 0",
        **text("TreeError: the root of the tree must be context.root_token"),
    }


@attrs.frozen
class OwnWeights(DDTree):
    """A log-weight is the token's own log-probability, without those before it."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        weights = tree.log_weights - tree.log_weights[tree.parents.clamp(min=0)]
        return attrs.evolve(tree, log_weights=weights)


class TestOwnWeights(Contract):
    strategy = OwnWeights
    caught_by = {
        "test_log_weights_are_the_path_products": "a log-weight must be the sum of log-probabilities from the root",
        "test_children_do_not_outweigh_their_parent": "the children of a node must not outweigh it",
    }


@attrs.frozen
class UnnormalisedWeights(DDTree):
    """Log-weights are scores, a nat too heavy per position."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        return attrs.evolve(tree, log_weights=tree.log_weights + tree.depths.float())


class TestUnnormalisedWeights(Contract):
    strategy = UnnormalisedWeights
    caught_by = {
        "test_log_weights_are_the_path_products": "a log-weight must be the sum of log-probabilities from the root",
        "test_children_do_not_outweigh_their_parent": "logs of probabilities",
    }


@attrs.frozen
class PaddingIsDrafted(DDTree):
    """All columns of the first position are children of the root, also those that pad a short row."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        if context.max_depth == 0 or marginals.depth == 0 or context.candidate_counts is not None:
            return tree
        count = min(self.node_budget, marginals.width)
        tokens, weights = marginals.tokens[0, :count].tolist(), marginals.log_probs[0, :count].tolist()
        return DraftTree.from_parents([context.root_token, *tokens], [-1] + [0] * count, [0.0, *weights])


class TestPaddingIsDrafted(Contract):
    strategy = PaddingIsDrafted
    caught_by = {
        "test_every_draft_node_is_a_candidate_of_its_depth": "is no candidate at depth 1.*padding and its token",
    }


@attrs.frozen
class SixteenWide(DDTree):
    """Counts on 16 candidates, which a small vocabulary does not have."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        if marginals.depth:
            assert float(marginals.widen(16).log_probs[0, 15]) < 0
        return tree


class TestSixteenWide(Contract):
    strategy = SixteenWide
    caught_by = {"*": "must work, but raised IndexError|SixteenWide failed in round 0: IndexError"}


@attrs.frozen
class OverTheAllowedSize(DDTree):
    """Does not look at the node counts that the runtime allows."""

    def build(self, marginals, context):
        return super().build(marginals, attrs.evolve(context, candidate_counts=None))


class TestOverTheAllowedSize(Contract):
    strategy = OverTheAllowedSize
    caught_by = {"test_the_tree_is_no_larger_than_the_runtime_allows": r"the runtime allows \(0,\) draft nodes"}


@attrs.frozen
class WrongTypes(DDTree):
    """Arrays of NumPy's and torch's own choice."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        return attrs.evolve(tree, depths=tree.depths.int(), log_weights=tree.log_weights.double())


class TestWrongTypes(Contract):
    strategy = WrongTypes
    caught_by = {
        "test_the_tree_is_flat_arrays_on_the_host": "depths of a draft tree must be a torch.int64 tensor",
        **text("TypeError: tree.depths must be a torch.int64 tensor, found torch.int32"),
    }


@attrs.frozen
class WrongDepths(DDTree):
    """Depths count the root as 1."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        depths = tree.depths + 1
        depths[0] = 0
        return attrs.evolve(tree, depths=depths)


class TestWrongDepths(Contract):
    strategy = WrongDepths
    caught_by = {
        "test_a_node_is_one_deeper_than_its_parent": "a node must be one deeper than its parent, found node 1 at depth",
        "test_the_tree_is_no_deeper_than_the_round_allows": "found depth",
        "test_every_draft_node_is_a_candidate_of_its_depth": "no candidate at depth|but the block has",
        "test_log_weights_are_the_path_products": "must be the sum of log-probabilities",
        **text(REFUSED_TREE),
    }


@attrs.frozen
class ChangesTheMarginals(DDTree):
    """Sharpens the marginals where they are."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        marginals.log_probs[:, 1:] = -torch.inf
        return tree


class TestChangesTheMarginals(Contract):
    strategy = ChangesTheMarginals
    caught_by = {
        "test_the_marginals_are_left_as_they_were": "build changed marginals.log_probs in place",
        "test_the_same_round_gives_the_same_tree": "one round gave two trees, asked twice",
        # these look at the marginals after the builder did
        "test_every_draft_node_is_a_candidate_of_its_depth": "no candidate",
    }


@attrs.frozen
class RemembersRounds(DDTree):
    """Keeps the tree of a round by its place in the text: the next request finds it there."""

    _trees: dict[int, DraftTree] = attrs.field(factory=dict, init=False, eq=False)

    def build(self, marginals, context):
        if context.context_length not in self._trees:
            self._trees[context.context_length] = super().build(marginals, context)
        return self._trees[context.context_length]


class TestRemembersRounds(Contract):
    strategy = RemembersRounds
    caught_by = {
        "test_a_builder_remembers_no_round": "asked of a new builder and of one that built before: tokens",
        **text("differs from plain|TreeError"),
    }


@attrs.frozen
class Unsteady(DDTree):
    """Leaves out leaves by chance."""

    def build(self, marginals, context):
        tree = super().build(marginals, context)
        tokens, parents, weights = arrays(tree)
        keep = random.Random().randint(tree.num_nodes // 2 + 1, tree.num_nodes)
        return DraftTree.from_parents(tokens[:keep], parents[:keep], weights[:keep])


class TestUnsteady(Contract):
    strategy = Unsteady
    caught_by = {
        "test_the_same_round_gives_the_same_tree": "one round gave two trees",
        "test_a_builder_remembers_no_round": "one round gave two trees",
        "test_no_option_is_ignored": "with the same options .* behave differently",
    }


@attrs.frozen
class AsksForCosts(DDTree):
    """Says that it needs no cost model and asks it all the same."""

    def build(self, marginals, context):
        if context.cost_model is not None:
            context.cost_model.before_choice_seconds(context.context_length)
        return super().build(marginals, context)


class TestAsksForCosts(Contract):
    strategy = AsksForCosts
    caught_by = {
        "test_costs_are_asked_only_by_a_builder_that_needs_them": "asked the cost model although needs_cost_model is"
    }


@attrs.frozen
class SaysNothingOfCosts(DDTree):
    """``needs_cost_model`` is no bool."""

    needs_cost_model = None


class TestSaysNothingOfCosts(Contract):
    strategy = SaysNothingOfCosts
    caught_by = {"test_it_is_a_tree_builder": "a bool needs_cost_model"}


@attrs.frozen
class IgnoresAnOption(DDTree):
    """Offers a temperature and looks at it nowhere."""

    sharpness: float = attrs.field(default=1.0, validator=[instance_of(float), ge(0.0)])
    search: bool = attrs.field(default=False, validator=instance_of(bool))


class TestIgnoresAnOption(Contract):
    strategy = IgnoresAnOption
    unobservable_options = ("search",)
    caught_by = {"test_no_option_is_ignored": r"IgnoresAnOption ignores sharpness \(tried 2.0, 0.5\)"}


@attrs.frozen
class TakesAnything:
    """Validates nothing, and fails over it when it builds."""

    node_budget: int = 8
    needs_cost_model = False

    def build(self, marginals: Marginals, context: Any) -> DraftTree:
        if self.node_budget < 0:
            raise IndexError("list index out of range")
        return DDTree(node_budget=max(1, self.node_budget)).build(marginals, context)


class TestTakesAnything(Contract):
    strategy = TakesAnything
    invalid_options = [{"node_budget": 0}]
    caught_by = {
        "test_an_option_of_the_wrong_type_is_refused_by_name": "takes node_budget = 'no such word', of the wrong type",
        "test_an_invalid_option_is_refused_by_name": "takes node_budget = 0, invalid",
        "test_a_number_that_is_accepted_works": "node_budget = -1 is taken at construction and fails later: ",
    }


def _some_number(_instance, _attribute, value):
    if not isinstance(value, int) or value < 1:
        raise ValueError("bad option")


@attrs.frozen
class NamesNoOption(DDTree):
    """Refuses without a name and a value."""

    node_budget: int = attrs.field(default=8, validator=_some_number)


class TestNamesNoOption(Contract):
    strategy = NamesNoOption
    invalid_options = [{"node_budget": 0}]
    caught_by = {
        "test_an_option_of_the_wrong_type_is_refused_by_name": "bad option. The message must name the option and show",
        "test_an_invalid_option_is_refused_by_name": "bad option. The message must name the option and show",
    }


@attrs.frozen
class NoRecipeCanSetIt(DDTree):
    """An option called ``name``, which chooses the strategy."""

    name: str = attrs.field(default="x", validator=instance_of(str))


class TestNoRecipeCanSetIt(Contract):
    strategy = NoRecipeCanSetIt
    unobservable_options = ("name",)
    caught_by = {"test_a_recipe_can_name_it": "an option cannot be called name"}


@attrs.frozen
class Slow(DDTree):
    """Sorts the whole vocabulary of every position anew for every node."""

    def build(self, marginals, context):
        for _ in range(self.node_budget):
            rows = [sorted(row) for row in marginals.widen(1_000_000).log_probs.tolist()]
        assert all(row[-1] <= 1e-3 for row in rows)
        return super().build(marginals, context)


class TestSlow(Contract):
    strategy = Slow
    options = {"node_budget": 16}
    caught_by = {"test_building_is_fast": "is too slow: .* ms in the best of"}
