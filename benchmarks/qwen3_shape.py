"""A random pair of Qwen3-0.6B's shape on this machine: memory, correctness and stage times of rounds.

    python benchmarks/qwen3_shape.py [--context 256] [--rounds 6]

Random weights say nothing about acceptance; latency, memory and exactness do not depend on it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from caddtree.core.decoder import Decoder
from caddtree.drafters.dflash import DFlash
from caddtree.drafters.dflash_checkpoint import write_checkpoint
from caddtree.drafters.dflash_network import DFlashConfig, DFlashNetwork
from caddtree.drafters.none import NoDrafter
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--nodes", type=int, default=32)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    draft = DFlashConfig(
        hidden_size=1024, intermediate_size=3072, num_layers=5, num_heads=16, num_key_value_heads=8, head_dim=128,
        vocabulary_size=151936, block_size=16, mask_token_id=151669, target_layer_ids=(1, 7, 13, 19, 25),
        num_target_layers=28, rope_theta=1e6,
    )  # fmt: skip
    prompt = torch.randint(0, 151936, (options.context,)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), DFlashNetwork(draft))
        decoders = {
            "plain": Decoder(
                target=model, drafter=NoDrafter(), tree_builder=DDTree(node_budget=1), verifier=SdpaVerifier()
            ),
            "tree": Decoder(
                target=model,
                drafter=DFlash(model=folder),
                tree_builder=DDTree(node_budget=options.nodes),
                verifier=SdpaVerifier(),
            ),
        }
        found = {name: made.generate(prompt, max_new_tokens=options.rounds + 1) for name, made in decoders.items()}
    for name, generation in found.items():
        seconds = [round_.seconds for round_ in generation.rounds if round_.tree_depth or name == "plain"]
        stages = {
            stage: statistics.median(getattr(entry, stage) for entry in seconds)
            for stage in ("draft", "build", "verify", "commit")
        }
        listed = ", ".join(f"{stage} {1e3 * value:.1f}" for stage, value in stages.items())
        print(f"{name}: {listed} ms; prefill of {options.context} tokens {generation.prefill_seconds:.2f} s")
    print(f"identical: {found['plain'].token_ids == found['tree'].token_ids}")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
