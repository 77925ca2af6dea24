"""Head and embedding: does the drafter speak through the target's own, with the scales it was trained with?"""

from __future__ import annotations

from typing import Any

import attrs
import torch

from caddtree.core.protocols import DraftRequest
from caddtree.core.target import Target
from caddtree.diagnosis.agreement import DraftVariant, block_logits, layer_outputs, measure
from caddtree.diagnosis.evidence import DraftModel, Evidence
from caddtree.diagnosis.findings import Finding, Notes
from caddtree.diagnosis.not_applicable import without_checkpoint

NAME = "head and embedding"

_TOLERANCE = 0.05
_ROUGH_TOLERANCE = 1.0
"""Of log-probabilities, in float32 and in 16 bits. float32 differs by 1e-4 at most; in bfloat16 a logit of 32 is known
to 0.25, and a few such roundings add up. Another head is off by several units at nearly every candidate."""
_LAST_PIECE = 3
"""Tokens that are committed apart from the prompt, as an accepted path is."""
_LIKELY = -4.0
"""Log-probability from which candidates are compared: less likely ones are rounding in 16 bits."""


def check(evidence: Evidence) -> Finding:
    """Return whether drafts are what the checkpoint gives by hand, and whether other scales would do better."""
    model = evidence.draft_model
    if model is None:
        return without_checkpoint(NAME, evidence)
    notes = Notes(NAME)
    _check_by_hand(evidence, notes, model)
    _check_untied(evidence, notes, model)
    _check_scales(evidence, notes, model)
    return notes.finding()


@torch.inference_mode()
def _check_by_hand(evidence: Evidence, notes: Notes, model: DraftModel) -> None:
    """Draft one block through the drafter, and once more from its files: embedding, layers and head of the target."""
    target, drafter = evidence.decoder.target, evidence.decoder.drafter
    text = max(evidence.decoded(), key=lambda text: len(text.tokens))
    place = min(text.num_prompt + _LAST_PIECE, len(text.tokens) - 1)
    state, cache = drafter.start(), target.start(place)
    split = max(0, place - _LAST_PIECE)
    for piece in (text.tokens[:split], text.tokens[split:place]):
        if piece:
            target.prefill(cache, piece, lambda tokens, features: drafter.commit(state, tokens, features))
    request = DraftRequest(text.tokens[place], place, model.config.block_size - 1)
    marginals = drafter.draft(state, request)
    assert marginals is not None
    outputs = layer_outputs(target, text.tokens[: place + 1], model.config.target_layer_ids)
    [(_, logits)] = block_logits(target, model, DraftVariant(model.config), outputs, text.tokens[: place + 1], [place])
    by_hand = torch.log_softmax(logits[: marginals.depth], dim=-1).gather(1, marginals.tokens.to(logits.device))
    given = marginals.log_probs.to(logits.device)
    difference = (given - by_hand).abs().where((given > _LIKELY) | (by_hand > _LIKELY), torch.zeros(()).to(given))
    # host sync: one number
    largest = float(difference.max())
    notes.figures["largest_difference"] = largest
    is_exact = {target.dtype, model.network.norm.weight.dtype} <= {torch.float32, torch.float64}
    if largest <= (_TOLERANCE if is_exact else _ROUGH_TOLERANCE):
        notes.fine(
            f"drafts are the target's own head on the checkpoint's layers (log-probabilities within {largest:.1g})"
        )
    else:
        notes.wrong(
            f"drafts are not what the target's embedding and head make of the checkpoint: log-probabilities are off by "
            f"{largest:.2g}",
            "The drafter runs with another head or embedding, or weights were replaced after it was loaded: load anew",
        )


def _check_untied(evidence: Evidence, notes: Notes, model: DraftModel) -> None:
    target = evidence.decoder.target
    if _is_tied(target):
        notes.fine("embedding and head of the target are one table, and the checkpoint brings none of its own")
        return
    embedding = target.model.get_input_embeddings().weight
    configured, other = measure(evidence, model, [DraftVariant(model.config, head=lambda hidden: hidden @ embedding.T)])
    notes.figures["embedding_as_head"] = other.to_dict()
    if other.beats(configured):
        notes.wrong(
            f"through the target's embedding as its head drafts agree {other.words()}, through its head "
            f"{configured.words()}",
            "The drafter was trained with tied tables, the target has two: train with the target's own head",
        )
    else:
        notes.fine(
            f"the target's head is a table of its own and agrees {configured.words()}, its embedding {other.words()}"
        )


def _is_tied(target: Target) -> bool:
    embedding, head = target.model.get_input_embeddings(), target.model.get_output_embeddings()
    return bool(head.weight is embedding.weight or head.weight.data_ptr() == embedding.weight.data_ptr())


def _check_scales(evidence: Evidence, notes: Notes, model: DraftModel) -> None:
    """Try the drafter without the scales in its config: they change probabilities, hardly ever ranks."""
    plain: dict[str, Any] = {
        "input_embedding_scale": 1.0,
        "output_multiplier": 1.0,
        "final_logit_softcapping": None,
    }
    set_ = {name: getattr(model.config, name) for name, value in plain.items() if getattr(model.config, name) != value}
    notes.figures["scales"] = set_
    if not set_:
        notes.fine("no scale, multiplier or softcap in the drafter's config")
        return
    names = ", ".join(f"{name} {value:g}" for name, value in set_.items())
    variants = [DraftVariant(attrs.evolve(model.config, **{name: plain[name]})) for name in set_]
    configured, *others = measure(evidence, model, variants)
    for name, agreement in zip(set_, others, strict=True):
        if agreement.beats(configured) or agreement.is_likelier_than(configured):
            notes.wrong(
                f"without {name} drafts agree {agreement.words()} and give the right token more probability; with "
                f"{set_[name]:g} {configured.words()}",
                f"Remove dflash_config.{name} from {model.folder / 'config.json'}",
            )
            return
    notes.fine(f"{names}: without, drafts are no better")
