"""The target's choice at every row in plain torch: the definition, and that of the keyed noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST_TEMPERATURE = 1e-37
"""Scores are float32: a smaller temperature would be rounded to 0."""

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
_MASK_64 = (1 << 64) - 1


def target_choices(
    logits: Tensor,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    depths: Tensor | None = None,
    root_position: int | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return token ids and largest logits, ``(rows,)``, as the door promises them."""
    logits = logits.float()
    best = logits.amax(dim=-1)
    if temperature == 0:
        return logits.argmax(dim=-1), best
    rows, vocabulary = logits.shape
    zeros = torch.zeros(rows, dtype=torch.int64, device=logits.device)
    positions = zeros + (0 if depths is None else depths) + (0 if root_position is None else root_position)
    # from the best logit down: a tiny temperature must not overflow it
    scores = (logits - best[:, None]) / max(temperature, SMALLEST_TEMPERATURE)
    return (scores + gumbel_noise(seed, positions, vocabulary, logits.device)).argmax(dim=-1), best


def gumbel_noise(
    seed: int, positions: Sequence[int] | Tensor, vocabulary_size: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Return standard Gumbel noise, one row per position, the same on every device.

    A counter-based generator: splitmix64 with a stream per (seed, position) and the token id as its counter.

    Args:
        seed: 0 to 2**64 - 1.
        positions: Positions of the nodes at which choices are made; a tensor is ``(rows,)`` int64.
        vocabulary_size: Values per row.
        device: Where to make it.

    Returns:
        ``(len(positions), vocabulary_size)`` float32.

    Source: Steele et al., "Fast splittable pseudorandom number generators" (splitmix64).
    """
    bits = keyed_bits(seed, torch.as_tensor(positions, dtype=torch.int64, device=device), vocabulary_size)
    # 52 bits and a half: never 0, never rounded to 1, so both logarithms are finite
    uniform = (_shift_right(bits, 12).double() + 0.5) * 2.0**-52
    return (-torch.log(-torch.log(uniform))).float()


def keyed_bits(seed: int, positions: Tensor, vocabulary_size: int) -> Tensor:
    """Return the 64 random bits behind every value of the noise, ``(rows, vocabulary_size)`` int64."""
    streams = _mix(positions + 1, added=seed_stream(seed))
    counter = torch.arange(1, vocabulary_size + 1, dtype=torch.int64, device=positions.device)
    return _mix(counter, added=streams[:, None])


def seed_stream(seed: int) -> int:
    """Return the stream that a seed starts, as a signed number of 64 bits; positions branch off from it."""
    value = seed & _MASK_64
    value = ((value ^ (value >> 30)) * MIX_1) & _MASK_64
    value = ((value ^ (value >> 27)) * MIX_2) & _MASK_64
    return _signed(value ^ (value >> 31))


def _mix(counter: Tensor, added: Tensor | int) -> Tensor:
    # int64 wraps around as the generator's unsigned numbers do
    value = counter * _signed(GOLDEN) + added
    value = (value ^ _shift_right(value, 30)) * _signed(MIX_1)
    value = (value ^ _shift_right(value, 27)) * _signed(MIX_2)
    mixed: Tensor = value ^ _shift_right(value, 31)
    return mixed


def _shift_right(value: Tensor, count: int) -> Tensor:
    # int64 shifts arithmetically; the mask drops the copies of the sign bit
    return (value >> count) & ((1 << (64 - count)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
