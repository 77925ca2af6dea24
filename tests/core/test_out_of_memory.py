"""FT-23: memory runs out once, and the round is run again with half the nodes; twice, and the request ends."""

from __future__ import annotations

import pytest
import torch

from caddtree.core.decoder import Decoder
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import ResourceError
from caddtree.core.kv_cache import TreeCache
from caddtree.core.target import Target
from caddtree.runtime import StaticRunner
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.core.test_target import prefilled
from tests.runtime.stand_in import StandInGraphs
from tests.tiny_models import ScriptedDrafter, plain_greedy, tiny_model

TEXT = [3, 1, 4, 1, 5]


class Fails:
    """Wraps a method so that some of its calls find no memory, after they have done their work or before."""

    def __init__(self, method, calls, *, late=False):
        self.method, self.calls, self.late, self.count = method, set(calls), late, 0

    def __call__(self, *arguments, **keywords):
        self.count += 1
        if self.count in self.calls and not self.late:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        result = self.method(*arguments, **keywords)
        if self.count in self.calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return result


class Drafter(ScriptedDrafter):
    """One whose methods can be replaced."""


def decoder_and_truth():
    target = Target(tiny_model())
    truth = plain_greedy(target.model, TEXT, 40)
    drafter = Drafter({tuple(TEXT): truth}, right=0.8)
    return Decoder(target=target, drafter=drafter, tree_builder=DDTree(node_budget=12), verifier=SdpaVerifier()), truth


PLACES = {
    "draft": lambda decoder: (decoder.drafter, "draft"),
    "verify": lambda decoder: (decoder.target, "forward_view"),
    "commit": lambda decoder: (decoder.target, "commit"),
    "drafter's commit": lambda decoder: (decoder.drafter, "commit"),
}


@pytest.mark.parametrize("place", PLACES)
def test_once_the_round_is_run_again_with_half_the_nodes(place, caplog, monkeypatch):
    """The text is exact, the budget stays halved, and one line says so."""
    decoder, truth = decoder_and_truth()
    session = decoder.open(TEXT, max_new_tokens=40)
    owner, name = PLACES[place](decoder)
    monkeypatch.setattr(owner, name, Fails(getattr(owner, name), {2}))
    while session.finish_reason is None:
        session.step()
    sizes = [round_.num_draft_nodes for round_ in session.rounds]

    assert session.tokens == TEXT + truth
    assert sizes[0] == 12
    assert max(sizes[2:]) == 6 if place != "draft" else max(sizes[2:]) <= 12
    assert "out of memory (CUDA out of memory" in caplog.text
    assert session.target_state.context_length == len(session.tokens) - 1


@pytest.mark.parametrize("place", PLACES)
def test_twice_the_request_ends_and_the_next_is_served(place, monkeypatch):
    """With an error that says what to lower."""
    decoder, truth = decoder_and_truth()
    session = decoder.open(TEXT, max_new_tokens=40)
    owner, name = PLACES[place](decoder)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, Fails(getattr(owner, name), {2, 3}))
        session.step()
        with pytest.raises(ResourceError, match=r"round 1: out of memory at context length \d+, also with at most"):
            session.step()

    assert list(decoder.generate(TEXT, max_new_tokens=40).token_ids) == truth


def test_in_prefill_the_request_ends(monkeypatch):
    """There is no smaller prompt to try."""
    decoder, truth = decoder_and_truth()
    with monkeypatch.context() as patch:
        patch.setattr(decoder.target, "run_decoder", Fails(decoder.target.run_decoder, {1}))
        with pytest.raises(ResourceError, match="prefill: out of memory at context length 5"):
            decoder.generate(TEXT, max_new_tokens=4)

    assert list(decoder.generate(TEXT, max_new_tokens=4).token_ids) == truth[:4]


def test_what_an_observer_raises_is_no_reason_to_decode_again(monkeypatch):
    """The tokens are out and committed: a second attempt would start from a context that is gone."""
    decoder, _ = decoder_and_truth()

    class Observer:
        def on_round(self, round_):
            if round_.index == 2:
                raise torch.OutOfMemoryError("an observer's own")

    decoder.observers.append(Observer())
    session = decoder.open(TEXT, max_new_tokens=40)
    session.step()
    session.step()
    with pytest.raises(torch.OutOfMemoryError, match="an observer's own"):
        session.step()

    assert len(session.rounds) == 3


@torch.inference_mode()
def test_a_cache_that_ran_out_of_memory_while_it_grew_replays_nothing_old(monkeypatch):
    """Some layers have new buffers: what was captured over the old ones is gone, and the next try is right."""
    target = Target(tiny_model(), runner=StaticRunner((1, 4, 8), capture=StandInGraphs()))
    state = prefilled(target, TEXT)
    tree = DraftTree.from_parents([7, 8, 9], [-1, 0, 0])
    target.forward_tree(state, tree)
    layer = state.cache.layers[3]
    with monkeypatch.context() as patch:
        patch.setattr(layer, "grow", Fails(layer.grow, {1}))
        with pytest.raises(torch.OutOfMemoryError):
            state.cache.reserve(3000)

    assert not state.cache.captured
    state.cache.reserve(3000)
    assert torch.allclose(target.forward_tree(state, tree)[:3], target.forward_view(state, tree), atol=1e-5)


@pytest.mark.parametrize("num_buffers", range(8))
@torch.inference_mode()
def test_a_compaction_goes_on_where_it_stopped(num_buffers, monkeypatch):
    """Rows that were moved are not moved again: they would take what lies there now."""
    target = Target(tiny_model())
    path = [0, 2, 3]
    states = [prefilled(target, TEXT) for _ in range(2)]
    for state in states:
        state.cache.reserve(4)
        for layer in state.cache.layers:
            layer.keys[:, :, 5:9] = torch.arange(4.0)[:, None]
            layer.values[:, :, 5:9] = -torch.arange(4.0)[:, None]
    whole, broken = (state.cache for state in states)
    whole.commit(path)

    class Memory(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.Tensor.__setitem__ and args[0].shape[2] == broken.capacity:
                self.count = getattr(self, "count", 0) + 1
                if self.count == num_buffers + 1:
                    raise torch.OutOfMemoryError("out of memory")
            return func(*args, **(kwargs or {}))

    with Memory(), pytest.raises(torch.OutOfMemoryError):
        broken.commit(path)
    broken.commit(path)

    assert isinstance(broken, TreeCache)
    assert broken.length == whole.length
    for left, right in zip(broken.layers, whole.layers, strict=True):
        assert torch.equal(left.keys[:, :, :8], right.keys[:, :, :8])
        assert torch.equal(left.values[:, :, :8], right.values[:, :, :8])
