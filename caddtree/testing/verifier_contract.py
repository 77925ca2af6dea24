"""What every verifier promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from caddtree.core.acceptance import AcceptanceRule, MatchChoice, Walk
from caddtree.core.decoder import Decoder
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import NumericalError
from caddtree.core.protocols import Verifier
from caddtree.core.sampler import Sampler
from caddtree.core.target import Target, TargetState
from caddtree.plugins.hooks import Kind
from caddtree.testing.claims import must_work, require
from caddtree.testing.inputs import known_tokens
from caddtree.testing.law import check_law
from caddtree.testing.losslessness import SAMPLINGS, Sampling, check_text_is_the_targets, in_words
from caddtree.testing.partners import PartnerCosts, PartnerDrafter, built_in
from caddtree.testing.plain_forwards import check_node_logits, node_logits
from caddtree.testing.speed import check_speed
from caddtree.testing.strategy_contract import Contract
from caddtree.testing.unchanged import ModelWatch

Make = Callable[[], Verifier]
"""A new strategy of the options under test."""

SHAPES: dict[str, list[int]] = {
    "the root alone": [-1],
    "one draft node": [-1, 0],
    "a chain": [-1, 0, 1, 2, 3, 4],
    "a star": [-1, 0, 0, 0, 0, 0],
    "a bush": [-1, 0, 0, 0, 3, 3, 1, 5, 5, 2, 8, 8, 6, 11],
    "children far from their parents": [-1, 0, 0, 0, 3, 2, 1, 1, 2, 3, 4, 9, 11],
}
"""Trees by the parents of their nodes. The last children are those that the target may agree with: everything that a
wrong mask or a wrong numbering mixes in lies between them and the root."""
PREFIXES = {"one committed token": [1], "eight committed tokens": [1, 0, 1, 1, 0, 1, 0, 0]}
"""Texts before the root; of tokens that every vocabulary has."""

_HINT = "Return what rule.walk returns, for the logits of every node under its own ancestors."
_LAW_VOCABULARY = 5
_LAW_TEMPERATURE = 1.5


@attrs.define
class Keep:
    """An acceptance rule that keeps what it is given, and answers with a walk of its own."""

    answer: Walk
    logits: Tensor | None = None
    seen: tuple[int, int] | None = None
    """Draft nodes of the tree and context length that the rule was asked with."""

    def walk(self, tree: DraftTree, logits: Tensor, context_length: int) -> Walk:
        """Return the answer."""
        self.logits, self.seen = logits.clone(), (tree.num_drafts, context_length)
        return self.answer


class Bench:
    """A verifier bound to a target, and one sequence of it."""

    def __init__(self, verifier: Verifier, model: Any, prompt: Sequence[int], *, tap: Sequence[int] = ()) -> None:
        self.verifier, self.target = verifier, Target(model)
        self.target.tap(tap)
        with must_work("bind"):
            verifier.bind(self.target)
        self.state = self.start(prompt)

    def start(self, prompt: Sequence[int]) -> TargetState:
        """Return the state of a new sequence with this prompt committed."""
        state = self.target.start(len(prompt) + 64)
        self.target.prefill(state, prompt, lambda tokens, features: None)
        return state

    def verify(self, tree: DraftTree, rule: AcceptanceRule, state: TargetState | None = None) -> Walk:
        """Run one verification."""
        what = f"verify of {tree.num_nodes} nodes with parents {tree.parents.tolist()[:12]}"
        with must_work(what), torch.inference_mode():
            return self.verifier.verify(state or self.state, tree, rule)

    def logits(self, tree: DraftTree) -> Tensor:
        """Return what the verifier gives to the acceptance rule."""
        rule = Keep(Walk((0,), (0,)))
        self.verify(tree, rule)
        require(
            rule.logits is not None,
            "verify never asked the acceptance rule. Return rule.walk(tree, logits, context_length).",
        )
        assert rule.logits is not None
        return rule.logits


class VerifierContract(Contract):
    """The contract of a verifier: one forward of the target over a draft tree, then the walk of the rule it is given.

    A class is ``strategy = YourVerifier`` and, where it has options, ``options``; see :class:`Contract` for the rest.
    A verifier that needs a device overrides ``make_target``.
    """

    kind: ClassVar[Kind] = "verifier"
    num_draws: ClassVar[int] = 1000
    """Walks whose law is compared with the target's; each is one call of ``verify``."""

    @pytest.fixture
    def bench(self, make: Make, target_model: Any) -> Bench:
        """Return the verifier, bound to a target, with a text committed."""
        return Bench(make(), target_model, PREFIXES["eight committed tokens"])

    @pytest.fixture(params=SHAPES)
    def tree(self, request: pytest.FixtureRequest, target_model: Any) -> DraftTree:
        """Return a draft tree."""
        return shaped(SHAPES[request.param], _size(target_model))

    def observe(self, strategy: Any, target_model: Any) -> object:
        """Return the logits that it gives to the rule, and greedy and sampled walks, over all shapes."""
        bench, found = Bench(strategy, target_model, PREFIXES["eight committed tokens"]), []
        try:
            for shape in SHAPES.values():
                tree = shaped(shape, _size(target_model))
                walks = [bench.verify(tree, MatchChoice(Sampler(**sampling))) for sampling in SAMPLINGS.values()]
                found.append((bench.logits(tree).tolist(), walks))
        finally:
            bench.target.close()
        return found

    def test_it_is_a_verifier(self, make: Make) -> None:
        """It has ``bind`` and ``verify``."""
        require(isinstance(make(), Verifier), f"{self.strategy.__name__} needs bind and verify")

    @pytest.mark.parametrize("text", PREFIXES.values(), ids=PREFIXES)
    def test_a_node_sees_the_context_its_ancestors_and_itself(
        self, make: Make, target_model: Any, tree: DraftTree, text: Sequence[int]
    ) -> None:
        """At every node the logits are those of a plain forward over its own path."""
        check_node_logits(Bench(make(), target_model, text).logits(tree), target_model, text, tree)

    def test_a_vocabulary_of_2_is_a_vocabulary(self, make: Make) -> None:
        """The same with two tokens."""
        model, text = self.make_target(2), PREFIXES["eight committed tokens"]
        bench = Bench(make(), model, text)
        for parents in ([-1], [-1, 0, 0], [-1, 0, 0, 1, 1, 2]):
            tree = shaped(parents, 2)
            check_node_logits(bench.logits(tree), model, text, tree)

    def test_it_returns_the_walk_of_the_rule_that_it_is_given(self, bench: Bench, tree: DraftTree) -> None:
        """The rule is asked once with the tree and the committed length, and its answer is the verifier's."""
        answer = Walk((0, 1), (5, 0)) if tree.num_drafts else Walk((0,), (0,))
        rule, context_length = Keep(answer), bench.state.context_length
        found = bench.verify(tree, rule)
        require(
            rule.seen is None or rule.seen == (tree.num_drafts, context_length),
            f"rule.walk must be given the tree ({tree.num_drafts} draft nodes) and the committed length "
            f"({context_length}), found {rule.seen}. Read state.context_length before the forward.",
        )
        require(
            rule.seen is not None and (tuple(found.path), tuple(found.tokens)) == (answer.path, answer.tokens),
            f"verify must return what rule.walk returns, {answer}, found {found}. How a draft is accepted is the "
            f"rule's: no noise, no arg-max and no walk of your own.",
        )

    def test_it_leaves_committing_to_the_decoder(self, bench: Bench, tree: DraftTree) -> None:
        """The sequence is as long after ``verify`` as before it."""
        before = bench.state.context_length
        bench.verify(tree, MatchChoice(Sampler()))
        require(
            bench.state.context_length == before,
            f"verify committed {bench.state.context_length - before} rows. The decoder commits the path by "
            f"Target.commit, after it has looked for the end of the text.",
        )

    def test_the_tree_is_left_as_it_was(self, bench: Bench, tree: DraftTree) -> None:
        """Its arrays are read again after the walk."""
        before = [array.clone() for array in _arrays(tree)]
        bench.verify(tree, MatchChoice(Sampler()))
        names = ("tokens", "parents", "depths", "log_weights")
        for name, old, new in zip(names, before, _arrays(tree), strict=True):
            require(torch.equal(old, new), f"verify changed tree.{name} in place. Work on a clone.")

    def test_the_same_tree_gives_the_same_walk(self, bench: Bench, tree: DraftTree) -> None:
        """Twice in a row, greedy and sampled with one seed, as when a round is tried again."""
        for sampling in SAMPLINGS.values():
            first, second = (bench.verify(tree, MatchChoice(Sampler(**sampling))) for _ in range(2))
            require(
                first == second,
                f"one tree was walked in two ways, {first} and {second}, at {dict(sampling) or 'temperature 0'}. "
                f"Randomness is the sampler's, keyed by seed and position.",
            )

    @pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
    def test_walks_say_what_plain_decoding_says(self, make: Make, target_model: Any, sampling: Sampling) -> None:
        """Round after round on one sequence, through trees that agree with the target for 0 to 4 tokens."""
        text = Text(target_model, PREFIXES["eight committed tokens"], sampling)
        bench = Bench(make(), target_model, text.prompt)
        for index in range(len(SHAPES) * 2):
            text.round(bench, bench.state, index)

    def test_two_sequences_do_not_mix(self, make: Make, target_model: Any) -> None:
        """Rounds of two sequences taken in turns, on one verifier."""
        texts = [Text(target_model, prompt, {}) for prompt in PREFIXES.values()]
        bench = Bench(make(), target_model, texts[0].prompt)
        states = [bench.state, bench.start(texts[1].prompt)]
        for index in range(len(SHAPES)):
            for text, state in zip(texts, states, strict=True):
                text.round(bench, state, index, "beside another sequence ")

    def test_a_request_leaves_nothing_behind(self, make: Make, target_model: Any) -> None:
        """A second sequence after the first has ended, with the same shapes of trees."""
        bench: Bench | None = None
        for number, prompt in enumerate([*PREFIXES.values(), [0, 0, 1]]):
            text = Text(target_model, prompt, {})
            if bench is None:
                bench = Bench(make(), target_model, prompt)
            else:
                bench.state = bench.start(prompt)
            for index in range(len(SHAPES)):
                text.round(bench, bench.state, index, f"in request {number} of one verifier ")

    def test_the_features_of_the_path_are_kept(self, make: Make, target_model: Any) -> None:
        """What the drafter reads after a round are the target's own hidden states along the accepted path."""
        prompt, layers = PREFIXES["eight committed tokens"], (0, 1)
        bench, tree = Bench(make(), target_model, prompt, tap=layers), shaped(SHAPES["a bush"], _size(target_model))
        path = (0, 3, 5, 8)
        bench.verify(tree, Keep(Walk(path, (0, 0, 0, 0))))
        with must_work("commit of the path", "Run the forward by Target.forward_tree, which keeps the features."):
            found = bench.target.commit(bench.state, path)
        tokens = [*prompt, *(int(tree.tokens[node]) for node in path)]
        expected: list[Tensor] = []
        bench.target.prefill(bench.target.start(len(tokens)), tokens, lambda _, rows: expected.append(_given(rows)))
        bench.target.close()
        wanted = torch.cat(expected)[len(prompt) :]
        is_right = found is not None and found.shape == wanted.shape
        require(
            found is not None and is_right and bool((found - wanted).abs().max() <= 1e-3 * wanted.abs().max()),
            f"the features of the accepted path {path} are not the target's hidden states of its tokens, found "
            f"{None if found is None else tuple(found.shape)}, expected {tuple(wanted.shape)}. Run the forward by "
            f"Target.forward_tree, which keeps them in the state, and under the right mask.",
        )

    def test_numbers_that_are_not_finite_are_refused(self, make: Make, target_model: Any, tree: DraftTree) -> None:
        """NaN in the target's head ends the request by ``NumericalError``, whatever the tree."""
        bench = Bench(make(), target_model, [1])
        with torch.no_grad():
            target_model.get_output_embeddings().weight[0] = torch.nan
        try:
            with torch.inference_mode():
                found = bench.verifier.verify(bench.state, tree, MatchChoice(Sampler()))
        except NumericalError:
            return
        except Exception as error:
            require(False, f"NaN in the logits must raise NumericalError, found {type(error).__name__}: {error}")
        else:
            require(
                False,
                f"NaN in the logits must raise NumericalError, found {found}. Give rule.walk the rows as they are.",
            )

    def test_the_target_is_left_as_it_was(self, make: Make, target_model: Any) -> None:
        """Binding and verifying change no weight, and whoever else runs the model finds it as it was loaded."""
        watch = ModelWatch(target_model)
        bench = Bench(make(), target_model, PREFIXES["eight committed tokens"])
        for shape in SHAPES.values():
            bench.verify(shaped(shape, _size(target_model)), MatchChoice(Sampler()))
        watch.check(self.strategy.__name__)

    def test_samples_have_the_targets_own_law(self, make: Make) -> None:
        """Many walks of different seeds through a tree of every first and some second tokens, by chi-squared."""
        model, text, root = self.make_target(_LAW_VOCABULARY), PREFIXES["eight committed tokens"], 2
        first = list(range(_LAW_VOCABULARY))
        parents = [-1, *(0 for _ in first), *(1 + token for token in first for _ in range(2))]
        tokens = [root, *first, *(token for _ in first for token in (0, 3))]
        tree, bench = DraftTree.from_parents(tokens, parents), Bench(make(), model, text)
        sampler = Sampler(temperature=_LAW_TEMPERATURE)
        shares = torch.stack([sampler.scores(row).double().softmax(-1) for row in node_logits(model, text, tree)])
        law = shares[0][:, None] * shares[1 : 1 + _LAW_VOCABULARY]

        def draw(number: int) -> Sequence[int]:
            walk = bench.verify(tree, MatchChoice(Sampler(temperature=_LAW_TEMPERATURE, seed=number)))
            require(
                len(walk.tokens) >= 2,
                f"every first token is a draft node, but the walk ended at the root with {walk}. Step to the child "
                f"whose token was chosen.",
            )
            return walk.tokens[:2]

        check_law(draw, law.numpy(), self.num_draws, f"what {self.strategy.__name__} samples")

    @pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
    def test_the_text_is_the_targets_own(self, make: Make, target_model: Any, sampling: Mapping[str, Any]) -> None:
        """Whole requests equal plain decoding token by token, greedy and sampled with the same seed."""
        check_text_is_the_targets(self._decoders(make, target_model), target_model, sampling, _HINT)

    def test_the_text_of_a_vocabulary_of_2_is_the_targets_own(self, make: Make) -> None:
        """The smallest vocabulary that leaves a choice."""
        model = self.make_target(2)
        check_text_is_the_targets(self._decoders(make, model), model, {}, _HINT)

    def test_verifying_is_fast(self, make: Make, target_model: Any) -> None:
        """A tree of 96 nodes behind 8 tokens, against ``sdpa``."""
        prompt = PREFIXES["eight committed tokens"]
        tree = shaped([-1, *(node // 3 for node in range(95))], _size(target_model))
        mine, yardstick = Bench(make(), target_model, prompt), Bench(built_in("verifier", "sdpa"), target_model, prompt)
        rule = MatchChoice(Sampler())
        check_speed(
            "verify of 96 nodes",
            lambda: mine.verify(tree, rule),
            lambda: yardstick.verify(tree, rule),
            "verifier sdpa",
            self.slowest_allowed,
        )

    def _decoders(self, make: Make, model: Any) -> Callable[[Sequence[Sequence[int]]], Decoder]:
        return lambda known: Decoder(
            target=model,
            drafter=PartnerDrafter(known),
            tree_builder=built_in("tree_builder", "ddtree", node_budget=16),
            verifier=make(),
            cost_model=PartnerCosts(),
        )


class Text:
    """One sequence whose plain continuation is known, decoded round by round through trees of the kit's own."""

    def __init__(self, model: Any, prompt: Sequence[int], sampling: Sampling) -> None:
        self.prompt, self.sampling = list(prompt), sampling
        self._truth = known_tokens(model, prompt, 64, sampling)
        self._vocabulary_size = _size(model)
        self._length = 0
        """Tokens committed behind the prompt; the next one is the root."""

    def round(self, bench: Bench, state: TargetState, index: int, where: str = "") -> None:
        """Verify a tree that begins as the truth, compare the walk, and commit it."""
        future = self._truth[self._length :]
        shape = list(SHAPES.values())[index % len(SHAPES)]
        tree = shaped(shape, self._vocabulary_size, root=future[0], truth=future[1 : 1 + index % 5])
        path, chosen = _plain_walk(tree, future[1:])
        found = bench.verify(tree, MatchChoice(Sampler(**self.sampling)), state)
        require(
            (tuple(found.path), tuple(found.tokens)) == (path, chosen),
            f"round {index} {where}differs from {in_words(self.sampling)}: through {tree.num_drafts} draft nodes plain "
            f"decoding walks {path} and says {chosen}, the verifier walked {tuple(found.path)} and said "
            f"{tuple(found.tokens)}. {_HINT}",
        )
        with must_work("commit of the path"):
            bench.target.commit(state, path)
        self._length += len(path)


def shaped(parents: Sequence[int], vocabulary_size: int, *, root: int = 1, truth: Sequence[int] = ()) -> DraftTree:
    """Return a tree of this shape with tokens that differ among siblings; its last children begin as ``truth``.

    Nodes for which the vocabulary has no token left are dropped, and their descendants with them.
    """
    wanted = _last_children(parents, truth)
    tokens, kept_parents, number = [root], [-1], {0: 0}
    for node, parent in enumerate(parents[1:], start=1):
        if parent not in number:
            continue
        above = number[parent]
        taken = {token for token, its_parent in zip(tokens, kept_parents, strict=True) if its_parent == above}
        # the one that the target may agree with comes later
        taken |= {token for other, token in wanted.items() if parents[other] == parent and other != node}
        first = wanted.get(node, (7 * node + above) % vocabulary_size)
        free = [token for token in (*range(first, vocabulary_size), *range(first)) if token not in taken]
        if free:
            number[node] = len(tokens)
            tokens.append(free[0])
            kept_parents.append(above)
    return DraftTree.from_parents(tokens, kept_parents)


def _last_children(parents: Sequence[int], truth: Sequence[int]) -> dict[int, int]:
    """Return the tokens of the root's last child, of that one's last child, and so on, as long as there is truth."""
    wanted, node = {}, 0
    for token in truth:
        children = [other for other, parent in enumerate(parents) if parent == node]
        if not children:
            break
        node = children[-1]
        wanted[node] = token
    return wanted


def _plain_walk(tree: DraftTree, future: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return path and choices where the target goes on with ``future`` after the root."""
    tokens, parents = tree.tokens.tolist(), tree.parents.tolist()
    path = [0]
    for choice in future:
        children = [n for n, parent in enumerate(parents) if parent == path[-1] and tokens[n] == choice]
        if not children:
            break
        path.append(children[0])
    return tuple(path), tuple(future[: len(path)])


def _size(model: Any) -> int:
    size: int = model.get_input_embeddings().weight.shape[0]
    return size


def _arrays(tree: DraftTree) -> tuple[Tensor, ...]:
    return tree.tokens, tree.parents, tree.depths, tree.log_weights


def _given(features: Tensor | None) -> Tensor:
    assert features is not None, "the target taps layers"
    return features
