"""The target: tree logits, commit, cache growth, poison. L-02, L-03, properties 3 to 5 of the field notes."""

from __future__ import annotations

import random

import pytest
import torch

from caddtree.core.attention_mask import MaskFormat
from caddtree.core.draft_tree import DraftTree
from caddtree.core.errors import CompatibilityError
from caddtree.core.target import Target
from tests.tiny_models import FAMILIES, prompts, tiny_model


def random_tree(rng: random.Random, num_nodes: int, vocabulary: int = 61) -> DraftTree:
    """A tree of any shape, parents before children, siblings distinct."""
    tokens, parents, taken = [rng.randrange(vocabulary)], [-1], set()
    while len(tokens) < num_nodes:
        parent, token = rng.randrange(len(tokens)), rng.randrange(vocabulary)
        if (parent, token) not in taken:
            taken.add((parent, token))
            tokens.append(token)
            parents.append(parent)
    return DraftTree.from_parents(tokens, parents)


def path_to(tree: DraftTree, node: int) -> list[int]:
    path = []
    while node >= 0:
        path.append(node)
        node = int(tree.parents[node])
    return path[::-1]


def causal_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0, -1]


def prefilled(target: Target, prompt):
    state = target.start(len(prompt))
    target.prefill(state, prompt, lambda tokens, features: None)
    return state


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_l02_every_node_equals_a_forward_over_its_own_path(family, dtype, bound):
    """L-02, invariant 3: random trees on prefixes shorter and longer than a window; logits here reach 100."""
    model = tiny_model(family, dtype=dtype)
    target = Target(model, prefill_chunk=16)
    rng = random.Random(4)
    for prompt in prompts(4, low=1, high=70, seed=2):
        state = prefilled(target, prompt)
        tree = random_tree(rng, rng.randint(2, 33))
        logits = target.forward_tree(state, tree)
        for node in range(tree.num_nodes):
            path = path_to(tree, node)
            expected = causal_logits(model, prompt + tree.tokens[path].tolist())

            assert (logits[node] - expected).abs().max() <= bound


@pytest.mark.parametrize("mutation", ["sibling", "position"])
def test_l02_a_planted_mask_or_position_fault_is_seen(mutation, monkeypatch):
    """L-06 mutants: a sibling shines through the mask; a position is off by one."""
    model = tiny_model(dtype=torch.float64)
    target = Target(model)
    prompt = [3, 1, 4, 1, 5]
    tree = DraftTree.from_parents([7, 8, 9, 10], [-1, 0, 0, 2])
    if mutation == "sibling":
        real = MaskFormat.build

        def build(self, visible, *rest):
            visible = visible.clone()
            visible[2, 1] = True
            return real(self, visible, *rest)

        monkeypatch.setattr(MaskFormat, "build", build)
    else:
        tree = DraftTree(tree.tokens, tree.parents, tree.depths + torch.tensor([0, 0, 1, 0]), tree.log_weights)
    mask = tree.visibility_mask()
    assert mask.shape == (4, 4)
    state = target.start(len(prompt))
    with torch.inference_mode():
        target.prefill(state, prompt, lambda tokens, features: None)
    logits = target.forward_tree(state, tree)
    expected = causal_logits(model, [*prompt, 7, 9])

    assert (logits[2] - expected).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_after_a_commit_the_cache_equals_a_fresh_prefill(family):
    """Invariant 4 and property 5, for prefix paths, gaps like [0, 2, 3] and the root alone."""
    model = tiny_model(family, dtype=torch.float64)
    target = Target(model, prefill_chunk=7)
    prompt = prompts(1, low=30, high=30)[0]
    tree = DraftTree.from_parents([5, 6, 7, 8, 9, 10, 11], [-1, 0, 0, 2, 3, 1, 4])
    for path in ([0], [0, 1], [0, 2, 3], [0, 2, 3, 4, 6], [0, 1, 5]):
        state = prefilled(target, prompt)
        target.forward_tree(state, tree)
        target.commit(state, path)
        fresh = prefilled(target, prompt + tree.tokens[path].tolist())

        assert state.context_length == fresh.context_length == len(prompt) + len(path)
        for layer, expected in zip(state.cache.layers, fresh.cache.layers, strict=True):
            length = state.context_length
            for name in ("keys", "values"):
                found = getattr(layer, name)[:, :, :length]
                assert (found - getattr(expected, name)[:, :, :length]).abs().max() <= 1e-12


def test_l06_a_commit_that_moves_nothing_is_seen(monkeypatch):
    """L-06 mutant: KV not compacted."""
    from caddtree.core.kv_cache import TreeCache

    model = tiny_model(dtype=torch.float64)
    target = Target(model)
    tree = DraftTree.from_parents([5, 6, 7], [-1, 0, 0])

    def lazy(self, path, rows=None):
        self.length += len(path)

    state = prefilled(target, [1, 2, 3])
    target.forward_tree(state, tree)
    monkeypatch.setattr(TreeCache, "commit", lazy)
    target.commit(state, [0, 2])
    monkeypatch.undo()
    fresh = prefilled(target, [1, 2, 3, 5, 7])

    assert (state.cache.layers[0].keys[:, :, 4] - fresh.cache.layers[0].keys[:, :, 4]).abs().max() > 1e-3


def test_rows_behind_the_length_change_nothing():
    """Property 4: unused rows poisoned with NaN leave every logit as it was."""
    model = tiny_model()
    target = Target(model)
    tree = random_tree(random.Random(1), 9)
    logits = []
    for poison in (False, True):
        state = target.start(200)
        target.prefill(state, [1, 2, 3, 4, 5], lambda tokens, features: None)
        if poison:
            with torch.inference_mode():
                for layer in state.cache.layers:
                    layer.keys[:, :, 5:] = torch.nan
                    layer.values[:, :, 5:] = torch.nan
        logits.append(target.forward_tree(state, tree))

    assert torch.equal(logits[0], logits[1])


def test_a_full_cache_grows_and_keeps_its_rows():
    """A state started too small gives the same logits as one with room."""
    target = Target(tiny_model())
    tree = random_tree(random.Random(2), 20)
    results = []
    for capacity in (1, 500):
        state = target.start(capacity)
        target.prefill(state, list(range(40)), lambda tokens, features: None)
        results.append(target.forward_tree(state, tree))

    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_taps_are_the_raw_outputs_of_the_asked_layers(family):
    """Against the hidden states that Transformers lists, whose entry i + 1 is layer i; never the last one."""
    model = tiny_model(family)
    target = Target(model, prefill_chunk=8)
    layers = (0, 2)
    target.tap(layers)
    prompt = prompts(1, low=21, high=21)[0]
    kept = []
    target.prefill(target.start(64), prompt, lambda tokens, features: kept.append(features))
    with torch.no_grad():
        listed = model(torch.tensor([prompt]), output_hidden_states=True, use_cache=False).hidden_states
    expected = torch.cat([listed[layer + 1][0] for layer in layers], dim=-1)

    assert (torch.cat(kept) - expected).abs().max() <= 1e-3 * expected.abs().max()
    target.close()


def test_taps_of_the_last_layer_are_before_the_final_norm():
    """The list of Transformers ends after the norm; ours is the layer's own output."""
    model = tiny_model()
    target = Target(model)
    target.tap([3])
    kept = []
    target.prefill(target.start(8), [1, 2, 3], lambda tokens, features: kept.append(features))
    with torch.no_grad():
        normed = model.get_decoder().norm(kept[0][None])
        last = model(torch.tensor([[1, 2, 3]]), output_hidden_states=True, use_cache=False).hidden_states[-1]

    assert torch.allclose(normed, last, atol=1e-4)


@pytest.mark.parametrize("layers", [[-1], [4], [2, 1], [1, 1]])
def test_ft13_layers_that_do_not_exist_are_named(layers):
    """FT-13: out of range, descending, double."""
    with pytest.raises(CompatibilityError, match="target_layer_ids"):
        Target(tiny_model()).tap(layers)


def test_other_users_of_the_model_leave_no_features():
    """A forward that is not ours is not tapped."""
    model = tiny_model()
    target = Target(model)
    target.tap([1])
    model(torch.tensor([[1, 2, 3]]))
    state = target.start(8)
    target.forward_tree(state, DraftTree.root_only(5))

    assert state.features is not None
    assert state.features.shape[0] == 1


def test_ft12_attention_without_a_dense_mask_is_refused():
    """FT-12: flash attention takes no mask; the message names both sides."""
    model = tiny_model()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(CompatibilityError, match="flash_attention_2"):
        Target(model)


def test_a_context_limit_beyond_the_model_is_refused():
    """Both numbers are in the message."""
    with pytest.raises(CompatibilityError, match=r"1000.*512"):
        Target(tiny_model(), context_limit=1000)


def test_l03_bfloat16_trees_differ_no_more_than_chunked_decoding():
    """L-03: max |tree - plain| is at most twice max |chunk - plain|, and flips have small plain gaps."""
    model = tiny_model(dtype=torch.bfloat16, hidden_size=64, head_dim=16)
    target = Target(model)
    rng = random.Random(3)
    control, found, flips = 0.0, 0.0, []
    for prompt in prompts(12, low=20, high=40, seed=8):
        tail = [rng.randrange(61) for _ in range(8)]
        state = prefilled(target, prompt)
        plain = []
        for token in tail:
            plain.append(target.forward_tree(state, DraftTree.root_only(token))[0].float())
            target.commit(state, [0])
        chunk = target.forward_tree(
            prefilled(target, prompt), DraftTree.from_parents(tail, list(range(-1, len(tail) - 1)))
        ).float()
        # the same chain inside a tree with a side branch at every node
        tokens, parents, chain = [tail[0]], [-1], [0]
        for token in tail[1:]:
            tokens += [token, (token + 1) % 61]
            parents += [chain[-1], chain[-1]]
            chain.append(len(tokens) - 2)
        tree = target.forward_tree(prefilled(target, prompt), DraftTree.from_parents(tokens, parents)).float()[chain]
        reference = torch.stack(plain)
        control = max(control, float((chunk - reference).abs().max()))
        found = max(found, float((tree - reference).abs().max()))
        for row in (tree.argmax(-1) != reference.argmax(-1)).nonzero().flatten().tolist():
            best, second = reference[row].topk(2).values.tolist()
            flips.append((best - second) / (abs(best) * 2**-8))

    assert control > 0
    assert found <= 2 * control
    assert all(gap <= 4 for gap in flips)
