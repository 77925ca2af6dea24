"""A whole round by device kernels, in Triton's interpreter: token for token what the host path decodes."""

from __future__ import annotations

import pytest
import torch

from caddtree.core.decoder import Decoder
from caddtree.core.hf_generate import TorchSampler
from caddtree.core.sampler import Sampler
from caddtree.core.target import Target
from caddtree.drafters.dflash import DFlash
from caddtree.kernels import availability
from caddtree.runtime import StaticRunner
from caddtree.tree_builders.caddtree import CaDDTree
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from caddtree.verifiers.triton import TritonVerifier
from tests.drafters.checkpoints import tiny_checkpoint
from tests.runtime.stand_in import StandInGraphs
from tests.runtime.test_static_runner import Staircase
from tests.tiny_models import ScriptedDrafter, plain_greedy, tiny_model

BUCKETS = (1, 4, 8, 16)
TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]


class Device:
    """Where tensors live, as the doors of the kernels see it."""

    def __init__(self, monkeypatch):
        self._patch = monkeypatch

    def use(self):
        """From now on every door takes its Triton path."""
        self._patch.setattr(availability, "takes_triton", lambda tensor: True)


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


class Rubbish(ScriptedDrafter):
    """Its best candidate has no probability."""

    def draft(self, state, request):
        marginals = super().draft(state, request)
        marginals.log_probs[0, 0] = torch.nan
        return marginals


def kernel_decoder(target, drafter=None, builder=None):
    """A decoder whose verifier is the kernel."""
    drafter, builder = drafter or ScriptedDrafter({}, depth=3), builder or DDTree(node_budget=7)
    return Decoder(target=target, drafter=drafter, tree_builder=builder, verifier=TritonVerifier())


def small_target(static):
    runner = StaticRunner(BUCKETS, capture=StandInGraphs()) if static else None
    return Target(tiny_model(num_hidden_layers=2, num_key_value_heads=1, num_attention_heads=2), runner=runner)


class SecondChoice(ScriptedDrafter):
    """Has the truth, but now and then as its second choice: then the accepted rows have to be moved."""

    def draft(self, state, request):
        marginals = super().draft(state, request)
        if request.context_length % 3 == 0:
            marginals.tokens[:1, :2] = marginals.tokens[:1, :2].flip(1)
        return marginals


@pytest.mark.parametrize(
    ("static", "builder", "verifier"),
    [
        (True, Chain(), TritonVerifier),
        (True, DDTree(node_budget=7), SdpaVerifier),
        (False, DDTree(node_budget=7), TritonVerifier),
        (True, CaDDTree(objective="ratio", max_node_budget=15), TritonVerifier),
    ],
)
def test_a_greedy_round_on_the_device_is_the_hosts(device, static, builder, verifier):
    """Candidates, ranking, numbering, attention, choice, walk and commit by kernels."""
    plain = small_target(False)
    known = {tuple(TEXT): plain_greedy(plain.model, TEXT, 14)}
    device.use()
    decoder = Decoder(
        target=small_target(static),
        drafter=SecondChoice(known, right=1.0, depth=3),
        tree_builder=builder,
        verifier=verifier(),
        cost_model=Staircase(),
    )
    generation = decoder.generate(TEXT, max_new_tokens=14)
    has_moved = any(round_.path[-1] != len(round_.path) - 1 for round_ in generation.rounds)

    assert list(generation.token_ids) == known[tuple(TEXT)]
    assert has_moved == (builder != Chain())


# the plain sampler below is an oracle for the first
@pytest.mark.parametrize(
    "options",
    [pytest.param({"temperature": 0.8}, marks=pytest.mark.slow), {"temperature": 0.8, "top_k": 5, "top_p": 0.9}],
)
def test_a_sampled_round_on_the_device_is_the_hosts(device, options):
    """The same seed gives the same text, whoever draws the noise."""
    texts = []
    for on_device in (False, True):
        if on_device:
            device.use()
        drafter = ScriptedDrafter({}, depth=3)
        decoder = Decoder(
            target=small_target(on_device),
            drafter=drafter,
            tree_builder=DDTree(node_budget=7),
            verifier=TritonVerifier() if on_device else SdpaVerifier(),
        )
        texts.append(decoder.generate(TEXT, max_new_tokens=8, seed=5, **options).token_ids)

    assert texts[0] == texts[1]


def test_the_drafter_on_the_device_drafts_the_hosts_trees(device, tmp_path):
    """DFlash with its block attention by the kernel: the same rounds, node for node."""
    folder = tiny_checkpoint(tmp_path / "drafter", vocab_size=61)
    rounds = []
    for on_device in (False, True):
        if on_device:
            device.use()
        runner = StaticRunner(BUCKETS, capture=StandInGraphs()) if on_device else None
        decoder = Decoder(
            target=Target(tiny_model(), runner=runner),
            drafter=DFlash(model=str(folder)),
            tree_builder=DDTree(node_budget=7),
            verifier=TritonVerifier() if on_device else SdpaVerifier(),
        )
        found = decoder.generate(TEXT, max_new_tokens=6)
        rounds.append(
            [(round_.num_draft_nodes, round_.tree_depth, round_.path, round_.tokens) for round_ in found.rounds]
        )

    assert rounds[0] == rounds[1]


def test_a_draft_of_rubbish_is_noticed_on_the_device(device, caplog):
    """NaN makes a round without draft nodes and a line; the text is plain."""

    target = small_target(True)
    expected = plain_greedy(target.model, TEXT, 6)
    device.use()
    decoder = kernel_decoder(target, Rubbish({}, depth=3), DDTree(node_budget=7))
    generation = decoder.generate(TEXT, max_new_tokens=6)

    assert list(generation.token_ids) == expected
    assert all(round_.unusable_draft for round_ in generation.rounds if round_.context_length < len(TEXT) + 4)
    assert "not finite" in caplog.text


def test_ft20_logits_that_are_not_finite_end_the_request_on_the_device(device):
    """FT-20: the row is named, nothing is emitted, and the next request is as ever."""
    from caddtree.core.errors import NumericalError

    target = small_target(True)
    expected = plain_greedy(target.model, TEXT, 4)
    device.use()
    decoder = kernel_decoder(target)
    head = target.head_logits
    session = decoder.open(TEXT, max_new_tokens=4)
    target.head_logits = lambda hidden: head(hidden).index_fill(0, torch.tensor([0]), torch.nan)
    with pytest.raises(NumericalError, match="row 0 of"):
        session.step()
    target.head_logits = head

    assert len(session.tokens) == len(TEXT) + 1
    assert list(decoder.generate(TEXT, max_new_tokens=4).token_ids) == expected


def test_a_sampler_of_torchs_own_draws_on_the_host(device):
    """Transformers' sampling through custom_generate: one draw per token, never an arg-max in its place."""
    target = small_target(True)
    device.use()
    decoder = kernel_decoder(target)
    texts = set()
    for seed in range(3):
        torch.manual_seed(seed)
        session = decoder.open_with(list(TEXT), TorchSampler(temperature=0.0), max_new_tokens=4)
        while session.finish_reason is None:
            session.step()
        texts.add(tuple(session.tokens))

    assert len(texts) == 3


def test_a_builder_that_cannot_bear_rubbish_is_excused_on_the_device(device):
    """On the host it would not be asked; here its error is the draft's fault."""

    class Strict(DDTree):
        def build(self, marginals, context):
            assert bool(torch.isfinite(marginals.log_probs).all())
            return super().build(marginals, context)

    target = small_target(True)
    expected = plain_greedy(target.model, TEXT, 3)
    device.use()
    decoder = kernel_decoder(target, Rubbish({}, depth=3), Strict(node_budget=7))

    assert list(decoder.generate(TEXT, max_new_tokens=3).token_ids) == expected


def test_a_plain_sampler_is_the_oracle(device):
    """The sampled test above compares two of our paths; this one a loop without trees."""
    target = small_target(True)
    sampler = Sampler(temperature=0.8, seed=5)
    text = list(TEXT)
    with torch.no_grad():
        for _ in range(8):
            logits = target.model(torch.tensor([text]), use_cache=False).logits[0, -1]
            text.append(sampler.choose(logits, len(text) - 1))
    device.use()
    decoder = kernel_decoder(target)

    assert list(decoder.generate(TEXT, max_new_tokens=8, seed=5, temperature=0.8).token_ids) == text[len(TEXT) :]
