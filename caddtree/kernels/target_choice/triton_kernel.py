"""The same in two launches: the best of every split of the vocabulary, then the best of the splits."""

# Triton's decorator and its functions carry no types
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from caddtree.kernels.launch import Launch, SplitAndMerge
from caddtree.kernels.target_choice import reference

_SPLIT = 1024
"""Tokens per program: 149 programs a row for a vocabulary of 151,936."""

# Triton reads a global only if it is declared constant
_GOLDEN = tl.constexpr(reference.GOLDEN)
_MIX_1 = tl.constexpr(reference.MIX_1)
_MIX_2 = tl.constexpr(reference.MIX_2)


@functools.cache
def launch_plan(rows: int, vocabulary: int, *, is_sampled: bool, is_root_on_device: bool) -> SplitAndMerge:
    """Return how the kernels are launched for these sizes."""
    # the splits never follow the number of rows: a row alone must be rounded as it is in a tree
    num_splits = triton.cdiv(vocabulary, _SPLIT)
    flags = {"IS_SAMPLED": is_sampled, "IS_ROOT_ON_DEVICE": is_root_on_device}
    split = Launch((rows, num_splits), {"SPLIT": _SPLIT, **flags}, 4)
    return SplitAndMerge(split, Launch((rows,), {"SPLITS": triton.next_power_of_2(num_splits), **flags}, 1))


def target_choices(
    logits: Tensor,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    depths: Tensor | None = None,
    root_position: int | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what the reference does; there is at least one logit."""
    if logits.stride(-1) != 1:
        logits = logits.contiguous()
    depths = None if depths is None else depths.contiguous()
    if temperature == 0 or root_position is None:
        # what is not read must not make Triton compile a kernel of its own for it
        depths, root_position = None, 0
    rows, vocabulary = logits.shape
    is_on_device = isinstance(root_position, Tensor)
    plan = launch_plan(rows, vocabulary, is_sampled=temperature > 0, is_root_on_device=is_on_device)
    split, merge, num_splits = plan.split, plan.merge, plan.split.grid[1]
    maxima = torch.empty((rows, num_splits), dtype=torch.float32, device=logits.device)
    winners = torch.empty((rows, num_splits), dtype=torch.int32, device=logits.device)
    choices = torch.empty(rows, dtype=torch.int64, device=logits.device)
    best = torch.empty(rows, dtype=torch.float32, device=logits.device)
    # an integer would make Triton compile a kernel of its own for 1
    divisor = float(max(temperature, reference.SMALLEST_TEMPERATURE))
    key = (divisor, reference.seed_stream(seed), depths, root_position)
    # Triton launches on the current device
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        _choice_split_kernel[split.grid](
            logits, maxima, winners, vocabulary, logits.stride(0), *key,
            **split.constexprs, num_warps=split.num_warps,
        )  # fmt: skip
        _choice_merge_kernel[merge.grid](
            logits, maxima, winners, choices, best, num_splits, logits.stride(0), *key,
            **merge.constexprs, num_warps=merge.num_warps,
        )  # fmt: skip
    return choices, best


@triton.jit(do_not_specialize=["seed_stream", "root_position"])
def _choice_split_kernel(
    logits_ptr,  # (rows, vocabulary) floating point
    maxima_ptr,  # (rows, splits) float32, written: NaN where the split holds one
    winners_ptr,  # (rows, splits) int32, written: the token each split would choose
    vocabulary,
    row_stride,
    temperature,
    seed_stream: tl.int64,
    depths_ptr,  # (rows,) int64 or None
    root_position,  # integer, or pointer to (1,) int64
    SPLIT: tl.constexpr,
    IS_SAMPLED: tl.constexpr,
    IS_ROOT_ON_DEVICE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * SPLIT
    tokens = start + tl.arange(0, SPLIT)  # [SPLIT]
    # behind the vocabulary -inf stands, which stays -inf under any noise
    logits_ptr += row * row_stride
    logits = tl.load(logits_ptr + tokens, mask=tokens < vocabulary, other=-float("inf")).to(tl.float32)
    maximum = tl.max(logits, axis=0)
    scores = logits
    if IS_SAMPLED:
        # the row's maximum is not known yet; from that of the split, tokens are ranked alike, unless two of the best
        # are so near that the last bit decides. Between splits, the merge computes what the reference does
        stream = _stream(seed_stream, depths_ptr, root_position, row, IS_ROOT_ON_DEVICE)
        scores = tl.math.div_rn(logits - maximum, temperature) + gumbel_noise(stream, tokens)
    winner = tl.argmax(scores, axis=0, tie_break_left=True)
    place = row * tl.num_programs(1) + tl.program_id(1)
    # where scores are NaN, a device may choose any place, also one behind the vocabulary
    tl.store(winners_ptr + place, tl.minimum(start + winner, vocabulary - 1))
    tl.store(maxima_ptr + place, _nan_or(maximum, logits))


@triton.jit(do_not_specialize=["num_splits", "seed_stream", "root_position"])
def _choice_merge_kernel(
    logits_ptr,  # (rows, vocabulary) floating point
    maxima_ptr,  # (rows, splits) float32
    winners_ptr,  # (rows, splits) int32
    choices_ptr,  # (rows,) int64, written
    best_ptr,  # (rows,) float32, written
    num_splits,
    row_stride,
    temperature,
    seed_stream: tl.int64,
    depths_ptr,  # (rows,) int64 or None
    root_position,  # integer, or pointer to (1,) int64
    SPLITS: tl.constexpr,
    IS_SAMPLED: tl.constexpr,
    IS_ROOT_ON_DEVICE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    splits = tl.arange(0, SPLITS)  # [SPLITS]
    is_split = splits < num_splits
    maxima = tl.load(maxima_ptr + row * num_splits + splits, mask=is_split, other=-float("inf"))
    # behind the splits token 0 stands, which the first split has weighed already
    winners = tl.load(winners_ptr + row * num_splits + splits, mask=is_split, other=0)
    maximum = tl.max(maxima, axis=0)
    scores = maxima
    if IS_SAMPLED:
        stream = _stream(seed_stream, depths_ptr, root_position, row, IS_ROOT_ON_DEVICE)
        logits = tl.load(logits_ptr + row * row_stride + winners).to(tl.float32)
        scores = tl.math.div_rn(logits - maximum, temperature) + gumbel_noise(stream, winners)
    # of equal scores the first split has the lowest token
    chosen = tl.argmax(scores, axis=0, tie_break_left=True)
    tl.store(choices_ptr + row, tl.sum(tl.where(splits == chosen, winners, 0), axis=0).to(tl.int64))
    tl.store(best_ptr + row, _nan_or(maximum, maxima))


@triton.jit
def gumbel_noise(stream, tokens):
    """Return the noise of some tokens, float32, as the reference does for all of them."""
    bits = keyed_bits(tokens + 1, stream)
    # 52 bits and a half: never 0, never rounded to 1, so both logarithms are finite
    uniform = ((bits >> 12).to(tl.float64) + 0.5) * 2.220446049250313e-16
    return (-tl.log(-tl.log(uniform))).to(tl.float32)


@triton.jit
def keyed_bits(counter, stream):
    """Return splitmix64's output at a counter of a stream, uint64."""
    value = counter.to(tl.uint64) * _GOLDEN + stream.to(tl.uint64)
    value = (value ^ (value >> 30)) * _MIX_1
    value = (value ^ (value >> 27)) * _MIX_2
    return value ^ (value >> 31)


@triton.jit
def _stream(seed_stream, depths_ptr, root_position, row, IS_ROOT_ON_DEVICE: tl.constexpr):
    if IS_ROOT_ON_DEVICE:
        position = tl.load(root_position)
    else:
        position = root_position.to(tl.int64)
    if depths_ptr is not None:
        position += tl.load(depths_ptr + row)
    return keyed_bits(position + 1, seed_stream)


@triton.jit
def _nan_or(maximum, values):
    # on some devices a maximum passes over NaN
    return tl.where(tl.max((values != values).to(tl.int32), axis=0) > 0, float("nan"), maximum)
