"""The same in two launches: the best of every split of the vocabulary, then the best of the splits."""

# Triton's decorator and its functions carry no types
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from caddtree.kernels.candidates.reference import SMALLEST_TEMPERATURE
from caddtree.kernels.launch import Launch, SplitAndMerge

_COLUMNS = 128
_STEPS = 16
"""One split is ``_STEPS`` rows of ``_COLUMNS`` tokens: 75 splits of 2,048 tokens for a vocabulary of 151,936."""

# Triton reads a global only if it is declared constant
_PADDING = tl.constexpr(-(1 << 63))
"""The key of no token: below that of every logit, -inf and NaN included."""
_LARGEST_TOKEN = tl.constexpr((1 << 31) - 1)
_NEGATIVE_ZERO = tl.constexpr(-(1 << 31))


@functools.cache
def launch_plan(rows: int, vocabulary: int, width: int) -> SplitAndMerge:
    """Return how the kernels are launched for these sizes."""
    # tl.topk takes powers of two from 2 on
    padded_width = max(triton.next_power_of_2(width), 2)
    columns = max(_COLUMNS, padded_width)
    num_splits = triton.cdiv(vocabulary, _STEPS * columns)
    sizes = {"WIDTH": padded_width, "COLUMNS": columns, "STEPS": _STEPS}
    merge = {**sizes, "SPLITS": max(triton.next_power_of_2(num_splits), padded_width)}
    # one warp sorts by shuffles alone, without a barrier; with more keys in a thread registers would spill
    merge_warps = max(padded_width**2 // (32 * 8), 1)
    return SplitAndMerge(Launch((rows, num_splits), sizes, 1), Launch((rows,), merge, merge_warps))


def best_candidates(logits: Tensor, width: int, *, temperature: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return what the reference does; ``width`` is 1 to 64, and there is at least one logit."""
    if logits.stride(-1) != 1:
        logits = logits.contiguous()
    rows, vocabulary = logits.shape
    plan = launch_plan(rows, vocabulary, width)
    split, merge, num_splits = plan.split, plan.merge, plan.split.grid[1]
    keys = torch.empty((rows, num_splits, split.constexprs["WIDTH"]), dtype=torch.int64, device=logits.device)
    maxima = torch.empty((rows, num_splits), dtype=torch.float32, device=logits.device)
    sums = torch.empty((rows, num_splits), dtype=torch.float32, device=logits.device)
    tokens = torch.empty((rows, width), dtype=torch.int64, device=logits.device)
    log_probs = torch.empty((rows, width), dtype=torch.float32, device=logits.device)
    inverse_temperature = 1.0 / max(temperature, SMALLEST_TEMPERATURE) if temperature > 0 else 1.0
    # Triton launches on the current device
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        _candidates_split_kernel[split.grid](
            logits, keys, maxima, sums, vocabulary, logits.stride(0), inverse_temperature,
            **split.constexprs, num_warps=split.num_warps,
        )  # fmt: skip
        _candidates_merge_kernel[merge.grid](
            keys, maxima, sums, tokens, log_probs, num_splits, width, inverse_temperature,
            **merge.constexprs, num_warps=merge.num_warps,
        )  # fmt: skip
    return tokens, log_probs


@triton.jit
def _candidates_split_kernel(
    logits_ptr,  # (rows, vocabulary) floating point
    keys_ptr,  # (rows, splits, WIDTH) int64, written: the best of each split, best first
    maxima_ptr,  # (rows, splits) float32, written
    sums_ptr,  # (rows, splits) float32, written: sum of exp((logit - maximum) / temperature)
    vocabulary,
    row_stride,
    inverse_temperature,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * STEPS * COLUMNS
    logits_ptr += row * row_stride
    steps = tl.arange(0, STEPS) * COLUMNS
    tokens = start + steps[:, None] + tl.arange(0, COLUMNS)[None, :]  # [STEPS, COLUMNS]
    logits = _load_logits(logits_ptr, tokens, vocabulary)
    maximum = tl.max(tl.max(logits, axis=1), axis=0)
    # NaN stays NaN, and +inf minus itself becomes it, as in a log-softmax
    terms = tl.exp((logits - _base(maximum)) * inverse_temperature)
    total = tl.sum(tl.sum(terms, axis=1), axis=0)
    best = tl.max(_pack(logits, tokens, vocabulary), axis=0)  # [COLUMNS]

    # the best tokens of a split lie in the columns with the best maxima: only those are sorted
    chosen = tl.topk(best, WIDTH)  # [WIDTH]
    first = tl.where(chosen == _PADDING, vocabulary, start + (_token(chosen) - start) % COLUMNS)
    tokens = first[:, None] + steps[None, :]  # [WIDTH, STEPS]
    keys = _pack(_load_logits(logits_ptr, tokens, vocabulary), tokens, vocabulary)
    keys = tl.topk(tl.reshape(keys, [WIDTH * STEPS]), WIDTH)  # [WIDTH]

    place = row * tl.num_programs(1) + tl.program_id(1)
    tl.store(keys_ptr + place * WIDTH + tl.arange(0, WIDTH), keys)
    tl.store(maxima_ptr + place, maximum)
    tl.store(sums_ptr + place, total)


@triton.jit(do_not_specialize=["num_splits", "width"])
def _candidates_merge_kernel(
    keys_ptr,  # (rows, splits, WIDTH) int64
    maxima_ptr,  # (rows, splits) float32
    sums_ptr,  # (rows, splits) float32
    tokens_ptr,  # (rows, width) int64, written
    log_probs_ptr,  # (rows, width) float32, written
    num_splits,
    width,
    inverse_temperature,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    splits = tl.arange(0, SPLITS)  # [SPLITS]
    is_split = splits < num_splits
    places = tl.arange(0, WIDTH)  # [WIDTH]
    keys_ptr += row * num_splits * WIDTH

    # as within a split: the best keys lie in the splits with the best first keys
    leaders = tl.load(keys_ptr + splits.to(tl.int64) * WIDTH, mask=is_split, other=_PADDING)
    leaders = tl.topk(leaders, WIDTH)
    chosen = (_token(leaders) // (STEPS * COLUMNS)).to(tl.int64)
    addresses = keys_ptr + chosen[:, None] * WIDTH + places[None, :]  # [WIDTH, WIDTH]
    keys = tl.load(addresses, mask=(leaders != _PADDING)[:, None], other=_PADDING)
    keys = tl.topk(tl.reshape(keys, [WIDTH * WIDTH]), WIDTH)  # [WIDTH]

    maxima = tl.load(maxima_ptr + row * num_splits + splits, mask=is_split, other=-float("inf"))
    sums = tl.load(sums_ptr + row * num_splits + splits, mask=is_split, other=0.0)
    maximum = _base(tl.max(maxima, axis=0))
    total = tl.sum(sums * tl.exp((maxima - maximum) * inverse_temperature), axis=0)
    logits = _logit(keys)
    is_token = keys != _PADDING
    log_probs = (logits - maximum) * inverse_temperature - tl.log(total)
    log_probs = tl.where(is_token & (logits > -float("inf")), log_probs, -float("inf"))
    log_probs = tl.where(total == total, log_probs, float("nan"))
    outputs = row * width + places
    tl.store(tokens_ptr + outputs, tl.where(is_token, _token(keys), 0).to(tl.int64), mask=places < width)
    tl.store(log_probs_ptr + outputs, log_probs, mask=places < width)


@triton.jit
def _base(maximum):
    # logits of -inf alone would leave NaN in their differences; from 0 down they sum to 0
    return tl.where(maximum == -float("inf"), 0.0, maximum)


@triton.jit
def _load_logits(logits_ptr, tokens, vocabulary):
    return tl.load(logits_ptr + tokens, mask=tokens < vocabulary, other=-float("inf")).to(tl.float32)


@triton.jit
def _pack(logits, tokens, vocabulary):
    """Return int64 keys that sort as (logit, lower token id first), one per token, none equal to another."""
    bits = logits.to(tl.int32, bitcast=True)
    # the two zeros are one logit
    bits = tl.where(bits == _NEGATIVE_ZERO, 0, bits)
    # the bits of a negative float fall as it rises: turn all but the sign
    ordered = bits ^ ((bits >> 31) & _LARGEST_TOKEN)
    keys = (ordered.to(tl.int64) << 32) | (tokens ^ _LARGEST_TOKEN).to(tl.int64)
    return tl.where(tokens < vocabulary, keys, _PADDING)


@triton.jit
def _token(keys):
    return (keys & _LARGEST_TOKEN).to(tl.int32) ^ _LARGEST_TOKEN


@triton.jit
def _logit(keys):
    ordered = (keys >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & _LARGEST_TOKEN)).to(tl.float32, bitcast=True)
