"""Vocabulary: do tokenizer, target and drafter mean the same tokens by the same ids?"""

from __future__ import annotations

from caddtree.diagnosis.agreement import measure
from caddtree.diagnosis.evidence import DraftModel, Evidence
from caddtree.diagnosis.findings import Finding, Notes, percent

NAME = "vocabulary"

_HALF = 0.5


def check(evidence: Evidence) -> Finding:
    """Return the sizes of the vocabularies, and whether the drafter was trained for this one."""
    notes, target = Notes(NAME), evidence.decoder.target
    notes.figures |= {"tokens": target.num_tokens, "target_rows": target.vocabulary_size}
    _check_tokenizer(evidence, notes)
    if evidence.draft_model is not None:
        _check_sizes(evidence, notes, evidence.draft_model)
        _check_fingerprint(evidence, notes, evidence.draft_model)
    return notes.finding()


def _check_tokenizer(evidence: Evidence, notes: Notes) -> None:
    target, tokenizer = evidence.decoder.target, evidence.decoder.tokenizer
    rows = target.vocabulary_size
    if tokenizer is None:
        notes.attention(f"the target has {rows} rows, and no tokenizer to compare", "Give the decoder its tokenizer")
        return
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        notes.wrong(
            f"the tokenizer gives ids up to {largest}, but the target has {rows} rows",
            "This is the tokenizer of another model, or tokens were added without resizing the embedding",
        )
    else:
        notes.fine(f"{len(tokenizer)} tokens in {rows} rows of the target, {rows - largest - 1} of them padding")


def _check_sizes(evidence: Evidence, notes: Notes, model: DraftModel) -> None:
    drafters, targets = model.config.vocabulary_size, evidence.decoder.target.vocabulary_size
    notes.figures["drafter_vocab_size"] = drafters
    # what differs by more than padding was refused when the pair was loaded
    if drafters == targets:
        notes.fine(f"the drafter's vocab_size is {drafters} as well")
    else:
        notes.fine(f"the drafter's vocab_size is {drafters}, which differs by padding alone")


def _check_fingerprint(evidence: Evidence, notes: Notes, model: DraftModel) -> None:
    recorded, found = model.config.target_fingerprint, evidence.decoder.target.fingerprint
    notes.figures |= {"recorded_fingerprint": recorded, "target_fingerprint": found}
    if not recorded or not found:
        notes.fine("the drafter does not record the target it was trained for")
        return
    if recorded == found:
        notes.fine(f"the drafter was trained for this very target (fingerprint {found:.12})")
        return
    [agreement] = measure(evidence, model, [])
    words = f"the drafter was trained for another target: it records {recorded:.12}, this one is {found:.12}"
    advice = "Use the target, with the tokenizer, that it was trained for, or train a drafter for this one"
    if agreement.first_share < _HALF:
        notes.wrong(f"{words}, and {percent(agreement.first_share)} of its first tokens agree", advice)
    else:
        # a token that was added to the tokenizer is enough to change it
        notes.attention(f"{words}; all the same {percent(agreement.first_share)} of its first tokens agree", advice)
