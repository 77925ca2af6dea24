"""Requests at the edge of what can be asked, and two decoders around one target."""

from __future__ import annotations

import pytest
import torch

from caddtree.core.decoder import Decoder
from caddtree.core.errors import CompatibilityError, InputError
from caddtree.core.marginals import Marginals
from caddtree.core.sampler import Sampler, gumbel_noise
from caddtree.core.target import Target
from caddtree.core.text import encode_prompt
from caddtree.drafters.dflash import DFlash
from caddtree.drafters.none import NoDrafter
from caddtree.tree_builders.chain import Chain
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.drafters.checkpoints import tiny_checkpoint
from tests.tiny_models import plain_greedy, tiny_model
from tests.tiny_pair import tiny_tokenizer


def plain(target):
    return Decoder(target=target, drafter=NoDrafter(), tree_builder=Chain(), verifier=SdpaVerifier())


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-39, 1e-6])
@pytest.mark.parametrize("top_p", [None, 0.9])
def test_ft07_a_tiny_temperature_is_greedy_and_never_nan(temperature, top_p):
    """FT-07: scores are divided from the best one down, so nothing overflows."""
    sampler = Sampler(temperature=temperature, top_p=top_p)
    logits = torch.tensor([3.0, 5.0, 1.0, 9.0])

    assert [sampler.choose(logits, position) for position in range(20)] == [3] * 20
    assert not sampler.scores(logits).isnan().any()
    assert Marginals.from_logits(logits[None], 2, temperature=temperature).is_usable()


def test_noise_is_finite_even_for_the_largest_bits(monkeypatch):
    """52 bits and a half never round to 1, whose noise would be infinite."""
    from caddtree.kernels.target_choice import reference

    for bits in (0, -1):  # all bits clear, all bits set
        filled = torch.full((1, 4), bits)
        monkeypatch.setattr(reference, "keyed_bits", lambda *_, filled=filled: filled)
        assert torch.isfinite(gumbel_noise(0, [1], 4)).all()


def test_ft05_stop_strings_without_a_tokenizer_are_refused():
    """FT-05: token ids have no text to look for them in; nothing is ignored."""
    with pytest.raises(InputError, match=r"stop strings \['x'\] need a tokenizer"):
        plain(tiny_model()).generate([1, 2], stop=["x"], max_new_tokens=3)


@pytest.mark.parametrize("prompt", ["caf\udcc3", [{"role": "user", "content": "\udcff"}]])
def test_ft01_bytes_that_are_no_text_are_named(prompt):
    """FT-01: a terminal hands invalid UTF-8 over as lone surrogates."""
    with pytest.raises(InputError, match="no valid text"):
        encode_prompt(prompt, tiny_tokenizer(), 300)


def test_two_decoders_that_tap_other_layers_need_targets_of_their_own(tmp_path):
    """The first would lose its features without a word; the same layers, or none, may share."""
    model = tiny_model()
    target = Target(model)
    first = tiny_checkpoint(tmp_path / "first", target_layer_ids=(0, 2))
    second = tiny_checkpoint(tmp_path / "second", target_layer_ids=(1, 3))

    def decoder(folder):
        return Decoder(target=target, drafter=DFlash(model=str(folder)), tree_builder=Chain(), verifier=SdpaVerifier())

    made = decoder(first)
    plain(target)
    decoder(first)
    with pytest.raises(CompatibilityError, match=r"already taps layers \[0, 2\].*\[1, 3\] a Target of its own"):
        decoder(second)

    assert list(made.generate([1, 2, 3], max_new_tokens=9).token_ids) == plain_greedy(model, [1, 2, 3], 9)


def test_the_cache_does_not_grow_because_of_the_last_trees():
    """Room for a tree stands behind the longest text that was asked for."""
    session = plain(tiny_model()).open([1, 2, 3], max_new_tokens=20)
    before = session.target_state.cache.capacity
    session.target_state.cache.reserve(20 + 256)

    assert session.target_state.cache.capacity == before
