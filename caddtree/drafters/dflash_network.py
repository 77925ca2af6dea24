"""The DFlash draft model: Qwen3-style layers whose keys and values also come from the target's features.

The module's parameter names are those of the public checkpoints. Embedding and output head are the target's own
and not part of it.

Source: DFlash, arXiv:2602.06036.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]
"""Rotated keys and values of one layer, each ``(batch, key/value heads, rows, head_dim)``."""


@attrs.frozen
class DFlashConfig:
    """Sizes and constants of a draft model; ``config.json`` in parsed form."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    vocabulary_size: int
    block_size: int
    mask_token_id: int
    target_layer_ids: tuple[int, ...]
    num_target_layers: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    max_position_embeddings: int = 32768
    windows: tuple[int | None, ...] = ()
    """Sliding window of every layer, None for full attention; empty means full everywhere."""
    input_embedding_scale: float = 1.0
    output_multiplier: float = 1.0
    final_logit_softcapping: float | None = None
    target_fingerprint: str | None = None

    def window(self, layer: int) -> int | None:
        """Return the sliding window of a layer, or None."""
        return self.windows[layer] if self.windows else None


class DraftAttention(nn.Module):
    """Queries from the block; keys and values from the context features and the block alike."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads = config.num_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        bias, size = config.attention_bias, config.hidden_size
        self.q_proj = nn.Linear(size, config.num_heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(size, config.num_key_value_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(size, config.num_key_value_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, size, bias=bias)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def keys_values(self, rows: Tensor, cos: Tensor, sin: Tensor) -> KeysValues:
        """Return rotated keys and values of ``(batch, rows, hidden)``."""
        shape = (*rows.shape[:2], self.num_key_value_heads, self.head_dim)
        keys = self.k_norm(self.k_proj(rows).view(shape)).transpose(1, 2)
        values = self.v_proj(rows).view(shape).transpose(1, 2)
        return rotate(keys, cos, sin), values

    def queries(self, block: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return rotated queries ``(batch, heads, slots, head_dim)`` of ``(batch, slots, hidden)``."""
        shape = (*block.shape[:2], self.num_heads, self.head_dim)
        return rotate(self.q_norm(self.q_proj(block).view(shape)).transpose(1, 2), cos, sin)

    def forward(
        self, block: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return the attention output ``(batch, slots, hidden)`` of the block over all given rows."""
        mixed = F.scaled_dot_product_attention(
            self.queries(block, cos, sin),
            keys,
            values,
            attn_mask=mask,
            enable_gqa=self.num_heads != self.num_key_value_heads,
        )
        output: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return output


class DraftMlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``(..., hidden)``."""
        output: Tensor = self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class DraftLayer(nn.Module):
    """One layer of the draft model."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        self.self_attn = DraftAttention(config)
        self.mlp = DraftMlp(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class DFlashNetwork(nn.Module):
    """The draft model without embedding and head."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.fc = nn.Linear(len(config.target_layer_ids) * size, size, bias=False)
        self.hidden_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.layers = nn.ModuleList(DraftLayer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(size, eps=config.rms_norm_eps)

    def context_features(self, raw: Tensor) -> Tensor:
        """Return ``(..., hidden)`` of concatenated target layer outputs; shared by all draft layers."""
        features: Tensor = self.hidden_norm(self.fc(raw))
        return features

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines ``(..., 1, rows, head_dim)`` of absolute positions, computed in float32."""
        config = self.config
        # made here and not kept as a buffer: a cast of the module would round it, radians off at high positions
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=positions.device)
        frequencies = config.rope_theta ** (-exponents / config.head_dim)
        angles = positions[..., None, :, None].float() * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        dtype = self.norm.weight.dtype
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def context_keys_values(self, features: Tensor, positions: Tensor) -> list[KeysValues]:
        """Return every layer's keys and values of context rows.

        Args:
            features: ``(batch, rows, hidden)`` from :meth:`context_features`.
            positions: ``(batch, rows)`` or ``(rows,)`` int64.
        """
        cos, sin = self.rotation(positions)
        return [layer.self_attn.keys_values(features, cos, sin) for layer in self._draft_layers()]

    def forward(
        self, block: Tensor, positions: Tensor, context: Sequence[KeysValues], masks: Sequence[Tensor | None]
    ) -> Tensor:
        """Return the hidden states of the block slots after the final norm.

        Args:
            block: ``(batch, slots, hidden)`` embeddings, scaled already.
            positions: ``(batch, slots)`` or ``(slots,)`` int64, absolute.
            context: Per layer, what :meth:`context_keys_values` returned.
            masks: Per layer, bool ``(..., slots, context rows + slots)``, or None where everything is visible.
        """
        cos, sin = self.rotation(positions)
        hidden = block
        for layer, (keys, values), mask in zip(self._draft_layers(), context, masks, strict=True):
            normed = layer.input_layernorm(hidden)
            block_keys, block_values = layer.self_attn.keys_values(normed, cos, sin)
            keys, values = torch.cat([keys, block_keys], dim=2), torch.cat([values, block_values], dim=2)
            hidden = hidden + layer.self_attn(normed, cos, sin, keys, values, mask)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        output: Tensor = self.norm(hidden)
        return output

    def _draft_layers(self) -> list[DraftLayer]:
        return list(self.layers)  # type: ignore[arg-type]


def rotate(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return rows rotated to their positions (rotary embedding, halves form)."""
    first, second = rows.chunk(2, dim=-1)
    return rows * cos + torch.cat([-second, first], dim=-1) * sin
