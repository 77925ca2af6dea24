"""Fixed shapes and buckets, with a stand-in for captured graphs: L-07 and the graph bugs of others."""

from __future__ import annotations

import gc
import itertools
import logging
import weakref

import attrs
import pytest
import torch

from caddtree.core.decoder import Decoder
from caddtree.core.draft_tree import DraftTree
from caddtree.core.target import Target
from caddtree.core.tree_packet import pack_tree, packet_size, unpack
from caddtree.drafters.dflash import DFlash
from caddtree.kernels import availability
from caddtree.runtime import StaticRunner
from caddtree.tree_builders.caddtree import CaDDTree
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from caddtree.verifiers.triton import TritonVerifier
from tests.core.test_target import prefilled
from tests.drafters.checkpoints import tiny_checkpoint
from tests.runtime.stand_in import StandInGraphs
from tests.tiny_models import FAMILIES, ScriptedDrafter, plain_greedy, prompts, tiny_model

BUCKETS = (1, 3, 8, 16, 65)
BOUNDS = {torch.float64: 1e-10, torch.float32: 5e-6}
BRANCHING = DraftTree.from_parents([7, 8, 9, 10, 11], [-1, 0, 0, 2, 2])


def static_target(family="qwen3", *, buckets=BUCKETS, dtype=torch.float32, **changes):
    graphs = StandInGraphs()
    model = tiny_model(family, dtype=dtype, tie_word_embeddings=False, **changes)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.div_(3)
    return Target(model, runner=StaticRunner(buckets, capture=graphs)), graphs


def random_tree(num_nodes, seed):
    generator = torch.Generator().manual_seed(seed)
    parents = [-1, *(int(torch.randint(0, node, (), generator=generator)) for node in range(1, num_nodes))]
    ranks = [parents[:node].count(parent) for node, parent in enumerate(parents)]
    return DraftTree.from_parents(
        [(5 * max(parent, 0) + rank) % 61 for parent, rank in zip(parents, ranks, strict=True)], parents
    )


@pytest.mark.parametrize("num_rows", [5, 6, 64, 65, 128, 130])
def test_a_packet_holds_the_tree_and_harmless_padding(num_rows):
    """Views give back what was packed; a row of padding sees itself alone."""
    packet = pack_tree(BRANCHING, 123, num_rows)
    rows = unpack(packet, num_rows)
    visible = torch.eye(num_rows, dtype=torch.bool)
    visible[:5, :5] = BRANCHING.visibility_mask()

    assert len(packet) == packet_size(num_rows)
    assert (int(rows.context_length), int(rows.num_nodes), rows.num_rows) == (123, 5, num_rows)
    assert rows.tokens.tolist() == [7, 8, 9, 10, 11] + [0] * (num_rows - 5)
    assert rows.parents.tolist() == [-1, 0, 0, 2, 2] + [-1] * (num_rows - 5)
    assert rows.depths.tolist() == [0, 1, 1, 2, 2] + [0] * (num_rows - 5)
    assert torch.equal(rows.visible(), visible)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_l07_every_bucket_equals_eager(family, dtype):
    """L-07: for sizes at both ends of every bucket, before and after the trees change, on short and long contexts."""
    target, graphs = static_target(family, dtype=dtype)
    for text in prompts(2, low=1, high=2) + prompts(1, low=60, high=60):
        state = prefilled(target, text)
        for num_nodes in (1, 2, 3, 4, 8, 9, 16, 17, 64, 65, 8, 3):
            for seed in (0, 1):
                tree = random_tree(num_nodes, seed)
                expected = target.forward_view(state, tree)
                found = target.forward_tree(state, tree)

                assert (found[:num_nodes] - expected).abs().max() <= BOUNDS[dtype]
                assert found.shape[0] in BUCKETS
        del state
    # buffers of one sequence serve the next: captured once per bucket
    assert len(graphs.graphs) == len(BUCKETS)


@torch.inference_mode()
def test_a_wrong_mapping_at_equal_size_is_seen():
    """The check above can fail: a graph that keeps the packet it was captured with gives other logits."""
    target, graphs = static_target()
    state = prefilled(target, [3, 1, 4])
    target.forward_tree(state, random_tree(5, 0))
    stale = graphs.graphs[0]
    captured = stale.input.clone()
    stale.function, original = (lambda _packet: original(captured)), stale.function
    tree = random_tree(5, 1)

    assert (target.forward_tree(state, tree)[:5] - target.forward_view(state, tree)).abs().max() > 0.1


@torch.inference_mode()
def test_what_lies_in_unused_rows_changes_nothing():
    """Poison behind the tree, and in the rows of the sequence before."""
    target, _ = static_target()
    state = prefilled(target, [3, 1, 4, 1, 5])
    clean = target.forward_tree(state, BRANCHING)[:5].clone()
    for layer in state.cache.layers:
        layer.keys[:, :, state.context_length + 8 :] = 1e4
        layer.values[:, :, state.context_length + 8 :] = -1e4

    assert torch.equal(target.forward_tree(state, BRANCHING)[:5], clean)


@torch.inference_mode()
def test_a_cache_that_grows_is_captured_anew():
    """Addresses change: nothing that was captured over the old buffers is replayed."""
    target, graphs = static_target()
    state = prefilled(target, [3, 1, 4])
    target.forward_tree(state, BRANCHING)
    state.cache.reserve(4000)

    assert torch.allclose(target.forward_tree(state, BRANCHING)[:5], target.forward_view(state, BRANCHING), atol=5e-6)
    assert len(graphs.graphs) == 2


def test_sequences_at_the_same_time_have_buffers_of_their_own():
    """The second one starts while the first is alive; after both, one is kept."""
    target, _ = static_target()
    first, second = prefilled(target, [3, 1, 4]), prefilled(target, [1, 5])
    buffers = first.cache.layers[0].keys.data_ptr(), second.cache.layers[0].keys.data_ptr()
    del first, second
    third = prefilled(target, [9, 2])

    assert buffers[0] != buffers[1]
    assert third.cache.layers[0].keys.data_ptr() in buffers
    assert third.context_length == 2


def test_buffers_that_are_not_kept_are_freed_at_once():
    """What was captured over them refers to them: without a word they would wait for the garbage collector."""
    target = Target(tiny_model(), runner=StaticRunner(BUCKETS))
    gc.disable()
    try:
        small, large = prefilled(target, [3, 1, 4]), prefilled(target, list(range(60)) * 20)
        with torch.inference_mode():
            for state in (small, large):
                target.forward_tree(state, BRANCHING)
        gone = [weakref.ref(small.cache), weakref.ref(large.cache)]
        del large, small, state
        kept = [reference() is not None for reference in gone]
        target.free_memory()

        assert kept == [False, True]
        assert gone[1]() is None
    finally:
        gc.enable()


def test_a_tree_beyond_the_largest_bucket_runs_and_is_told(caplog):
    """As it is, once with a line that says what to change."""
    target, graphs = static_target(buckets=(1, 4))
    state = prefilled(target, [3, 1, 4])
    with torch.inference_mode(), caplog.at_level(logging.WARNING, logger="caddtree"):
        for _ in range(2):
            found = target.forward_tree(state, BRANCHING)

        assert torch.allclose(found, target.forward_view(state, BRANCHING), atol=5e-6)
    assert caplog.text.count("larger than the largest bucket (4)") == 1
    assert not graphs.graphs


@attrs.define
class Staircase:
    """Costs that climb with the rows of the bucket, and a switch that may cost extra."""

    step: float = 0.01
    switch_seconds: float = 0.0

    def prepare(self, decoder):
        pass

    def before_choice_seconds(self, context_length):
        return 1.0

    def after_choice_seconds(self, num_draft_nodes, context_length):
        return 1.0 + self.step * num_draft_nodes


def decoder_of(target, builder, *, drafter=None, verifier=None, cost_model=None, text=None):
    drafter = drafter or ScriptedDrafter(text or {}, right=0.8)
    return Decoder(
        target=target,
        drafter=drafter,
        tree_builder=builder,
        verifier=verifier or SdpaVerifier(),
        cost_model=cost_model or Staircase(),
    )


@pytest.mark.parametrize(
    "builder", [Chain(), DDTree(node_budget=15), DDTree(node_budget=40), CaDDTree(objective="ratio")]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_plain_greedy_and_shapes_are_those_of_buckets(family, builder):
    """Token for token in float32, over two requests with one set of buffers; never a shape that follows a tree."""
    target, graphs = static_target(family)
    texts = prompts(3, low=3, high=30)
    known = {tuple(text): plain_greedy(target.model, text, 24) for text in texts}
    decoder = decoder_of(target, builder, text=known)
    for text in texts:
        generation = decoder.generate(text, max_new_tokens=24)

        assert list(generation.token_ids) == known[tuple(text)]
    assert generation.mean_acceptance_length > 1.5
    assert len(graphs.graphs) <= len(BUCKETS)
    assert {len(graph.input) for graph in graphs.graphs} <= {packet_size(rows) for rows in BUCKETS}


def test_budgets_fill_their_bucket():
    """A fixed budget gets the grid of the adaptive one: the largest bucket within it, all of whose rows are nodes."""
    target, _ = static_target()
    decoder = decoder_of(target, DDTree(node_budget=20))
    rounds = decoder.generate([3, 1, 4], max_new_tokens=20).rounds

    assert decoder.candidate_counts == (0, 2, 7, 15, 64)
    assert rounds[0].num_draft_nodes == 15


def test_a_budget_below_every_bucket_stays_a_budget():
    """Its rows are padded: neither more nodes than asked for, nor speculation that is silently off."""
    for buckets in ((1, 8), (8, 16)):
        target, _ = static_target(buckets=buckets)
        session = decoder_of(target, DDTree(node_budget=2)).open([3, 1, 4], max_new_tokens=9)

        assert session.step().round.num_draft_nodes == 2
        # a measurement that asks for none gets none
        assert session.step(candidate_counts=(0,)).round.num_draft_nodes == 0


def test_a_drafter_may_keep_the_features_it_is_given():
    """What a captured forward returns is overwritten by the next; features are handed over as copies."""
    target, _ = static_target()
    target.tap((0, 2))
    state = prefilled(target, [3, 1, 4])
    kept, copies = [], []
    with torch.inference_mode():
        for seed in range(3):
            target.forward_tree(state, random_tree(3, seed))
            kept.append(target.commit(state, [0]))
            copies.append(kept[-1].clone())

    assert all(torch.equal(mine, copy) for mine, copy in zip(kept, copies, strict=True))
    assert not torch.equal(copies[0], copies[1])


def test_buffers_are_no_larger_than_any_sequence():
    """Powers of two, but not beyond the positions that there are and the largest bucket."""
    target, _ = static_target()

    assert target.start(10).cache.capacity == min(1024, 512 + 65)
    assert target.start(570).cache.capacity == 512 + 65


def test_a_drafter_that_is_gone_leaves_nothing_behind(tmp_path):
    """Its buffers, with what was captured over them, are kept for the next sequence only while it lives."""
    folder = tiny_checkpoint(tmp_path / "drafter", vocab_size=61)
    target, _ = static_target()
    drafter = DFlash(model=str(folder))
    decoder = Decoder(target=target, drafter=drafter, tree_builder=DDTree(node_budget=7), verifier=SdpaVerifier())
    target.runner._capture = lambda function: function
    decoder.generate([3, 1, 4], max_new_tokens=9)
    network = weakref.ref(drafter._network)
    del decoder, drafter
    gc.collect()

    assert network() is None


def test_a_switch_of_buckets_is_priced():
    """Dear switches keep the builder at the bucket it is in, unless the gain pays for it."""
    sizes = {}
    for seconds in (0.0, 5.0):
        target, _ = static_target()
        known = {(3, 1, 4): plain_greedy(target.model, [3, 1, 4], 60)}
        decoder = decoder_of(
            target, CaDDTree(objective="ratio"), text=known, cost_model=Staircase(step=0.09, switch_seconds=seconds)
        )
        rows = [round_.num_draft_nodes for round_ in decoder.generate([3, 1, 4], max_new_tokens=60).rounds[:-3]]
        sizes[seconds] = sum(left != right for left, right in itertools.pairwise(rows))

    assert sizes[5.0] == 0 < sizes[0.0]


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
@pytest.mark.parametrize("sliding", [False, True])
def test_the_drafter_with_fixed_shapes_drafts_the_same(tmp_path, family, sliding):
    """Block, context projection and head as one captured function against the drafter whose shapes follow the text."""
    changes = {"use_sliding_window": True, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    folder = tiny_checkpoint(tmp_path / "drafter", layers=2, vocab_size=61, **(changes if sliding else {}))
    drafts = []
    for runner in (None, StaticRunner(BUCKETS, capture=StandInGraphs())):
        target = Target(tiny_model(family), runner=runner)
        kept = []
        drafter = DFlash(model=str(folder))
        decoder = decoder_of(target, DDTree(node_budget=7), drafter=drafter)
        draft = drafter.draft
        object.__setattr__(decoder, "drafter", Spy(drafter, draft, kept))
        for text in ([3, 1, 4], list(range(40)), [9]):
            decoder.generate(text, max_new_tokens=30)
        drafts.append(kept)
    assert len(drafts[0]) == len(drafts[1]) > 20
    for plain, fixed in zip(*drafts, strict=True):
        assert torch.equal(plain.tokens, fixed.tokens)
        assert torch.allclose(plain.log_probs, fixed.log_probs, atol=1e-4)


class Spy:
    """A drafter that keeps what it drafted."""

    def __init__(self, drafter, draft, kept):
        self._drafter, self._draft, self._kept = drafter, draft, kept

    def __getattr__(self, name):
        return getattr(self._drafter, name)

    def draft(self, state, request):
        marginals = self._draft(state, request)
        copies = {"tokens": marginals.tokens.clone(), "log_probs": marginals.log_probs.clone()}
        self._kept.append(attrs.evolve(marginals, **copies))
        return marginals


@pytest.mark.parametrize(
    ("family", "runner"),
    [
        ("gemma3", "plain"),
        ("gemma3", "static"),
        ("mistral", "static"),
        ("llama", "plain"),
        pytest.param("mistral", "plain", marks=pytest.mark.slow),
        pytest.param("llama", "static", marks=pytest.mark.slow),
        # rounds of the kernel on this family are in test_device_round.py
        pytest.param("qwen3", "plain", marks=pytest.mark.slow),
        pytest.param("qwen3", "static", marks=pytest.mark.slow),
    ],
)
def test_the_kernel_path_decodes_the_same_text(family, runner, monkeypatch):
    """All kernels in Triton's interpreter, end to end on a tiny model, equal the sdpa path on the host."""
    target = Target(
        tiny_model(
            family,
            num_hidden_layers=2,
            layer_types=None if family != "gemma3" else ["sliding_attention", "full_attention"],
        ),
        runner=None if runner == "plain" else StaticRunner(BUCKETS, capture=StandInGraphs()),
    )
    text = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
    known = {tuple(text): plain_greedy(target.model, text, 8)}
    monkeypatch.setattr(availability, "takes_triton", lambda tensor: True)
    decoder = decoder_of(target, DDTree(node_budget=7), text=known, verifier=TritonVerifier())

    assert list(decoder.generate(text, max_new_tokens=8).token_ids) == known[tuple(text)]
