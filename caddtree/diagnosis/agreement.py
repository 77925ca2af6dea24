"""How far drafts agree with the target's own greedy text, for the configured drafter and for variants of it.

A fault that nothing reports shows itself here: with the fault undone, drafts agree better. All variants draft from the
same places of the same texts, so that they are compared place by place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import bdtrc
from torch import Tensor

from caddtree.core.target import Target
from caddtree.diagnosis.evidence import DraftModel, Evidence, Text
from caddtree.diagnosis.findings import percent
from caddtree.drafters.dflash_network import DFlashConfig, DFlashNetwork, KeysValues

FEWEST_PLACES = 32
"""The test below asks for ten places that differ, all one way: a fault that spoils every third draft gives as many."""
_PLACES_PER_TEXT = 16
"""Neighbouring places draft nearly the same tokens and would be counted as if they were independent."""
_PLACES_AT_ONCE = 8
_CHANCE = 1e-3
"""A run makes about twenty comparisons: were all variants as good as what is configured, one run in fifty would suspect
one of them. They are worse, so it is far less."""
_STANDARD_ERRORS = 3.09
"""The same chance, for a mean."""


@attrs.frozen(eq=False)
class DraftVariant:
    """One way to run a draft model; layer ids may hold the number of layers, which means the final norm's output."""

    config: DFlashConfig
    slot_offset: int = 0
    """Added to the positions of the block's slots."""
    head: Callable[[Tensor], Tensor] | None = None
    """Hidden states to logits; the target's own head when None."""


@attrs.frozen(eq=False)
class Agreement:
    """Drafts of one variant against the text."""

    lengths: NDArray[np.int64]  # (places,) drafted tokens that are the text's, from the first on
    log_probs: NDArray[np.float64]  # (places,) of the text's token at the first position

    @property
    def first_share(self) -> float:
        """Share of places whose first drafted token is the text's."""
        return float((self.lengths > 0).mean()) if len(self.lengths) else 0.0

    @property
    def mean_length(self) -> float:
        """Drafted tokens that are the text's, from the first on."""
        return float(self.lengths.mean()) if len(self.lengths) else 0.0

    def beats(self, other: Agreement) -> bool:
        """Tell whether drafts agree longer than those of ``other`` at so many places that it is no chance.

        A one-sided sign test assumes nothing of how long drafts are.
        """
        longer, shorter = int((self.lengths > other.lengths).sum()), int((self.lengths < other.lengths).sum())
        # bdtrc is the chance of more than k heads
        chance = float(bdtrc(longer - 1, longer + shorter, 0.5)) if longer else 1.0
        return self.mean_length > other.mean_length and chance < _CHANCE

    def is_likelier_than(self, other: Agreement) -> bool:
        """Tell whether the right tokens are given more probability in the mean, by so much that it is no chance.

        Places would mislead if they were counted: a drafter that is too sure gains a little at most of them, and loses
        much where it is wrong.
        """
        gains = self.log_probs - other.log_probs
        if len(gains) < FEWEST_PLACES:
            return False
        error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
        return float(gains.mean()) > _STANDARD_ERRORS * error > 0

    def words(self) -> str:
        """Return the share of first tokens that agree, and how many do in a row."""
        return f"{percent(self.first_share)} ({self.mean_length:.1f} in a row)"

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready values."""
        return {"places": len(self.lengths), "first_share": self.first_share, "mean_length": self.mean_length}


def measure(evidence: Evidence, model: DraftModel, variants: Sequence[DraftVariant]) -> list[Agreement]:
    """Return the agreement of the drafter as it is configured, then that of every variant."""
    variants = [DraftVariant(model.config), *variants]
    layers = {layer for variant in variants for layer in variant.config.target_layer_ids}
    results: list[list[tuple[Tensor, Tensor]]] = [[] for _ in variants]
    for text in evidence.decoded():
        places = _places(text)
        if len(places) == 0:
            continue
        outputs = layer_outputs(evidence.decoder.target, text.tokens, layers)
        for variant, found in zip(variants, results, strict=True):
            logits = block_logits(evidence.decoder.target, model, variant, outputs, text.tokens, places)
            found += [_compare(rows, text.tokens, place, variant.config) for place, rows in logits]
    return [_agreement(found) for found in results]


@torch.inference_mode()
def layer_outputs(target: Target, tokens: Sequence[int], layers: Iterable[int]) -> dict[int, Tensor]:
    """Return the raw outputs ``(tokens, hidden)`` of some layers; the number of layers means behind the final norm."""
    kept: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    decoder = target.model.get_decoder()
    modules = {layer: decoder if layer == target.num_layers else target.layers[layer] for layer in kept}

    def keeper(rows: list[Tensor]) -> Callable[..., None]:
        def keep(_module: object, _arguments: object, output: Any) -> None:
            output = getattr(output, "last_hidden_state", output)
            rows.append((output[0] if isinstance(output, tuple) else output)[0])

        return keep

    handles = [modules[layer].register_forward_hook(keeper(rows)) for layer, rows in kept.items()]
    try:
        target.prefill(target.start(len(tokens)), tokens, lambda *_: None)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: torch.cat(rows) for layer, rows in kept.items()}


@torch.inference_mode()
def block_logits(
    target: Target,
    model: DraftModel,
    variant: DraftVariant,
    outputs: dict[int, Tensor],
    tokens: Sequence[int],
    places: Sequence[int],
) -> Iterable[tuple[int, Tensor]]:
    """Return, for every place, logits ``(block size - 1, vocabulary)`` of the block that starts with its token.

    The whole network runs anew, apart from the drafter's caches, positions and captured functions.
    """
    config, network = variant.config, _with_config(model.network, variant.config)
    raw = torch.cat([outputs[layer] for layer in config.target_layer_ids], dim=-1)
    features = network.context_features(raw.to(network.norm.weight.dtype)[None])
    context = network.context_keys_values(features, torch.arange(len(tokens), device=target.device))
    head = variant.head or target.head_logits
    found: list[tuple[int, Tensor]] = []
    for start in range(0, len(places), _PLACES_AT_ONCE):
        some = places[start : start + _PLACES_AT_ONCE]
        roots = torch.tensor([tokens[place] for place in some], device=target.device)
        starts = torch.tensor(some, device=target.device)
        hidden = _run_blocks(network, target, context, starts, roots, variant.slot_offset)
        logits = _scaled(head(hidden[:, 1:].to(target.dtype)).float(), config)
        found += zip(some, logits, strict=True)
    return found


def _run_blocks(
    network: DFlashNetwork, target: Target, context: list[KeysValues], places: Tensor, roots: Tensor, slot_offset: int
) -> Tensor:
    """Return hidden states ``(places, block size, hidden)``; each block sees the context before its place."""
    config, num_places = network.config, len(places)
    slots = torch.arange(config.block_size, device=places.device)
    block_tokens = torch.where(slots == 0, roots[:, None], config.mask_token_id)
    block = target.embed(block_tokens).to(network.norm.weight.dtype) * config.input_embedding_scale
    rows = torch.arange(context[0][0].shape[2], device=places.device)
    masks = []
    for layer in range(config.num_layers):
        sees_context = (rows < places[:, None, None]).expand(-1, config.block_size, -1)
        sees_block = torch.ones(num_places, config.block_size, config.block_size, device=places.device).bool()
        if (window := config.window(layer)) is not None:
            sees_context = sees_context & (places[:, None, None] + slots[:, None] - rows < window)
            sees_block = sees_block.tril() & (slots[:, None] - slots < window)
        masks.append(torch.cat([sees_context, sees_block], dim=-1)[:, None])
    expanded = [
        (keys.expand(num_places, -1, -1, -1), values.expand(num_places, -1, -1, -1)) for keys, values in context
    ]
    hidden: Tensor = network(block, places[:, None] + slots + slot_offset, expanded, masks)
    return hidden


def _with_config(network: DFlashNetwork, config: DFlashConfig) -> DFlashNetwork:
    """Return a network with other constants over the same weights."""
    with torch.device("meta"):
        twin = DFlashNetwork(config)
    twin.load_state_dict(network.state_dict(), assign=True)
    return twin.eval().requires_grad_(False)


def _scaled(logits: Tensor, config: DFlashConfig) -> Tensor:
    logits = logits * config.output_multiplier
    if (cap := config.final_logit_softcapping) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def _places(text: Text) -> list[int]:
    """Return where blocks start: evenly spread over what was generated, each with a token behind it."""
    first, last = text.num_prompt, len(text.tokens) - 2
    if last < first:
        return []
    count = min(_PLACES_PER_TEXT, last - first + 1)
    return sorted({round(place) for place in np.linspace(first, last, count).tolist()})


def _compare(logits: Tensor, tokens: Sequence[int], place: int, config: DFlashConfig) -> tuple[Tensor, Tensor]:
    """Return how many drafted tokens are the text's, and the log-probability of the first that is."""
    truth = torch.tensor(tokens[place + 1 : place + config.block_size], device=logits.device)
    is_right = logits[: len(truth)].argmax(dim=-1) == truth
    return is_right.long().cumprod(dim=0).sum(), torch.log_softmax(logits[0], dim=-1)[truth[0]]


def _agreement(found: list[tuple[Tensor, Tensor]]) -> Agreement:
    if not found:
        return Agreement(np.zeros(0, np.int64), np.zeros(0))
    # host sync: once per variant
    lengths, log_probs = (torch.stack(part).cpu().numpy() for part in zip(*found, strict=True))
    return Agreement(lengths, log_probs.astype(np.float64))
