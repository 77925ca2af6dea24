"""The device runtime on a device: kernels, graphs and whole rounds. Run with `pytest -m gpu`, TRITON_INTERPRET=0."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import caddtree
from caddtree.core.decoder import Decoder
from caddtree.core.options import RuntimeOptions
from caddtree.core.target import Target
from caddtree.drafters.dflash import DFlash
from caddtree.drafters.none import NoDrafter
from caddtree.kernels.tree_attention import reference, tree_attention
from caddtree.runtime import choose_runner
from caddtree.tree_builders.caddtree import CaDDTree
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.kernel_attention import KernelAttention
from caddtree.verifiers.sdpa import SdpaVerifier
from caddtree.verifiers.triton import TritonVerifier
from tests.core.test_target import prefilled
from tests.runtime.test_static_runner import Staircase, random_tree
from tests.tiny_models import FAMILIES, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine shows no CUDA device"),
]

CUDA = torch.device("cuda")
DEMO = Path(caddtree.__file__).parent / "models" / "demo"
BUCKETS = (1, 4, 8, 16, 64)
RUNTIMES = {
    "plain": RuntimeOptions(graphs="never", compile="never"),
    "graphs": RuntimeOptions(compile="never", buckets=BUCKETS),
    "compiled": RuntimeOptions(graphs="never", buckets=BUCKETS),
    "both": RuntimeOptions(buckets=BUCKETS),
}
BOUNDS = {torch.float32: 2e-3, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@pytest.fixture(autouse=True)
def exact_products():
    """TF32 would round float32 products to 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False


def gpu_target(family="qwen3", runtime="both", dtype=torch.float32):
    model = tiny_model(family, dtype=dtype, tie_word_embeddings=False).to(CUDA)
    return Target(model, runner=choose_runner(RUNTIMES[runtime], CUDA))


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("num_nodes", [1, 7, 16, 64, 65, 256])
@pytest.mark.parametrize("context", [0, 1, 1000, 16384])
def test_tree_attention_equals_its_reference(context, num_nodes, dtype):
    """The shapes of Qwen3-8B, the rest of the buffer poisoned."""
    torch.manual_seed(0)
    query = torch.randn(1, 32, num_nodes, 128, device=CUDA, dtype=dtype)
    keys, values = (torch.randn(1, 8, context + num_nodes + 9, 128, device=CUDA, dtype=dtype) for _ in range(2))
    bits = random_tree(num_nodes, 0).packed_visibility()[None].to(CUDA)
    lengths = torch.tensor([context], device=CUDA)
    expected = reference.tree_attention(query, keys, values, bits, lengths, scale=128**-0.5)
    for rows in (keys, values):
        rows[:, :, context + num_nodes :] = torch.nan
    found = tree_attention(query, keys, values, bits, lengths, scale=128**-0.5)

    assert (found - expected).abs().max() <= BOUNDS[dtype]


@pytest.mark.parametrize("verifier", ["dense", "kernel"])
@pytest.mark.parametrize("runtime", ["graphs", "compiled", "both"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_l07_graph_and_compiled_equal_eager_in_every_bucket(family, runtime, verifier):
    """L-07, also after the trees change at equal size and on the buffers of an earlier sequence."""
    target = gpu_target(family, runtime)
    plain = Target(target.model)
    attention = KernelAttention(plain) if verifier == "kernel" else None
    for text in ([3, 1, 4], list(range(50))):
        state, eager = prefilled(target, text), prefilled(plain, text)
        for num_nodes in (1, 3, 4, 7, 8, 16, 40, 64, 4):
            for seed in (0, 1):
                tree = random_tree(num_nodes, seed)
                expected = plain.forward_view(eager, tree)
                found = target.forward_tree(state, tree, attention)[:num_nodes]

                assert (found - expected).abs().max() / expected.abs().max() < 1e-4
        del state, eager


def demo_decoder(runtime, builder, verifier, *, drafter=None):
    model = AutoModelForCausalLM.from_pretrained(DEMO / "target", dtype=torch.float32).to(CUDA).eval()
    return Decoder(
        target=Target(model, runner=choose_runner(RUNTIMES[runtime], CUDA)),
        tokenizer=AutoTokenizer.from_pretrained(DEMO / "target"),
        drafter=drafter or DFlash(model=str(DEMO / "drafter")),
        tree_builder=builder,
        verifier=verifier,
        cost_model=Staircase(),
    )


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "seed": 3}, {"temperature": 0.7, "top_p": 0.9, "top_k": 40}]
)
@pytest.mark.parametrize("builder", [Chain(), DDTree(node_budget=15), CaDDTree(objective="ratio", max_node_budget=63)])
def test_the_demo_pair_decodes_what_plain_decoding_does(builder, options):
    """Token for token in float32, by kernels and graphs."""
    plain = demo_decoder("plain", Chain(), SdpaVerifier(), drafter=NoDrafter())
    fast = demo_decoder("both", builder, TritonVerifier())
    for prompt in ("def main(", "Sam has 40 shells. Sam buys 12 more. How many shells does Sam have now?"):
        expected = plain.generate(prompt, max_new_tokens=64, **options)
        found = fast.generate(prompt, max_new_tokens=64, **options)

        assert found.token_ids == expected.token_ids


def test_a_round_waits_twice():
    """FIELD_NOTES property 10: for the ranked prefixes and for the walk, and for nothing else."""
    decoder = demo_decoder("both", CaDDTree(objective="ratio", max_node_budget=63), TritonVerifier())
    decoder.generate("def main(", max_new_tokens=64)
    session = decoder.open("def main(", max_new_tokens=64)
    for _ in range(3):
        session.step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            session.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [
        str(warning.filename) + f":{warning.lineno}" for warning in caught if "synchronizing" in str(warning.message)
    ]

    assert len(waits) <= 2, waits
