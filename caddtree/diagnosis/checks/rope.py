"""RoPE and positions: does the drafter rotate as it was trained, and does slot k sit where it sat then?"""

from __future__ import annotations

from typing import Any

import attrs

from caddtree.diagnosis.agreement import Agreement, DraftVariant, measure
from caddtree.diagnosis.evidence import DraftModel, Evidence
from caddtree.diagnosis.findings import Finding, Notes
from caddtree.diagnosis.not_applicable import without_checkpoint

NAME = "RoPE"


def check(evidence: Evidence) -> Finding:
    """Return whether another base, other positions, or full attention would do better."""
    model = evidence.draft_model
    if model is None:
        return without_checkpoint(NAME, evidence)
    notes, config = Notes(NAME), model.config
    spelled, targets = _spelled_bases(model.raw), _target_bases(evidence)
    bases = sorted({*spelled.values(), *targets} - {config.rope_theta})
    offsets = (-1, 1)
    variants = [DraftVariant(attrs.evolve(config, rope_theta=base)) for base in bases]
    variants += [DraftVariant(config, slot_offset=offset) for offset in offsets]
    if config.windows:
        variants.append(DraftVariant(attrs.evolve(config, windows=())))
    configured, *others = measure(evidence, model, variants)
    notes.figures |= {"base": config.rope_theta, "target_bases": targets, "configured": configured.to_dict()}
    _judge_bases(notes, model, configured, dict(zip(bases, others, strict=False)), targets, spelled)
    _judge_positions(notes, configured, dict(zip(offsets, others[len(bases) :], strict=False)))
    if config.windows:
        _judge_windows(notes, configured, others[-1])
    _check_reach(evidence, notes, model)
    return notes.finding()


def _spelled_bases(raw: dict[str, Any]) -> dict[str, float]:
    """Return the bases in the drafter's config by the field that they stand in: the old spelling and the new one."""
    found = {
        "rope_theta": raw.get("rope_theta"),
        "rope_parameters.rope_theta": _table(raw, "rope_parameters", "rope_theta"),
    }
    return {name: float(base) for name, base in found.items() if base is not None}


def _spelled_kinds(raw: dict[str, Any]) -> dict[str, str]:
    """Return the kinds of scaling likewise."""
    old = _table(raw, "rope_scaling", "rope_type") or _table(raw, "rope_scaling", "type")
    found = {"rope_scaling": old, "rope_parameters": _table(raw, "rope_parameters", "rope_type")}
    return {name: str(kind) for name, kind in found.items() if kind is not None}


def _table(raw: dict[str, Any], field: str, name: str) -> Any:
    table = raw.get(field)
    return table.get(name) if isinstance(table, dict) else None


def _target_bases(evidence: Evidence) -> list[float]:
    bases = {entry.get("rope_theta") for entry in _target_rope(evidence)}
    return sorted(float(base) for base in bases if base is not None)


def _target_rope(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the target's RoPE parameters, one entry, or one per kind of layer."""
    config = evidence.decoder.target.config
    parameters = getattr(config, "rope_parameters", None) or {"rope_theta": getattr(config, "rope_theta", None)}
    return [entry for entry in parameters.values() if isinstance(entry, dict)] or [parameters]


def _judge_bases(
    notes: Notes,
    model: DraftModel,
    configured: Agreement,
    others: dict[float, Agreement],
    targets: list[float],
    spelled: dict[str, float],
) -> None:
    base, file = model.config.rope_theta, model.folder / "config.json"
    for other, agreement in others.items():
        notes.figures[f"base {other:g}"] = agreement.to_dict()
    better = [other for other, agreement in others.items() if agreement.beats(configured)]
    if better:
        best = max(better, key=lambda other: others[other].mean_length)
        whose = "the target's base" if best in targets else "the base of the other field"
        notes.wrong(
            f"with {whose} {best:g} drafts agree {others[best].words()}, with the configured {base:g} "
            f"{configured.words()}",
            f"Set rope_theta, and rope_parameters.rope_theta, to {best:g} in {file}",
        )
    elif not others:
        notes.fine(f"base {base:g}, as the target's")
    else:
        shown = ", ".join(f"{other:g} {agreement.words()}" for other, agreement in others.items())
        words = f"base {base:g} agrees {configured.words()}; {shown}"
        if all(configured.beats(agreement) for agreement in others.values()):
            notes.fine(f"{words}: the configured one is that of the training")
        else:
            notes.attention(f"{words}: these texts do not tell which is right", "Measure on longer texts (--prompts)")
    if len(set(spelled.values())) > 1:
        fields = ", ".join(f"{name} {value:g}" for name, value in spelled.items())
        notes.attention(f"two bases in one file: {fields}; {base:g} counts", f"Make them one in {file}")
    kinds = _spelled_kinds(model.raw)
    if len(set(kinds.values())) > 1:
        fields = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        notes.attention(
            f"two kinds of scaling in one file: {fields}; the newer field counts", f"Make them one in {file}"
        )


def _judge_positions(notes: Notes, configured: Agreement, others: dict[int, Agreement]) -> None:
    for offset, agreement in others.items():
        notes.figures[f"slots moved by {offset:+d}"] = agreement.to_dict()
        if agreement.beats(configured):
            notes.wrong(
                f"slots moved by {offset:+d} agree {agreement.words()}, slot k at position context + k "
                f"{configured.words()}",
                "The drafter was trained with other positions than the format's: train with those of the format",
            )
            return
    moved = ", ".join(f"moved by {offset:+d} {agreement.words()}" for offset, agreement in others.items())
    notes.fine(f"slot k at position context + k agrees {configured.words()}; {moved}")


def _judge_windows(notes: Notes, configured: Agreement, without: Agreement) -> None:
    notes.figures["without windows"] = without.to_dict()
    if without.beats(configured):
        notes.wrong(
            f"full attention agrees {without.words()}, the configured sliding layers {configured.words()}",
            "Make every entry of layer_types full_attention in the drafter's config",
        )
    else:
        notes.fine(f"sliding layers agree {configured.words()}, full attention in their place {without.words()}")


def _check_reach(evidence: Evidence, notes: Notes, model: DraftModel) -> None:
    """Say where the two rotate differently although their bases are alike: scaling, and positions never trained."""
    scaled = [entry for entry in _target_rope(evidence) if entry.get("rope_type", "default") != "default"]
    for entry in scaled[:1]:
        notes.attention(
            f"the target scales its RoPE ({entry['rope_type']}), the drafter does not",
            "Expect acceptance to fall in long contexts; compare --prompts of both lengths",
        )
    limit, positions = model.config.max_position_embeddings, evidence.decoder.target.position_limit
    if limit < positions:
        notes.attention(
            f"the drafter's config knows {limit} positions, the target {positions}",
            f"Set target.context_limit to {limit}, or expect acceptance to fall beyond",
        )
