"""Layers through torch.compile: one compiled form for all layers and sizes, and plain layers where it fails. FT-27."""

from __future__ import annotations

import logging

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import AutoModelForCausalLM, GPT2Config

from caddtree.core.options import RuntimeOptions
from caddtree.core.runner import PlainRunner
from caddtree.core.target import Target
from caddtree.runtime import StaticRunner, choose_runner
from caddtree.runtime import compiled_layers as module
from caddtree.runtime.compiled_layers import CompiledFunction
from caddtree.verifiers.kernel_attention import KernelAttention
from tests.core.test_target import prefilled
from tests.runtime.test_static_runner import random_tree
from tests.tiny_models import tiny_model

BUCKETS = (1, 4, 8, 16)


@pytest.fixture
def counter(monkeypatch):
    """Dynamo's own tracing with a back-end that compiles nothing, and a count of what it traced."""
    torch._dynamo.reset()
    counter, compile_ = CompileCounter(), torch.compile
    monkeypatch.setattr(
        module.torch, "compile", lambda function, **options: compile_(function, backend=counter, **options)
    )
    yield counter
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("qwen3", "dense"),
        ("gemma3", "dense"),
        ("gemma3", "kernel"),
        ("mistral", "kernel"),
        pytest.param("mistral", "dense", marks=pytest.mark.slow),
        pytest.param("qwen3", "kernel", marks=pytest.mark.slow),
        pytest.param("llama", "dense", marks=pytest.mark.slow),
        pytest.param("llama", "kernel", marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_all_layers_and_sizes_share_compiled_code(family, attention, counter):
    """One trace for several rows and one for a single row; two kinds of layers where windows alternate."""
    target = Target(tiny_model(family), runner=StaticRunner(BUCKETS, compile=CompiledFunction))
    plain = Target(target.model)
    kernel = KernelAttention(plain) if attention == "kernel" else None
    state, reference = prefilled(target, [3, 1, 4]), prefilled(plain, [3, 1, 4])
    for seed in range(2):
        for num_nodes in (1, 3, 8, 13):
            tree = random_tree(num_nodes, seed)
            found = target.forward_tree(state, tree, kernel)
            expected = plain.forward_view(reference, tree)

            assert (found[:num_nodes] - expected).abs().max() / expected.abs().max() < 1e-4
    kinds = len(set(getattr(target.config, "layer_types", None) or [0])) if attention == "kernel" else 1
    assert 1 <= counter.frame_count <= 2 * kinds


@torch.inference_mode()
def test_a_family_that_passes_its_cache_by_position_is_compiled_too(counter):
    """GPT-2 does."""
    config = GPT2Config(
        vocab_size=61, n_embd=32, n_layer=3, n_head=2, n_positions=64, bos_token_id=None, eos_token_id=None
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    target, plain = Target(model, runner=StaticRunner(BUCKETS, compile=CompiledFunction)), Target(model)
    state, reference = prefilled(target, [3, 1, 4]), prefilled(plain, [3, 1, 4])
    tree = random_tree(6, 0)
    found = target.forward_tree(state, tree)[:6]

    assert torch.allclose(found, plain.forward_view(reference, tree), atol=1e-5)
    assert counter.frame_count == 1


@torch.inference_mode()
def test_layers_whose_forward_others_replaced_are_left_alone(counter, caplog):
    """Hooks that move weights work that way: they stay in force, in forwards over trees too."""
    model, calls = tiny_model(), []
    layer = model.model.layers[1]
    original = layer.forward
    layer.forward = lambda *arguments, **keywords: (calls.append(1), original(*arguments, **keywords))[1]
    target = Target(model, runner=StaticRunner(BUCKETS, compile=CompiledFunction))
    state = prefilled(target, [3, 1, 4])
    before = len(calls)
    target.forward_tree(state, random_tree(3, 0))

    assert len(calls) == before + 1
    assert "forward" in layer.__dict__
    assert counter.frame_count == 0
    assert "the layers are not compiled" in caplog.text


# eight as it comes, which would take five models
@torch._dynamo.config.patch(recompile_limit=3)
@torch.inference_mode()
def test_many_models_in_one_process_are_all_compiled(counter):
    """The compiler gives up on a function after so many forms of it: every model has a function of its own."""
    for seed in range(3):
        target = Target(tiny_model(hidden_size=32 + 8 * seed), runner=StaticRunner(BUCKETS, compile=CompiledFunction))
        kernel = KernelAttention(target)
        state = prefilled(target, [3, 1, 4])
        before = counter.frame_count
        for num_nodes in (3, 1, 8):
            target.forward_tree(state, random_tree(num_nodes, 0), kernel)

        assert 1 <= counter.frame_count - before <= 2


@torch.inference_mode()
def test_the_layers_are_untouched_outside_of_forwards(counter):
    """Their numbers and forwards are their own again, also when a forward raises."""
    target = Target(tiny_model(), runner=StaticRunner(BUCKETS, compile=CompiledFunction))
    state = prefilled(target, [3, 1, 4])
    target.forward_tree(state, random_tree(3, 0))
    numbers = []

    def fails():
        with target.layer_execution:
            numbers.append(target.layers[2].self_attn.layer_idx)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()

    assert numbers == [0]
    assert [layer.self_attn.layer_idx for layer in target.layers] == [0, 1, 2, 3]
    assert all("forward" not in layer.__dict__ for layer in target.layers)


@torch.inference_mode()
def test_ft27_without_a_compiler_the_layers_run_plainly(caplog, monkeypatch):
    """FT-27: one warning with the reason, and the same result."""
    compile_ = torch.compile

    def broken(*_):
        raise RuntimeError("no C++ compiler here")

    monkeypatch.setattr(
        module.torch, "compile", lambda function, **options: compile_(function, backend=broken, **options)
    )
    target = Target(tiny_model(), runner=StaticRunner(BUCKETS, compile=CompiledFunction))
    plain = Target(target.model)
    state, reference = prefilled(target, [3, 1, 4]), prefilled(plain, [3, 1, 4])
    with caplog.at_level(logging.WARNING, logger="caddtree"):
        for num_nodes in (3, 5):
            tree = random_tree(num_nodes, 0)
            found = target.forward_tree(state, tree)[:num_nodes]

            assert torch.allclose(found, plain.forward_view(reference, tree), atol=1e-5)
    assert caplog.text.count("torch.compile does not work here") == 1
    assert "no C++ compiler here" in caplog.text


@pytest.mark.parametrize(
    ("options", "is_static"),
    [({}, False), ({"compile": "never"}, False), ({"compile": "always"}, True), ({"buckets": (1, 8)}, True)],
)
def test_on_a_cpu_nothing_is_padded_unless_it_is_asked_for(options, is_static):
    """``auto`` is what is faster there."""
    runner = choose_runner(RuntimeOptions(**options), torch.device("cpu"))

    assert isinstance(runner, StaticRunner) == is_static
    assert isinstance(runner, PlainRunner) != is_static


@pytest.mark.slow
@torch.inference_mode()
def test_layers_compiled_for_this_cpu_compute_the_same():
    """Through the real compiler."""
    torch._dynamo.reset()
    target = Target(tiny_model(), runner=choose_runner(RuntimeOptions(compile="always"), torch.device("cpu")))
    plain = Target(target.model)
    state, reference = prefilled(target, [3, 1, 4]), prefilled(plain, [3, 1, 4])
    for num_nodes in (1, 3, 8):
        tree = random_tree(num_nodes, 0)
        found = target.forward_tree(state, tree)[:num_nodes]

        assert torch.allclose(found, plain.forward_view(reference, tree), atol=1e-4)
