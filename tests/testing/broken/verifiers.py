"""Verifiers with one fault each, around one forward of the target."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from attrs.validators import gt, instance_of

from caddtree.core.acceptance import Walk
from caddtree.core.sampler import gumbel_noise
from caddtree.testing import VerifierContract

MASK = "test_a_node_sees_the_context_its_ancestors_and_itself"
OF_TWO = "test_a_vocabulary_of_2_is_a_vocabulary"
RULE = "test_it_returns_the_walk_of_the_rule_that_it_is_given"
COMMITS = "test_it_leaves_committing_to_the_decoder"
TREE = "test_the_tree_is_left_as_it_was"
STEADY = "test_the_same_tree_gives_the_same_walk"
WALKS = "test_walks_say_what_plain_decoding_says"
TWO = "test_two_sequences_do_not_mix"
NOTHING_BEHIND = "test_a_request_leaves_nothing_behind"
FEATURES = "test_the_features_of_the_path_are_kept"
FINITE = "test_numbers_that_are_not_finite_are_refused"
TARGET = "test_the_target_is_left_as_it_was"
LAW = "test_samples_have_the_targets_own_law"
TEXT = "test_the_text_is_the_targets_own"
TEXT_OF_2 = "test_the_text_of_a_vocabulary_of_2_is_the_targets_own"
OPTIONS = "test_no_option_is_ignored"
OTHER = "differs from plain"


class Contract(VerifierContract):
    num_draws = 300
    caught_by: dict[str, str]


@attrs.define(eq=False)
class Plain:
    """Runs the target under a mask and positions that heirs get wrong."""

    _target: Any = attrs.field(default=None, init=False)

    def bind(self, target):
        self._target = target

    def logits(self, state, tree):
        hidden = self._target._forward(state, tree.tokens, self.depths(tree), self.visible(tree))
        return self._target.head_logits(hidden)

    def verify(self, state, tree, rule):
        context_length = state.context_length
        return rule.walk(tree, self.logits(state, tree), context_length)

    def visible(self, tree):
        return tree.visibility_mask()

    def depths(self, tree):
        return tree.depths


@attrs.define(eq=False)
class NoBind:
    """Lacks a method, has an option that no recipe can give and another that is not validated."""

    name: str = "x"
    splits: int = 1

    def verify(self, state, tree, rule):
        raise RuntimeError


class TestNoBind(Contract):
    strategy = NoBind
    invalid_options = [{"splits": 0}]
    caught_by = {
        "*": "must work, but raised AttributeError: 'NoBind' object has no attribute 'bind'|NoBind takes|fails later",
        "test_it_is_a_verifier": "NoBind needs bind and verify",
        "test_a_recipe_can_name_it": r"registering NoBind as a verifier .* \(NoBind\) lacks bind",
    }


class TestPlain(Contract):
    """The forward itself is sound."""

    strategy = Plain
    caught_by: dict[str, str] = {}


class SiblingsShineThrough(Plain):
    """Children of one node see each other."""

    def visible(self, tree):
        return tree.visibility_mask() | (tree.parents[:, None] == tree.parents[None])


class TestSiblingsShineThrough(Contract):
    strategy = SiblingsShineThrough
    caught_by = {
        MASK: "they are those of a forward in which siblings see each other",
        OF_TWO: "siblings see each other",
        FEATURES: "are not the target's hidden states",
        **dict.fromkeys((WALKS, TWO, NOTHING_BEHIND, TEXT), OTHER),
    }


class CausalMask(Plain):
    """Every node sees all nodes before it."""

    def visible(self, tree):
        return torch.ones(tree.num_nodes, tree.num_nodes, dtype=torch.bool).tril()


class TestCausalMask(Contract):
    strategy = CausalMask
    caught_by = {
        MASK: r"a forward in which a node sees all nodes before it \(a causal mask\)|siblings see each other",
        OF_TWO: "causal mask|siblings",
        LAW: "is biased",
        FEATURES: "are not the target's hidden states",
        **dict.fromkeys((WALKS, TWO, NOTHING_BEHIND, TEXT, TEXT_OF_2), OTHER),
    }


class PositionsOffByOne(Plain):
    """Draft nodes sit one position too high."""

    def depths(self, tree):
        return tree.depths + (tree.depths > 0)


class TestPositionsOffByOne(Contract):
    strategy = PositionsOffByOne
    caught_by = {
        MASK: "a forward in which the positions of draft nodes are one too high|all positions",
        OF_TWO: "the positions of draft nodes are one too high",
        FEATURES: "are not the target's hidden states",
        **dict.fromkeys((WALKS, TWO, NOTHING_BEHIND, TEXT, TEXT_OF_2), OTHER),
    }


class PositionsByNumber(Plain):
    """Positions count nodes."""

    def depths(self, tree):
        return torch.arange(tree.num_nodes)


class TestPositionsByNumber(Contract):
    strategy = PositionsByNumber
    caught_by = {
        MASK: "a forward in which positions count nodes instead of depth",
        OF_TWO: "positions count nodes",
        FEATURES: "are not the target's hidden states",
        **dict.fromkeys((WALKS, TWO, NOTHING_BEHIND, TEXT, TEXT_OF_2), OTHER),
    }


def walk(tree, choose):
    """Walk by a choice per node, without the rule."""
    tokens, parents = tree.tokens.tolist(), tree.parents.tolist()
    path, chosen = [0], []
    while True:
        chosen.append(choose(path[-1], len(path) - 1))
        below = [n for n, parent in enumerate(parents) if parent == path[-1] and tokens[n] == chosen[-1]]
        if not below:
            return Walk(tuple(path), tuple(chosen))
        path.append(below[0])


class ArgmaxAlways(Plain):
    """Accepts the likeliest token at every temperature."""

    def verify(self, state, tree, rule):
        logits = self.logits(state, tree)
        return walk(tree, lambda node, depth: int(logits[node].argmax()))


class TestArgmaxAlways(Contract):
    strategy = ArgmaxAlways
    caught_by = {
        RULE: "verify must return what rule.walk returns",
        MASK: "verify never asked the acceptance rule",
        OF_TWO: "verify never asked the acceptance rule",
        WALKS: "differs from plain sampling with the same seed",
        TEXT: "differs from plain sampling with the same seed",
        LAW: "what ArgmaxAlways samples is biased: .* Never match by arg-max above temperature 0",
        FINITE: "NaN in the logits must raise NumericalError, found Walk",
        OPTIONS: "never asked the acceptance rule",
    }


class ArgmaxWhereDrafted(Plain):
    """Accepts the likeliest token where it was drafted, and asks the rule where it was not."""

    def verify(self, state, tree, rule):
        length = state.context_length
        logits = self.logits(state, tree)
        best = int(logits[0].argmax())
        if best in tree.tokens[1:].tolist() and getattr(getattr(rule, "sampler", None), "temperature", 0) > 0:
            return walk(tree, lambda node, depth: int(logits[node].argmax()))
        return rule.walk(tree, logits, length)


class TestArgmaxWhereDrafted(Contract):
    strategy = ArgmaxWhereDrafted
    caught_by = {
        WALKS: "differs from plain sampling with the same seed",
        TEXT: "differs from plain sampling with the same seed",
        LAW: "what ArgmaxWhereDrafted samples is biased",
    }


class OwnNoise(Plain):
    """Samples the right law with noise of its own."""

    def verify(self, state, tree, rule):
        length, sampler = state.context_length, getattr(rule, "sampler", None)
        logits = self.logits(state, tree)
        if sampler is None or sampler.temperature == 0:
            return rule.walk(tree, logits, length)
        return walk(tree, lambda node, depth: int(torch.multinomial(sampler.scores(logits[node]).softmax(-1), 1)))


class TestOwnNoise(Contract):
    strategy = OwnNoise
    caught_by = {
        STEADY: "one tree was walked in two ways",
        WALKS: "differs from plain sampling with the same seed",
        TEXT: "differs from plain sampling with the same seed",
        OPTIONS: "behave differently",
    }


class RatioOfTruncated(Plain):
    """Accepts the first child with probability min(1, p / q) although it was not sampled from q."""

    def verify(self, state, tree, rule):
        length, sampler = state.context_length, getattr(rule, "sampler", None)
        logits = self.logits(state, tree)
        if sampler is None or sampler.temperature == 0 or tree.num_drafts == 0:
            return rule.walk(tree, logits, length)

        def choose(node, depth):
            scores = sampler.scores(logits[node])
            below = (tree.parents == node).nonzero().flatten().tolist()
            noise = gumbel_noise(sampler.seed, [length + depth], len(scores))[0]
            if below:
                likely = float(scores.softmax(-1)[tree.tokens[below[0]]]) / 0.4
                if float(torch.sigmoid(noise[0])) < likely:
                    return int(tree.tokens[below[0]])
            return int((scores + noise).argmax())

        return walk(tree, choose)


class TestRatioOfTruncated(Contract):
    strategy = RatioOfTruncated
    caught_by = {
        TEXT: "differs from plain sampling with the same seed",
        LAW: "what RatioOfTruncated samples is biased",
    }


class LengthAfterTheForward(Plain):
    """Tells the rule a committed length that is one too large."""

    def verify(self, state, tree, rule):
        return rule.walk(tree, self.logits(state, tree), state.context_length + 1)


class TestLengthAfterTheForward(Contract):
    strategy = LengthAfterTheForward
    # its noise is that of other positions, which is as good a noise as any
    caught_by = {
        RULE: r"the committed length \(8\), found \(0, 9\)",
        WALKS: "differs from plain sampling",
        TEXT: "differs from plain sampling",
    }


class ShortWalks(Plain):
    """Gives away what it could accept behind the first draft node."""

    def verify(self, state, tree, rule):
        return super().verify(state, tree, rule).cut(2)


class TestShortWalks(Contract):
    strategy = ShortWalks
    caught_by = {WALKS: "the verifier walked", TWO: "the verifier walked", NOTHING_BEHIND: "the verifier walked"}


class CommitsItself(Plain):
    """Keeps the root's row before the decoder does."""

    def verify(self, state, tree, rule):
        found = super().verify(state, tree, rule)
        self._target.commit(state, (0,))
        return found


class TestCommitsItself(Contract):
    strategy = CommitsItself
    caught_by = {
        COMMITS: "verify committed 1 rows. The decoder commits the path",
        # whoever verifies a second time has another context
        OF_TWO: "differ from plain forwards",
        STEADY: "walked in two ways",
        FEATURES: "found None",
        LAW: "is biased",
        **dict.fromkeys((WALKS, TWO, NOTHING_BEHIND, TEXT, TEXT_OF_2), OTHER),
    }


class ChangesTheTree(Plain):
    """Makes positions of depths where they are."""

    def verify(self, state, tree, rule):
        found = super().verify(state, tree, rule)
        tree.depths.add_(state.context_length)
        return found


class TestChangesTheTree(Contract):
    strategy = ChangesTheTree
    caught_by = {
        TREE: "verify changed tree.depths in place",
        LAW: "is biased",
    }


class KeepsTheFirstSequence(Plain):
    """Verifies every sequence on the first one's cache."""

    _state: Any = None

    def verify(self, state, tree, rule):
        if self._state is None:
            self._state = state
        return rule.walk(tree, self.logits(self._state, tree), state.context_length)


class TestKeepsTheFirstSequence(Contract):
    strategy = KeepsTheFirstSequence
    caught_by = {
        TWO: "beside another sequence differs from plain",
        NOTHING_BEHIND: "in request 1 of one verifier differs from plain",
        TEXT: "request 1 differs from plain",
        TEXT_OF_2: "differs from plain",
    }


class KeepsMasksBySize(Plain):
    """Makes one mask per number of nodes."""

    def bind(self, target):
        super().bind(target)
        self._masks: dict[int, torch.Tensor] = {}

    def visible(self, tree):
        return self._masks.setdefault(tree.num_nodes, tree.visibility_mask())


class TestKeepsMasksBySize(Contract):
    strategy = KeepsMasksBySize
    caught_by = {WALKS: OTHER, TEXT: OTHER, TWO: OTHER, NOTHING_BEHIND: OTHER}


class DropsFeatures(Plain):
    """Runs the model beside the target, which taps nothing then."""

    def verify(self, state, tree, rule):
        found = super().verify(state, tree, rule)
        state.features = None
        return found


class TestDropsFeatures(Contract):
    strategy = DropsFeatures
    caught_by = {FEATURES: "the features of the accepted path .* found None"}


class HidesNaN(Plain):
    """Makes numbers of everything."""

    def logits(self, state, tree):
        return super().logits(state, tree).nan_to_num(0.0)


class TestHidesNaN(Contract):
    strategy = HidesNaN
    caught_by = {FINITE: "NaN in the logits must raise NumericalError, found Walk"}


class PatchesForGood(Plain):
    """Leaves a hook in the target's head."""

    def bind(self, target):
        super().bind(target)
        # no choice changes: everyone who runs the model finds other numbers all the same
        target.model.get_output_embeddings().register_forward_hook(lambda module, args, logits: logits * (1 + 1e-6))


class TestPatchesForGood(Contract):
    strategy = PatchesForGood
    caught_by = {TARGET: "left the target's forward changed", OPTIONS: "behave differently"}


@attrs.define(eq=False)
class IgnoresAnOption(Plain):
    """A number of splits that nothing looks at."""

    num_splits: int = attrs.field(default=4, validator=[instance_of(int), gt(0)])


class TestIgnoresAnOption(Contract):
    strategy = IgnoresAnOption
    caught_by = {OPTIONS: r"IgnoresAnOption ignores num_splits \(tried 5, 3"}


class Slow(Plain):
    """One forward per node instead of one per tree."""

    def logits(self, state, tree):
        found = [super(Slow, self).logits(state, tree)[node] for node in range(tree.num_nodes)]
        return torch.stack(found)


class TestSlow(Contract):
    strategy = Slow
    num_draws = 20
    caught_by = {"test_verifying_is_fast": "verify of 96 nodes is too slow"}
