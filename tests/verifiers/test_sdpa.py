"""The target's logits at every node: exact, and in 16 bits as good as plain decoding's. L-02, L-03, L-06."""

from __future__ import annotations

import copy

import attrs
import pytest
import scipy.stats
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from caddtree.core.acceptance import Walk
from caddtree.core.draft_tree import DraftTree
from caddtree.core.target import Target, TargetState
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.core import mutants
from tests.core.test_target import path_to, prefilled
from tests.tiny_models import FAMILIES, prompts, tiny_model

BOUNDS = {torch.float64: 1e-10, torch.float32: 5e-6}
LONGEST = 300


def calm_model(family="qwen3", *, dtype, **changes):
    """A model whose logits are of order 1, as the bounds of L-02 mean them."""
    model = tiny_model(family, tie_word_embeddings=False, **changes)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.div_(3)
    return model.to(dtype)


class Keep:
    """An acceptance rule that keeps the logits."""

    def walk(self, tree, logits, context_length):
        self.logits = logits
        return Walk((0,), (0,))


def tree_logits(target, state, tree):
    """What the verifier hands to its acceptance rule."""
    verifier, rule = SdpaVerifier(), Keep()
    verifier.bind(target)
    verifier.verify(state, tree, rule)
    return rule.logits


@torch.inference_mode()
def assert_every_node_equals_its_own_path(target, prompt, tree):
    """A plain causal forward over prompt and path of every leaf; the rows behind the prompt are the nodes."""
    state = target.start(len(prompt) + tree.num_nodes)
    if prompt:
        target.prefill(state, prompt, lambda tokens, features: None)
    logits = tree_logits(target, state, tree)
    paths = [path_to(tree, leaf) for leaf in sorted(set(range(tree.num_nodes)) - set(tree.parents.tolist()))]
    texts = [torch.tensor([*prompt, *tree.tokens[path].tolist()]) for path in paths]
    # one batch: what fills up the shorter texts comes last, so that nothing sees it
    expected = target.model(pad_sequence(texts, batch_first=True), use_cache=False).logits[:, len(prompt) :]
    for path, rows in zip(paths, expected, strict=True):
        assert (logits[path] - rows[: len(path)]).abs().max() <= BOUNDS[target.dtype], "a node differs from its path"


@st.composite
def trees(draw, max_nodes=64, vocabulary=61):
    """Any shape; siblings get distinct tokens, and the root's token may come again."""
    parents = [-1, *(draw(st.integers(0, node)) for node in range(draw(st.integers(0, max_nodes - 1))))]
    ranks = [parents[:node].count(parent) for node, parent in enumerate(parents)]
    first = draw(st.lists(st.integers(0, vocabulary - 1), min_size=len(parents), max_size=len(parents)))
    tokens = [(first[max(parent, 0)] + rank) % vocabulary for parent, rank in zip(parents, ranks, strict=True)]
    return DraftTree.from_parents(tokens, parents)


STAR = DraftTree.from_parents(list(range(61)), [-1] + [0] * 60)
CHAIN = DraftTree.from_parents([7] * 64, list(range(-1, 63)))


@pytest.mark.parametrize("max_examples", [10, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_l02_every_node_equals_a_forward_over_its_own_path(family, dtype, max_examples):
    """L-02: any tree up to 64 nodes on prefixes of 0 to 300 tokens; 1e-10 in float64, 5e-6 in float32, every node."""
    target = Target(calm_model(family, dtype=dtype), prefill_chunk=64)
    text = torch.randint(0, 61, (LONGEST,), generator=torch.Generator().manual_seed(3)).tolist()

    # the same trees in every run: float32 rounding comes within half of its bound
    @settings(max_examples=max_examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @example(tree=STAR, length=0)
    @example(tree=CHAIN, length=LONGEST)
    @given(tree=trees(), length=st.integers(0, LONGEST))
    def check(tree, length):
        assert tree.num_nodes <= 64
        assert_every_node_equals_its_own_path(target, text[:length], tree)

    check()
    assert 0.5 < tree_logits(target, prefilled(target, text), CHAIN).std() < 2


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("plant", mutants.LOGITS)
def test_l06_every_mutant_is_killed_by_the_node_check(plant, dtype, monkeypatch):
    """L-06: the check of L-02 passes before the fault is planted and fails after."""
    target = Target(calm_model(dtype=dtype))
    tree = DraftTree.from_parents([7, 8, 9, 10], [-1, 0, 0, 2])
    assert_every_node_equals_its_own_path(target, [3, 1, 4], tree)
    plant(monkeypatch)

    with pytest.raises(AssertionError, match="a node differs from its path"):
        assert_every_node_equals_its_own_path(target, [3, 1, 4], tree)


@attrs.define
class Differences:
    """How far logits of one text lie from those of plain one-token decoding."""

    rows: int = 0
    largest: float = 0.0
    gaps: list[float] = attrs.field(factory=list)
    """Gap between the two best plain logits, in ulps of the best, wherever the arg-max flipped."""

    def add(self, found, plain):
        self.rows += len(plain)
        self.largest = max(self.largest, float((found.float() - plain.float()).abs().max()))
        flipped = found.argmax(-1) != plain.argmax(-1)
        best, second = plain[flipped].float().topk(2).values.unbind(-1)
        ulps = torch.finfo(plain.dtype).eps * 2 ** best.abs().log2().floor()
        self.gaps += ((best - second) / ulps).tolist()


def with_side_branches(text, vocabulary):
    """A tree in which every token of ``text`` has a sibling before it; and where the text is in it."""
    tokens, parents, chain = [text[0]], [-1], [0]
    for token in text[1:]:
        tokens += [(token + 1) % vocabulary, token]
        parents += [chain[-1]] * 2
        chain.append(len(tokens) - 1)
    return DraftTree.from_parents(tokens, parents), chain


def decode_three_ways(model, plant=None, *, num_prompts):
    """Return the differences of chunked decoding and of tree verification from plain decoding, greedy text.

    Every round of eight tokens starts from the plain prefix: the chunk and the tree carry the plain tokens, so a
    flip is counted and the text goes on.
    """
    target = Target(model)
    control, found = Differences(), Differences()
    for prompt in prompts(num_prompts, low=4, high=40, seed=8):
        plain_state = prefilled(target, prompt)
        token = prompt[-1]
        for _ in range(6):
            state = TargetState(copy.deepcopy(plain_state.cache))
            text, rows = [], []
            for _ in range(8):
                text.append(token)
                rows.append(target.forward_tree(plain_state, DraftTree.root_only(token))[0])
                target.commit(plain_state, [0])
                token = int(rows[-1].argmax())
            chunk = DraftTree.from_parents(text, list(range(-1, 7)))
            control.add(target.forward_tree(state, chunk), torch.stack(rows))
            tree, chain = with_side_branches(text, target.vocabulary_size)
            with pytest.MonkeyPatch.context() as patch:
                if plant is not None:
                    plant(patch)
                found.add(tree_logits(target, state, tree)[chain], torch.stack(rows))
    return control, found


def assert_no_worse_than_chunks(control, found):
    """The rule of L-03; where the control never flips, one flip is its rate."""
    rate = max(len(control.gaps), 1) / control.rows

    assert 0 < found.largest <= 2 * control.largest, "further from plain decoding than chunks are"
    assert len(found.gaps) <= scipy.stats.binom.ppf(0.999, found.rows, rate), "more flips than chunks have"
    assert all(gap <= 4 for gap in found.gaps), "a flip that is no near tie"


def low_precision_model(dtype):
    """Many tokens, so that near ties are not rare."""
    return calm_model(dtype=dtype, hidden_size=64, head_dim=16, vocab_size=4000)


@pytest.mark.parametrize("num_prompts", [12, pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_l03_trees_in_16_bits_are_as_close_to_plain_decoding_as_chunks_are(dtype, num_prompts):
    """L-03: distance, number of flips, and the plain gap at every flip."""
    control, found = decode_three_ways(low_precision_model(dtype), num_prompts=num_prompts)

    assert found.rows == control.rows == 48 * num_prompts
    assert_no_worse_than_chunks(control, found)


@pytest.mark.parametrize("plant", mutants.LOGITS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_l03_a_planted_fault_fails_the_same_check(dtype, plant):
    """L-03: a mask that lets siblings through, positions off by one, siblings in the wrong order."""
    with pytest.raises(AssertionError, match="chunks"):
        assert_no_worse_than_chunks(*decode_three_ways(low_precision_model(dtype), plant, num_prompts=4))
