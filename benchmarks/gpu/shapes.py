"""Random models of real shapes, made where they run: acceptance means nothing there, latency does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from caddtree.drafters.dflash_checkpoint import write_checkpoint
from caddtree.drafters.dflash_network import DFlashConfig, DFlashNetwork

_STANDARD_DEVIATION = 0.02
_ROPE_BASE = 1e6
_LOGIT_SPREAD = 14.0
"""Of the drafter's logits. Flat ones would make every tree a star that is wider than the candidates of a round; with
this, trees are as deep and the expected acceptance as high as those of trained pairs (6 to 8 tokens at 255 nodes)."""
_QUERY_GAIN = 4.0
"""Of the drafter's query norms: slots that attended to everything alike would draft one and the same token."""


@attrs.frozen
class ModelShape:
    """Sizes of a target and of its DFlash drafter."""

    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary_size: int
    is_tied: bool
    """Whether the embedding table is the output head."""
    num_draft_layers: int = 5
    block_size: int = 16
    stop_tokens: tuple[int, ...] = ()

    @property
    def target_layer_ids(self) -> tuple[int, ...]:
        """The layers that the drafter reads, spread evenly as the public checkpoints have them."""
        last = self.num_draft_layers - 1
        if last == 0:
            return (self.num_layers // 2,)
        return tuple(round(1 + index * (self.num_layers - 4) / last) for index in range(self.num_draft_layers))

    @property
    def target_config(self) -> Qwen3Config:
        """The target in Transformers' form."""
        return Qwen3Config(
            vocab_size=self.vocabulary_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=40_960,
            tie_word_embeddings=self.is_tied,
            initializer_range=_STANDARD_DEVIATION,
            rope_parameters={"rope_type": "default", "rope_theta": _ROPE_BASE},
            bos_token_id=None,
            eos_token_id=list(self.stop_tokens) or None,
            pad_token_id=None,
        )

    @property
    def draft_config(self) -> DFlashConfig:
        """The drafter: layers like the target's."""
        return DFlashConfig(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_layers=self.num_draft_layers,
            num_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            vocabulary_size=self.vocabulary_size,
            block_size=self.block_size,
            mask_token_id=self.vocabulary_size - 1,
            target_layer_ids=self.target_layer_ids,
            num_target_layers=self.num_layers,
            rope_theta=_ROPE_BASE,
        )


QWEN3_4B = ModelShape("qwen3-4b", 2560, 9728, 36, 32, 8, 128, 151_936, is_tied=True, stop_tokens=(151_643, 151_645))
QWEN3_8B = ModelShape("qwen3-8b", 4096, 12_288, 36, 32, 8, 128, 151_936, is_tied=False, stop_tokens=(151_643, 151_645))
TOY_TIED = ModelShape("toy-tied", 32, 48, 1, 4, 2, 16, 96, is_tied=True, num_draft_layers=1, block_size=4)
TOY_UNTIED = ModelShape("toy-untied", 48, 64, 5, 2, 1, 16, 96, is_tied=False, num_draft_layers=2, block_size=4)
SMALL = ModelShape("small", 128, 192, 3, 4, 2, 32, 512, is_tied=False, num_draft_layers=1, block_size=8)
"""Of the checks in float32: few layers, and logits that do not tie."""


@torch.no_grad()
def random_target(shape: ModelShape, device: torch.device, dtype: torch.dtype, *, gain: float | None = None) -> Any:
    """Return a causal LM in eval mode with random weights.

    Args:
        shape: Its sizes.
        device: Weights are drawn there: on a host, billions of normal numbers would take minutes.
        dtype: Of the weights; rotary frequencies stay float32.
        gain: Standard deviation of what a matrix returns for normal inputs; Transformers' own start when None.
    """
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(shape.target_config, dtype=dtype)
    if gain is not None:
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 1.0 if "embed" in name else gain / math.sqrt(weight.shape[1]))
    frequencies = model.get_decoder().rotary_emb.inv_freq
    # rounded ones, or none at all, would give other angles and nobody would see it in a latency
    assert frequencies.dtype == torch.float32
    assert 0 < float(frequencies[-1]) < float(frequencies[0]) == 1.0
    return model.eval().requires_grad_(False)


@torch.no_grad()
def random_drafter(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> DFlashNetwork:
    """Return a draft model with random weights, whose marginals are as peaked as those of a trained one."""
    torch.manual_seed(1)
    with device:
        network = DFlashNetwork(shape.draft_config)
    network = network.to(dtype)
    for weight in network.parameters():
        if weight.ndim == 2:
            weight.normal_(0.0, _STANDARD_DEVIATION)
    # normed states have unit size: the head's logits then spread by gain * 0.02 * sqrt(hidden)
    network.norm.weight.fill_(_LOGIT_SPREAD / (_STANDARD_DEVIATION * math.sqrt(shape.hidden_size)))
    for layer in network.layers:
        layer.self_attn.q_norm.weight.fill_(_QUERY_GAIN)  # type: ignore[union-attr,operator]
    return network.eval().requires_grad_(False)


def save_drafter(network: DFlashNetwork, folder: Path) -> str:
    """Write a checkpoint in the public layout and return where: the drafter is then loaded as any other."""
    write_checkpoint(folder, network, dtype=network.norm.weight.dtype)
    return str(folder)
