"""Types of the weights: what they cost here, and what they do to near ties."""

from __future__ import annotations

import time

import torch
from torch import nn

from caddtree.core.target import Target
from caddtree.diagnosis.agreement import layer_outputs
from caddtree.diagnosis.evidence import Evidence
from caddtree.diagnosis.findings import Finding, Notes, percent
from caddtree.kernels.linear import FastLinears

NAME = "dtype"

_SIXTEEN_BITS = (torch.bfloat16, torch.float16)
_ROWS = 16
"""A tree of 15 draft nodes, about what a CPU verifies at once."""
_REPEATS = 7
_SLOWER = 1.15
"""Repeated products on a busy machine differ by several percent; below, the type is not what to look at."""


def check(evidence: Evidence) -> Finding:
    """Return the types of target and drafter, the cost of 16 bits on a CPU, and how many choices are near ties."""
    notes, target = Notes(NAME), evidence.decoder.target
    drafters = None if evidence.draft_model is None else evidence.draft_model.network.norm.weight.dtype
    notes.figures |= {"target": _word(target.dtype), "drafter": None if drafters is None else _word(drafters)}
    words = f"target {_word(target.dtype)}" + ("" if drafters is None else f", drafter {_word(drafters)}")
    if torch.float16 in (target.dtype, drafters):
        notes.attention(
            f"{words}: float16 ends at 65504, and models that were trained in bfloat16 go beyond",
            "Use bfloat16 or float32, unless the model was trained in float16",
        )
    else:
        notes.fine(words)
    if target.dtype in _SIXTEEN_BITS:
        if target.device.type == "cpu":
            _check_speed(notes, target)
        _count_near_ties(evidence, notes)
    else:
        notes.fine("greedy tokens are those of plain decoding")
    return notes.finding()


def _check_speed(notes: Notes, target: Target) -> None:
    slow, fast = _product_seconds(target, target.dtype), _product_seconds(target, torch.float32)
    notes.figures["times_float32"] = slow / fast
    words = f"a product of {_ROWS} rows takes {slow / fast:.1f} times as long as in float32 here"
    if slow > _SLOWER * fast:
        notes.attention(words, "Set target.dtype to float32, which is exact as well")
    else:
        notes.fine(words)


@torch.inference_mode()
def _product_seconds(target: Target, dtype: torch.dtype) -> float:
    """Return the best of a few products with a weight like those of the layers, run as decoding runs it."""
    width = getattr(target.config, "intermediate_size", None) or 4 * target.hidden_size
    layer = nn.Linear(target.hidden_size, width, bias=False, dtype=dtype)
    rows = torch.ones(_ROWS, target.hidden_size, dtype=dtype)
    seconds = []
    with FastLinears(layer):
        for _ in range(_REPEATS):
            started = time.perf_counter()
            layer(rows)
            seconds.append(time.perf_counter() - started)
    return min(seconds)


@torch.inference_mode()
def _count_near_ties(evidence: Evidence, notes: Notes) -> None:
    """Count tokens whose logit leads by no more than one step of the type: another batch shape may choose otherwise."""
    target, num_ties, num_tokens = evidence.decoder.target, 0, 0
    for text in evidence.decoded():
        hidden = layer_outputs(target, text.tokens, [target.num_layers])[target.num_layers]
        best = target.head_logits(hidden[text.num_prompt - 1 : -1]).float().topk(2, dim=-1).values
        # host sync: one count per text
        num_ties += int((best[:, 0] - best[:, 1] <= best[:, 0].abs() * torch.finfo(target.dtype).eps).sum())
        num_tokens += len(best)
    share = num_ties / max(1, num_tokens)
    notes.figures["near_tie_share"] = share
    notes.fine(
        f"{percent(share)} of tokens are near ties, which may fall the other way where the shape of a batch changes: "
        "texts can differ from plain decoding there, acceptance hardly"
    )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
