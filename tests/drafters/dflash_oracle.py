"""The DFlash forward written out once more: float64, loops over slots, heads and positions, numpy only.

Reads ``config.json`` and the safetensors itself and shares no code with the drafter.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def rms_norm(vector, weight, eps):
    total = sum(float(value) * float(value) for value in vector)
    scale = 1.0 / math.sqrt(total / len(vector) + eps)
    return np.array([float(value) * scale * float(gain) for value, gain in zip(vector, weight, strict=True)])


def rotate(head, position, base):
    """Rotate pairs (i, i + half) by position * base ** (-2 i / size)."""
    size = len(head)
    half = size // 2
    out = np.zeros(size)
    for i in range(half):
        angle = position * base ** (-2.0 * i / size)
        a, b = head[i], head[i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def softmax(scores):
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return [weight / sum(weights) for weight in weights]


def block_logits(folder: Path, embedding, head, features, root_token):
    """Return the logits ``(block_size - 1, vocabulary)`` of the masked slots.

    Args:
        folder: The checkpoint.
        embedding: ``(vocabulary, hidden)`` of the target.
        head: ``(vocabulary, hidden)`` of the target.
        features: ``(context, layers * hidden)`` raw target layer outputs, concatenated in ascending layer order.
        root_token: The anchor.
    """
    config = json.loads((folder / "config.json").read_text())
    dflash = config["dflash_config"]
    weights = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}
    eps = config["rms_norm_eps"]
    base = config.get("rope_parameters", {}).get("rope_theta", config.get("rope_theta"))
    size = dflash.get("block_size", config.get("block_size"))
    heads, groups, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    types = config.get("layer_types") or ["full_attention"] * config["num_hidden_layers"]
    length = len(features)
    context = [
        rms_norm(weights["fc.weight"] @ row.astype(np.float64), weights["hidden_norm.weight"], eps) for row in features
    ]
    scale = dflash.get("input_embedding_scale", 1.0)
    tokens = [root_token] + [dflash["mask_token_id"]] * (size - 1)
    hidden = [embedding[token].astype(np.float64) * scale for token in tokens]
    for layer in range(config["num_hidden_layers"]):
        name = f"layers.{layer}."
        normed = [rms_norm(row, weights[name + "input_layernorm.weight"], eps) for row in hidden]
        rows = context + normed
        keys, values = [], []
        for position, row in enumerate(rows):
            key = weights[name + "self_attn.k_proj.weight"] @ row
            value = weights[name + "self_attn.v_proj.weight"] @ row
            keys.append(
                [
                    rotate(
                        rms_norm(key[g * dim : (g + 1) * dim], weights[name + "self_attn.k_norm.weight"], eps),
                        position,
                        base,
                    )
                    for g in range(groups)
                ]
            )
            values.append([value[g * dim : (g + 1) * dim] for g in range(groups)])
        after = []
        for slot in range(size):
            position = length + slot
            query = weights[name + "self_attn.q_proj.weight"] @ normed[slot]
            mixed = np.zeros(heads * dim)
            for h in range(heads):
                group = h // (heads // groups)
                q = rotate(
                    rms_norm(query[h * dim : (h + 1) * dim], weights[name + "self_attn.q_norm.weight"], eps),
                    position,
                    base,
                )
                seen = list(range(len(rows)))
                if types[layer] == "sliding_attention":
                    window = config["sliding_window"]
                    seen = [p for p in seen if p <= position and position - p < window]
                shares = softmax([float(q @ keys[p][group]) / math.sqrt(dim) for p in seen])
                for share, p in zip(shares, seen, strict=True):
                    mixed[h * dim : (h + 1) * dim] += share * values[p][group]
            out = hidden[slot] + weights[name + "self_attn.o_proj.weight"] @ mixed
            inner = rms_norm(out, weights[name + "post_attention_layernorm.weight"], eps)
            gate = weights[name + "mlp.gate_proj.weight"] @ inner
            up = weights[name + "mlp.up_proj.weight"] @ inner
            gated = np.array([g / (1 + math.exp(-g)) * u for g, u in zip(gate, up, strict=True)])
            after.append(out + weights[name + "mlp.down_proj.weight"] @ gated)
        hidden = after
    logits = []
    for slot in range(1, size):
        row = head.astype(np.float64) @ rms_norm(hidden[slot], weights["norm.weight"], eps)
        row = row * dflash.get("output_multiplier", 1.0)
        if dflash.get("final_logit_softcapping"):
            cap = dflash["final_logit_softcapping"]
            row = cap * np.tanh(row / cap)
        logits.append(row)
    return np.array(logits)
