"""Transformers' own decoding on the same target: plain ``generate``, and its DFlash chain.

Named differences of its chain: it loops over the slots in Python, drafts the whole block even next to the length
limit, and its first round is plain.
"""

from __future__ import annotations

import copy
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from caddtree.core.records import Generation, Round, StageSeconds
from caddtree.core.text import encode_prompt
from caddtree.drafters.dflash_network import DFlashNetwork


class TransformersGenerate:
    """``model.generate`` with its default cache, timed without prefill."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.extra: dict[str, Any] = {}

    def unwatched(self) -> AbstractContextManager[None]:
        """Nobody watches."""
        return nullcontext()

    def generate(self, prompt: Any, *, max_new_tokens: int) -> Generation:
        """Return a generation whose one round stands for all of decoding."""
        tokens = encode_prompt(prompt, self.tokenizer, self.model.config.vocab_size)
        first, _ = self._timed(tokens, 1)
        total, output = self._timed(tokens, max_new_tokens)
        seconds = StageSeconds(0.0, 0.0, max(total - first, 1e-9), 0.0)
        gained = tuple(output[1:])
        round_ = Round(0, len(tokens), 0, 0, gained, (0,), 0.0, seconds, None)
        return Generation("", tuple(output), "stop", len(tokens), first, (round_,) if gained else ())

    def _timed(self, tokens: list[int], max_new_tokens: int) -> tuple[float, list[int]]:
        ids = torch.tensor([tokens])
        started = time.perf_counter()
        found = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens, **self.extra
        )
        return time.perf_counter() - started, found[0, len(tokens) :].tolist()


class TransformersDFlash(TransformersGenerate):
    """``speculation_type="dflash"`` with our draft model behind the interface that Transformers asks for."""

    def __init__(self, decoder: Any, tokenizer: Any) -> None:
        super().__init__(decoder.target.model, tokenizer)
        peer = Peer(decoder.drafter._network, self.model)
        self.extra = {"assistant_model": peer, "speculation_type": "dflash"}


class Peer(nn.Module):
    """The draft model as Transformers calls it."""

    def __init__(self, network: DFlashNetwork, model: Any) -> None:
        super().__init__()
        self.network = network
        self.config = copy.deepcopy(model.config)
        self.config.num_hidden_layers = network.config.num_layers
        if getattr(self.config, "layer_types", None):
            self.config.layer_types = self.config.layer_types[: network.config.num_layers]
        self.config.block_size = network.config.block_size
        self.config.target_layer_ids = list(network.config.target_layer_ids)
        self.config.mask_token_id = network.config.mask_token_id

    device = property(lambda self: self.network.norm.weight.device)

    def forward(
        self,
        noise_embeds: Any,
        context_hidden_states: Any,
        position_ids: Any,
        attention_mask: Any = None,
        past_key_values: Any = None,
    ) -> BaseModelOutputWithPast:
        """Return hidden states of the block; committed keys and values stay in ``past_key_values``."""
        network, num_context = self.network, context_hidden_states.shape[1]
        context_positions, positions = position_ids[:, :num_context], position_ids[:, num_context:]
        features = network.context_features(context_hidden_states)
        context = network.context_keys_values(features, context_positions)
        cos, sin = network.rotation(positions)
        hidden = noise_embeds
        for index, layer in enumerate(network.layers):
            normed = layer.input_layernorm(hidden)
            keys, values = layer.self_attn.keys_values(normed, cos, sin)
            keys, values = torch.cat([context[index][0], keys], 2), torch.cat([context[index][1], values], 2)
            keys, values = past_key_values.update(keys, values, index)
            hidden = hidden + layer.self_attn(normed, cos, sin, keys, values, None)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return BaseModelOutputWithPast(last_hidden_state=network.norm(hidden), past_key_values=past_key_values)
