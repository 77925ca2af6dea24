"""Small inputs: a target made from a config, marginals, contexts of rounds, and the text of plain decoding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from caddtree.core.context import RoundContext
from caddtree.core.marginals import Marginals
from caddtree.core.sampler import Sampler

DEFAULT_VOCABULARY_SIZE = 61


def tiny_target(vocabulary_size: int = DEFAULT_VOCABULARY_SIZE, *, seed: int = 0, **config: Any) -> Any:
    """Return a random float32 Qwen3 causal LM of Hugging Face in eval mode, without any download.

    Args:
        vocabulary_size: Tokens; none of them ends a text.
        seed: Decides the weights; torch's own generator is left as it was.
        **config: Fields of the Qwen3 config that differ.
    """
    # imported here: Transformers takes seconds, and not every check needs a target
    from transformers import AutoModelForCausalLM, Qwen3Config

    fields = {
        "vocab_size": vocabulary_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **config,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**fields), dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                # large, so that the logits of two tokens lie further apart than rounding moves them
                scale = 1.0 if "embed" in name else 3.0 / weight.shape[1] ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return model


def random_marginals(
    depth: int = 7,
    width: int = 16,
    vocabulary_size: int = DEFAULT_VOCABULARY_SIZE,
    *,
    seed: int = 0,
    spread: float = 3.0,
    temperature: float = 0.0,
) -> Marginals:
    """Return marginals that widen up to the vocabulary.

    Args:
        depth: Drafted positions.
        width: Candidates of each; clipped to the vocabulary.
        vocabulary_size: Tokens.
        seed: Decides the numbers.
        spread: Standard deviation of the logits.
        temperature: Of the request.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(depth, vocabulary_size, generator=generator) * spread
    return Marginals.from_logits(logits, width, temperature=temperature)


def round_context(**changes: Any) -> RoundContext:
    """Return the context of a round with room for everything; ``changes`` are fields of :class:`RoundContext`."""
    facts = {"root_token": 1, "context_length": 20, "remaining_tokens": 100, "position_limit": 4096}
    return RoundContext(**{**facts, **changes})


@torch.inference_mode()
def plain_tokens(model: Any, prompt: Sequence[int], num_new_tokens: int, **sampling: Any) -> list[int]:
    """Return the tokens of plain decoding: a full forward per token, no cache, no tree.

    Args:
        model: A Hugging Face causal LM.
        prompt: Token ids.
        num_new_tokens: Tokens to add.
        **sampling: Fields of :class:`~caddtree.core.sampler.Sampler`, such as ``temperature`` and ``seed``.
    """
    sampler, tokens = Sampler(**sampling), list(prompt)
    for _ in range(num_new_tokens):
        tokens.append(sampler.choose(next_logits(model, tokens), len(tokens) - 1, tokens))
    return tokens[len(prompt) :]


def known_tokens(model: Any, prompt: Sequence[int], num_new_tokens: int, sampling: Mapping[str, Any]) -> list[int]:
    """Return :func:`plain_tokens`, computed once for all models of one config and the same weights."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    known = _known(digest.hexdigest(), tuple(prompt), num_new_tokens, tuple(sorted(sampling.items())))
    if not known:
        known += plain_tokens(model, prompt, num_new_tokens, **sampling)
    return list(known)


@lru_cache(maxsize=256)
def _known(digest: str, prompt: tuple[int, ...], num_new_tokens: int, sampling: tuple[Any, ...]) -> list[int]:
    """Return the list that holds this answer once it is computed."""
    return []


def next_logits(model: Any, tokens: Sequence[int]) -> Tensor:
    """Return ``(vocabulary,)`` logits after the last token, by a full forward."""
    ids = torch.tensor([list(tokens)], device=model.get_input_embeddings().weight.device)
    logits: Tensor = model(ids, use_cache=False).logits[0, -1]
    return logits


def repeating_texts(vocabulary_size: int) -> list[list[int]]:
    """Return texts in which a drafter finds something: of one token, in a circle, over few tokens, over many."""
    generator = torch.Generator().manual_seed(0)
    circle = min(9, vocabulary_size)

    def drawn(num_tokens: int, length: int) -> list[int]:
        shift = vocabulary_size // 3
        tokens = torch.randint(0, min(num_tokens, vocabulary_size), (length,), generator=generator).tolist()
        return [(token + shift) % vocabulary_size for token in tokens]

    texts = [drawn(num_tokens, 25 + 5 * num_tokens) for num_tokens in (2, 3, 6)]
    return [[1], [token % circle for token in range(40)], *texts, drawn(vocabulary_size, 60)]
