"""Mask token: is what stands in the empty slots what stood there in training?"""

from __future__ import annotations

from typing import Any

import attrs
import torch

from caddtree.diagnosis.agreement import DraftVariant, measure
from caddtree.diagnosis.evidence import DraftModel, Evidence
from caddtree.diagnosis.findings import Finding, Notes
from caddtree.diagnosis.not_applicable import without_checkpoint

NAME = "mask token"

_MOST_CANDIDATES = 8
"""Each costs a pass over all texts; a mask token is nearly always one of the first few special tokens."""


def check(evidence: Evidence) -> Finding:
    """Return what the id stands for, how its embedding looks, and whether another special token would do better."""
    model = evidence.draft_model
    if model is None:
        return without_checkpoint(NAME, evidence)
    notes = Notes(NAME)
    notes.figures["mask_token_id"] = model.config.mask_token_id
    _check_embedding(evidence, notes, model)
    if evidence.decoder.tokenizer is not None:
        _check_meaning(evidence, notes, model, evidence.decoder.tokenizer)
    _check_candidates(evidence, notes, model)
    return notes.finding()


@torch.inference_mode()
def _check_embedding(evidence: Evidence, notes: Notes, model: DraftModel) -> None:
    token, target = model.config.mask_token_id, evidence.decoder.target
    row = target.embed(torch.tensor([token], device=target.device)).float()
    # host sync: one number
    norm = float(row.norm())
    notes.figures["embedding_norm"] = norm
    advice = f"Set dflash_config.mask_token_id in {model.folder / 'config.json'} to the token of the training"
    if not norm < float("inf"):
        notes.wrong(f"the embedding of token {token} is not finite", advice)
    elif norm == 0:
        notes.attention(f"the embedding of token {token} is all zeros, a row that no training has touched", advice)
    else:
        notes.fine(f"id {token} lies in the vocabulary of {target.vocabulary_size}, embedding of norm {norm:.2g}")


def _check_meaning(evidence: Evidence, notes: Notes, model: DraftModel, tokenizer: Any) -> None:
    token, file = model.config.mask_token_id, model.folder / "config.json"
    # asked of a tokenizer without one, Transformers answers None
    own = getattr(tokenizer, "mask_token_id", None)
    if own is not None and own != token:
        notes.attention(
            f"the tokenizer's own mask token is {own} ({tokenizer.convert_ids_to_tokens(own)!r}), not {token}",
            f"Set dflash_config.mask_token_id to {own} in {file}, unless the drafter was trained otherwise",
        )
    if token >= len(tokenizer):
        notes.fine(f"{token} is a row behind the tokenizer's {len(tokenizer)} tokens, so that no text holds it")
    elif token in _special_ids(tokenizer):
        notes.fine(f"{token} is the special token {tokenizer.convert_ids_to_tokens(token)!r}")
    else:
        count = sum(text.tokens.count(token) for text in evidence.texts)
        notes.attention(
            f"{token} is an ordinary token, {tokenizer.decode([token])!r}, {count} times in these texts: its embedding "
            "means something else",
            f"Set dflash_config.mask_token_id in {file} to the mask token of the training",
        )


def _special_ids(tokenizer: Any) -> list[int]:
    """Return special tokens, those that a name stands for first."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marked = [index for index, token in added.items() if getattr(token, "special", False)]
    return list(dict.fromkeys([*tokenizer.all_special_ids, *marked]))


def _check_candidates(evidence: Evidence, notes: Notes, model: DraftModel) -> None:
    token, tokenizer = model.config.mask_token_id, evidence.decoder.tokenizer
    candidates: list[int] = []
    if tokenizer is not None:
        own = getattr(tokenizer, "mask_token_id", None)
        behind = max(tokenizer.get_vocab().values()) + 1
        candidates = [*([] if own is None else [own]), behind, *_special_ids(tokenizer)]
    rows = evidence.decoder.target.vocabulary_size
    candidates = [other for other in dict.fromkeys(candidates) if other != token and other < rows][:_MOST_CANDIDATES]
    variants = [DraftVariant(attrs.evolve(model.config, mask_token_id=other)) for other in candidates]
    configured, *others = measure(evidence, model, variants)
    notes.figures["configured"] = configured.to_dict()
    notes.figures["candidates"] = {
        str(other): agreement.to_dict() for other, agreement in zip(candidates, others, strict=True)
    }
    if not others:
        notes.fine(f"drafts agree {configured.words()}; there is no other special token to compare")
        return
    best = 0
    for index, agreement in enumerate(others):
        # the likelier ones come first: an untrained embedding may do as well as the right one
        if agreement.beats(others[best]):
            best = index
    other, words = candidates[best], f"{candidates[best]} agrees {others[best].words()}"
    if others[best].beats(configured):
        notes.wrong(
            f"as a mask token {words}, the configured {token} {configured.words()}",
            f"Set dflash_config.mask_token_id to {other} in {model.folder / 'config.json'}",
        )
    else:
        notes.fine(f"drafts agree {configured.words()}; the best of {len(others)} other special tokens, {words}")
