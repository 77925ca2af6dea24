"""Tiny random DFlash checkpoints in exactly the public format."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def tiny_checkpoint(folder: Path, *, layers: int = 1, target_layer_ids=(0, 2), seed: int = 0, dflash=None, **changes):
    """Write a checkpoint that fits ``tiny_model("qwen3")`` and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["DFlashDraftModel"],
        "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
        "model_type": "qwen3",
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 61,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5000.0,
        "block_size": 6,
        "num_target_layers": 4,
        "dflash_config": {"mask_token_id": 60, "target_layer_ids": list(target_layer_ids), **(dflash or {})},
        **changes,
    }
    config["dflash_config"] = {key: value for key, value in config["dflash_config"].items() if value is not ...}
    config = {key: value for key, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tiny_weights(layers, len(target_layer_ids), seed), folder / "model.safetensors")
    return folder


def tiny_weights(layers: int, taps: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows, columns):
        return torch.randn(rows, columns, generator=generator) * 1.5 / columns**0.5

    def gains(count):
        return 1 + 0.2 * torch.randn(count, generator=generator)

    weights = {"fc.weight": matrix(32, 32 * taps), "hidden_norm.weight": gains(32), "norm.weight": gains(32)}
    for layer in range(layers):
        name = f"layers.{layer}."
        weights |= {
            name + "self_attn.q_proj.weight": matrix(32, 32),
            name + "self_attn.k_proj.weight": matrix(16, 32),
            name + "self_attn.v_proj.weight": matrix(16, 32),
            name + "self_attn.o_proj.weight": matrix(32, 32),
            name + "self_attn.q_norm.weight": gains(8),
            name + "self_attn.k_norm.weight": gains(8),
            name + "mlp.gate_proj.weight": matrix(40, 32),
            name + "mlp.up_proj.weight": matrix(40, 32),
            name + "mlp.down_proj.weight": matrix(32, 40),
            name + "input_layernorm.weight": gains(32),
            name + "post_attention_layernorm.weight": gains(32),
        }
    return weights
