"""Layer ids: does the drafter see the layers of the target that it was trained on?"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from caddtree.diagnosis.agreement import FEWEST_PLACES, Agreement, DraftVariant, measure
from caddtree.diagnosis.evidence import DraftModel, Evidence
from caddtree.diagnosis.findings import Finding, Notes
from caddtree.diagnosis.not_applicable import without_checkpoint

NAME = "layer ids"

_NUM_TOKENS = 96
_SAME = 0.1
"""Relative distance of one tensor computed twice: rounding in 16 bits adds up to a few percent over a deep model."""
_HALF = 0.5


def check(evidence: Evidence) -> Finding:
    """Return whether what is tapped is what the ids say, and whether ids one lower or higher would do better."""
    model = evidence.draft_model
    if model is None:
        return without_checkpoint(NAME, evidence)
    notes = Notes(NAME)
    _check_taps(evidence, notes, model)
    _check_neighbours(evidence, notes, model)
    return notes.finding()


@torch.inference_mode()
def _check_taps(evidence: Evidence, notes: Notes, model: DraftModel) -> None:
    """Compare what decoding taps with the outputs of every layer, run by hand without cache."""
    target, ids = evidence.decoder.target, model.config.target_layer_ids
    tokens = evidence.decoded()[0].tokens[:_NUM_TOKENS]
    chunks: list[Tensor] = []
    target.prefill(target.start(len(tokens)), tokens, lambda _, rows: chunks.append(rows) if rows is not None else None)
    if not chunks or chunks[0].shape[1] != len(ids) * target.hidden_size:
        width = chunks[0].shape[1] if chunks else 0
        notes.wrong(
            f"decoding taps {width} numbers per token, {len(ids)} layers of {target.hidden_size} would be "
            f"{len(ids) * target.hidden_size}",
            "Another decoder took the taps of this target off: give each a Target of its own",
        )
        return
    tapped = dict(zip(ids, torch.cat(chunks).chunk(len(ids), dim=-1), strict=True))
    raw = _outputs_by_hand(evidence, tokens)
    largest = 0.0
    for layer, rows in tapped.items():
        distances = torch.stack([(rows - other).norm() / other.norm() for other in raw])
        # host sync: a few numbers
        nearest, distance = int(distances.argmin()), float(distances.min())
        largest = max(largest, distance)
        if nearest != layer or not distance < _SAME:
            notes.wrong(
                f"what is tapped as layer {layer} is nearest to {_layer_name(nearest, target.num_layers)} "
                f"(relative distance {distance:.2g}), not to the raw output of layer {layer} "
                f"({float(distances[layer]):.2g})",
                "Something else hooks the target's layers, or replaced them: load the model anew",
            )
            return
    notes.figures["tap_distance"] = largest
    notes.fine(
        f"{list(ids)} of {target.num_layers} layers arrive as their raw outputs (within {largest:.1g} of a run by hand)"
    )


def _outputs_by_hand(evidence: Evidence, tokens: tuple[int, ...]) -> list[Tensor]:
    """Return the raw outputs of all layers, and last what the final norm makes of them."""
    target = evidence.decoder.target
    kept: list[Tensor] = []

    def keep(_module: object, _arguments: object, output: object) -> None:
        rows = output[0] if isinstance(output, tuple) else output
        assert isinstance(rows, Tensor)
        kept.append(rows[0])

    handles = [layer.register_forward_hook(keep) for layer in target.layers]
    try:
        ids = torch.tensor([tokens], device=target.device)
        output = target.model.get_decoder()(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [*kept, output.last_hidden_state[0]]


def _layer_name(index: int, num_layers: int) -> str:
    return "the output of the final norm" if index == num_layers else f"the raw output of layer {index}"


def _check_neighbours(evidence: Evidence, notes: Notes, model: DraftModel) -> None:
    num_layers, ids = evidence.decoder.target.num_layers, model.config.target_layer_ids
    candidates = _candidates(ids, num_layers)
    # layers of quite another depth: what a drafter can do without those that it was trained on
    control = tuple((layer + num_layers // 2) % num_layers for layer in ids)
    variants = [
        DraftVariant(attrs.evolve(model.config, target_layer_ids=layers)) for layers in [*candidates.values(), control]
    ]
    configured, *others, with_control = measure(evidence, model, variants)
    notes.figures |= {"configured": configured.to_dict(), "control": {"layers": control, **with_control.to_dict()}}
    for (words, layers), agreement in zip(candidates.items(), others, strict=True):
        notes.figures[words] = {"layers": layers, **agreement.to_dict()}
    if len(configured.lengths) < FEWEST_PLACES:
        notes.attention(
            f"only {len(configured.lengths)} places to measure agreement at, {FEWEST_PLACES} say something",
            "Give more or longer prompts (--prompts)",
        )
        return
    better = [index for index, agreement in enumerate(others) if agreement.beats(configured)]
    if better:
        best = max(better, key=lambda index: others[index].mean_length)
        _tell_better(notes, model, list(candidates.values())[best], others[best], configured, num_layers)
    elif control != ids and not configured.beats(with_control):
        _tell_indifferent(notes, configured, f"with layers {list(control)} {with_control.words()}")
    else:
        tried = zip(candidates.items(), others, strict=True)
        lines = [f"{words} {list(layers)} {agreement.words()}" for (words, layers), agreement in tried]
        notes.fine(f"drafts agree {configured.words()}; {', '.join(lines)}, far off {with_control.words()}")


def _tell_indifferent(notes: Notes, configured: Agreement, control: str) -> None:
    words = f"drafts agree {configured.words()}, and {control}"
    if configured.first_share < _HALF:
        notes.wrong(
            f"{words}: the drafter makes nothing of the target's layers",
            "Try text of its training (--prompts); if nothing changes there, it was made for another target or other "
            "layers, or its weights are not those of the training",
        )
    else:
        # a text that repeats itself can be drafted from its last token
        notes.attention(
            f"{words}: these texts do not tell layers apart", "Give prompts whose answers do not loop (--prompts)"
        )


def _candidates(ids: tuple[int, ...], num_layers: int) -> dict[str, tuple[int, ...]]:
    """Return the layer ids that may have been meant; where a shift would leave the model, the layer stays."""
    found = {
        "one lower": tuple(max(0, layer - 1) for layer in ids),
        "one higher": tuple(min(num_layers - 1, layer + 1) for layer in ids),
    }
    if ids[-1] == num_layers - 1:
        found["the last behind the final norm"] = (*ids[:-1], num_layers)
    return found


def _tell_better(
    notes: Notes,
    model: DraftModel,
    layers: tuple[int, ...],
    agreement: Agreement,
    configured: Agreement,
    num_layers: int,
) -> None:
    found = (
        f"layers {list(layers)} agree {agreement.words()}, the configured {list(model.config.target_layer_ids)} "
        f"{configured.words()}"
    )
    if layers[-1] == num_layers:
        notes.wrong(
            f"{found}, with {num_layers} for the output of the final norm: the drafter was trained on that",
            "The format means raw layer outputs: train on those, as `caddtree train drafter` does",
        )
    else:
        advice = f"Set dflash_config.target_layer_ids to {list(layers)} in {model.folder / 'config.json'}"
        notes.wrong(f"{found}: off by one", advice)
