"""Tiny random targets whose logits do not tie, and small strategies to decode them with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen3Config

from caddtree.core.marginals import Marginals
from caddtree.core.protocols import DraftRequest

_SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}

FAMILIES = {
    "qwen3": lambda **kw: Qwen3Config(**{**_SIZES, **kw}),
    "llama": lambda **kw: LlamaConfig(**{**_SIZES, **kw}),
    "mistral": lambda **kw: MistralConfig(**{**_SIZES, "sliding_window": 24, **kw}),
    "gemma3": lambda **kw: Gemma3TextConfig(
        **{
            **_SIZES,
            "sliding_window": 16,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            **kw,
        }
    ),
}


def tiny_model(family: str = "qwen3", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Return a random causal LM in eval mode; large weights keep the logits of two tokens apart."""
    torch.manual_seed(seed)
    config = FAMILIES[family](**changes)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                scale = 1.0 if "embed" in name else 3.0 / weight.shape[1] ** 0.5
                weight.copy_(torch.randn_like(weight) * scale)
    return model


def prompts(count: int, *, vocabulary: int = 61, seed: int = 1, low: int = 1, high: int = 40) -> list[list[int]]:
    """Return random token lists of random lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def plain_greedy(model: Any, prompt: Sequence[int], num_new: int) -> list[int]:
    """Greedy decoding without cache, tree or package code: the oracle."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(num_new):
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
            tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


@attrs.define(eq=False)
class ScriptedDrafter:
    """Drafts from the truth: the continuation known in advance, spoilt to a chosen degree.

    ``continuations`` maps a prompt to its plain continuation. ``right`` is the probability that a position is
    right in rank 0; otherwise the truth is put at a random rank, or left out.
    """

    continuations: dict[tuple[int, ...], list[int]]
    right: float = 0.7
    depth: int = 7
    vocabulary: int = 61
    required_layers: tuple[int, ...] = ()
    seed: int = 0

    @property
    def block_size(self) -> int:
        return self.depth + 1

    def bind(self, target: Any) -> None:
        self.vocabulary = target.vocabulary_size

    def start(self) -> list[int]:
        return []

    def commit(self, state: list[int], tokens: Sequence[int], features: Tensor | None) -> None:
        assert (features is None) == (not self.required_layers)
        if features is not None:
            assert features.shape[0] == len(tokens)
        state.extend(tokens)

    def draft(self, state: list[int], request: DraftRequest) -> Marginals:
        assert len(state) == request.context_length
        so_far = [*state, request.root_token]
        future = self._future(so_far)
        generator = torch.Generator().manual_seed(self.seed + 1000 * len(so_far))
        logits = torch.randn(min(self.depth, request.max_depth), self.vocabulary, generator=generator) * 2
        for row, token in zip(range(len(logits)), future, strict=False):
            if torch.rand((), generator=generator) < self.right:
                logits[row, token] = logits[row].max() + 1.5
        return Marginals.from_logits(logits, 8, temperature=request.temperature)

    def _future(self, so_far: list[int]) -> list[int]:
        for prompt, continuation in self.continuations.items():
            whole = [*prompt, *continuation]
            if whole[: len(so_far)] == so_far:
                return whole[len(so_far) :]
        return []
