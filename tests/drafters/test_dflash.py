"""The DFlash drafter against the oracle, and the silent acceptance killers as mutants. FT-13, 14, 21, 25."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from caddtree.core.decoder import Decoder
from caddtree.core.errors import CompatibilityError
from caddtree.core.protocols import DraftRequest
from caddtree.core.target import Target
from caddtree.drafters.dflash import DFlash
from caddtree.drafters.dflash_network import DFlashNetwork
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.drafters.checkpoints import tiny_checkpoint
from tests.drafters.dflash_oracle import block_logits
from tests.tiny_models import plain_greedy, prompts, tiny_model

VARIANTS = {
    "public": {},
    "two layers": {"layers": 2},
    "three layers": {"layers": 3, "target_layer_ids": (0, 1, 3)},
    "block size inside": {"dflash": {"block_size": 5}},
    "scaled": {
        "dflash": {"input_embedding_scale": 2.5, "output_multiplier": 0.7, "final_logit_softcapping": 4.0},
    },
    "sliding": {"layers": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 7},
    "rope parameters": {"rope_theta": ..., "rope_parameters": {"rope_type": "default", "rope_theta": 700.0}},
}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def features_of(model, layers, tokens):
    with torch.no_grad():
        listed = model(torch.tensor([tokens]), output_hidden_states=True, use_cache=False).hidden_states
    # entry i + 1 is the raw output of layer i, but the last entry is after the final norm
    kept = []
    handle = (
        model.get_decoder()
        .layers[-1]
        .register_forward_hook(
            lambda module, args, output: kept.append(output[0] if isinstance(output, tuple) else output)
        )
    )
    with torch.no_grad():
        model(torch.tensor([tokens]), use_cache=False)
    handle.remove()
    last = len(listed) - 2
    return torch.cat([(kept[0][0] if i == last else listed[i + 1][0]) for i in layers], dim=-1)


def drafted(model, folder, tokens, root, chunks=None, depth=99):
    """Full marginals over the vocabulary as a dense ``(depth, vocabulary)`` array of log-probabilities."""
    drafter = DFlash(model=str(folder), width=61)
    target = Target(model)
    drafter.bind(target)
    state = drafter.start()
    features = features_of(model, drafter.required_layers, tokens)
    start = 0
    for size in chunks or [len(tokens)]:
        drafter.commit(state, tokens[start : start + size], features[start : start + size])
        start += size
    marginals = drafter.draft(state, DraftRequest(root, len(tokens), depth))
    dense = torch.full((marginals.depth, 61), -torch.inf)
    return dense.scatter(1, marginals.tokens, marginals.log_probs).numpy()


def expected(model, folder, tokens, root):
    config = json.loads((folder / "config.json").read_text())
    embedding = model.get_input_embeddings().weight.detach().numpy()
    head = model.get_output_embeddings().weight.detach().numpy()
    features = features_of(model, config["dflash_config"]["target_layer_ids"], tokens).numpy()
    logits = block_logits(folder, embedding, head, features, root)
    return (
        logits
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        - logits.max(1, keepdims=True)
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_forward_equals_the_oracle(model, tmp_path, variant):
    """Every field of the format, in float32 against float64 loops."""
    folder = tiny_checkpoint(tmp_path, **VARIANTS[variant])
    tokens = prompts(1, low=11, high=11)[0]

    assert np.abs(drafted(model, folder, tokens, 5) - expected(model, folder, tokens, 5)).max() <= 2e-4


def test_commits_in_odd_chunks_equal_one_commit(model, tmp_path):
    """Positions are absolute and the cache is complete, whatever the rounds were."""
    folder = tiny_checkpoint(tmp_path, layers=2)
    tokens = prompts(1, low=14, high=14)[0]
    whole = drafted(model, folder, tokens, 5)

    assert np.abs(drafted(model, folder, tokens, 5, chunks=[1, 5, 2, 6]) - whole).max() <= 1e-5


def test_a_shorter_depth_changes_no_marginal(model, tmp_path):
    """Near the end of the text the whole block is still run: attention inside it is bidirectional."""
    folder = tiny_checkpoint(tmp_path)
    tokens = [1, 2, 3, 4]

    assert np.abs(drafted(model, folder, tokens, 5, depth=2) - drafted(model, folder, tokens, 5)[:2]).max() <= 1e-5


def test_rounds_between_drafts_are_queued_and_complete(model, tmp_path):
    """Drafting after every commit equals drafting once at the end; buffers grow on the way."""
    folder = tiny_checkpoint(tmp_path)
    drafter, target = DFlash(model=str(folder), width=61), Target(model)
    drafter.bind(target)
    tokens = prompts(1, low=30, high=30)[0]
    features = features_of(model, drafter.required_layers, tokens)
    state = drafter.start()
    for end in range(1, 31):
        drafter.commit(state, tokens[end - 1 : end], features[end - 1 : end])
        last = drafter.draft(state, DraftRequest(5, end, 5))
    once = drafted(model, folder, tokens, 5)
    dense = torch.full((last.depth, 61), -torch.inf).scatter(1, last.tokens, last.log_probs).numpy()

    assert np.abs(dense - once).max() <= 1e-5


def test_poisoned_unused_rows_change_nothing(model, tmp_path):
    """Property 4 for the drafter's own cache."""
    folder = tiny_checkpoint(tmp_path)
    drafter, target = DFlash(model=str(folder)), Target(model)
    drafter.bind(target)
    tokens = [3, 1, 4, 1, 5]
    features = features_of(model, drafter.required_layers, tokens)
    results = []
    for poison in (False, True):
        state = drafter.start()
        drafter.commit(state, tokens, features)
        drafter.draft(state, DraftRequest(9, 5, 5))
        if poison:
            with torch.inference_mode():
                for buffer in (*state.keys, *state.values):
                    buffer[:, :, 5:] = torch.nan
        results.append(drafter.draft(state, DraftRequest(9, 5, 5)).log_probs)

    assert torch.equal(results[0], results[1])


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dflash_config"].update(changes.pop("dflash", {}))
    path.write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("killer", ["rope base", "mask token", "layer order", "position", "missing prefix"])
def test_silent_acceptance_killers_are_seen_by_the_oracle(model, tmp_path, monkeypatch, killer):
    """Each fault of METHOD.md section 4 that only lowers acceptance moves the marginals far beyond the tolerance."""
    folder = tiny_checkpoint(tmp_path)
    tokens = prompts(1, low=11, high=11)[0]
    truth = expected(model, folder, tokens, 5)
    chunks = None
    if killer == "rope base":
        change_config(folder, rope_theta=10000.0)
    elif killer == "mask token":
        change_config(folder, dflash={"mask_token_id": 59})
    elif killer == "layer order":
        change_config(folder, dflash={"target_layer_ids": [1, 3]})
    elif killer == "position":
        real = DFlashNetwork.forward
        monkeypatch.setattr(
            DFlashNetwork, "forward", lambda self, block, positions, *rest: real(self, block, positions + 1, *rest)
        )
    else:
        monkeypatch.setattr(
            DFlash, "commit", lambda self, state, toks, feats: state.waiting.append(torch.zeros_like(feats))
        )

    assert np.abs(drafted(model, folder, tokens, 5, chunks) - truth).max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"num_target_layers": 5}, ["5", "4"]),
        ({"hidden_size": 64}, ["64", "32"]),
        ({"vocab_size": 1000}, ["1000", "61"]),
        ({"dflash": {"mask_token_id": 61}}, ["61"]),
    ],
)
def test_ft13_a_pair_that_cannot_work_is_refused_with_both_values(model, tmp_path, changes, numbers):
    """FT-13: layers, hidden size, vocabulary, mask token."""
    folder = tiny_checkpoint(tmp_path)
    change_config(folder, **changes)
    with pytest.raises(CompatibilityError) as caught:
        DFlash(model=str(folder)).bind(Target(model))
    assert all(number in str(caught.value) for number in numbers)


def test_ft13_vocabularies_that_differ_by_padding_are_accepted(model, tmp_path):
    """FT-13: every token of the tokenizer has a row in both tables; without a tokenizer nobody can tell."""
    folder = tiny_checkpoint(tmp_path, vocab_size=128)
    DFlash(model=str(folder)).bind(Target(model, num_tokens=61))
    for num_tokens in (None, 62):
        with pytest.raises(CompatibilityError, match=r"is 128, but the target's is 61.*padding"):
            DFlash(model=str(folder)).bind(Target(model, num_tokens=num_tokens))


def test_ft13_a_draft_longer_than_the_block_is_refused(model, tmp_path):
    """FT-13: both lengths are named."""
    folder = tiny_checkpoint(tmp_path)
    with pytest.raises(CompatibilityError, match=r"draft_length is 6.*block of 6 has 5"):
        DFlash(model=str(folder), draft_length=6).bind(Target(model))


def test_draft_length_shortens_the_draft(model, tmp_path):
    """The option is not ignored."""
    folder = tiny_checkpoint(tmp_path)
    drafter, target = DFlash(model=str(folder), draft_length=2), Target(model)
    drafter.bind(target)
    state = drafter.start()
    drafter.commit(state, [1], features_of(model, (0, 2), [1]))

    assert drafter.draft(state, DraftRequest(5, 1, 5)).depth == 2


def test_dtype_option_changes_the_network(model, tmp_path):
    """The option is not ignored: bfloat16 rounds the marginals."""
    folder = tiny_checkpoint(tmp_path)
    drafter = DFlash(model=str(folder), dtype="bfloat16")
    drafter.bind(Target(model))

    assert drafter._network.norm.weight.dtype == torch.bfloat16


def test_ft14_a_drafter_of_another_target_is_warned_about(model, tmp_path, caplog):
    """FT-14: shapes fit, the fingerprint does not: a warning, not an error."""
    folder = tiny_checkpoint(tmp_path, target_fingerprint="abc")
    with caplog.at_level(logging.WARNING, logger="caddtree"):
        DFlash(model=str(folder)).bind(Target(model, fingerprint="xyz"))

    assert "another target" in caplog.text


@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral"])
def test_l01_random_checkpoints_decode_exactly(tmp_path, family):
    """L-01: a random drafter, prompts longer than a prefill chunk, and the same decoder twice (FT-25)."""
    model = tiny_model(family, seed=2)
    folder = tiny_checkpoint(tmp_path, layers=2)
    decoder = Decoder(
        target=Target(model, prefill_chunk=16),
        drafter=DFlash(model=str(folder)),
        tree_builder=DDTree(node_budget=20),
        verifier=SdpaVerifier(),
    )
    for prompt in prompts(6, low=1, high=50, seed=3):
        truth = plain_greedy(model, prompt, 24)
        for _ in range(2):
            assert list(decoder.generate(prompt, max_new_tokens=24).token_ids) == truth
