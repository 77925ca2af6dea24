"""The likeliest tokens of every drafted position: log-softmax and top-k in one pass over the logits."""

from __future__ import annotations

from torch import Tensor

from caddtree.kernels import availability
from caddtree.kernels.candidates import reference

__all__ = ["LARGEST_KERNEL_WIDTH", "best_candidates"]

LARGEST_KERNEL_WIDTH = 64
"""A wider choice costs the kernel more registers than it has; plain torch makes it, far from every round."""


def best_candidates(logits: Tensor, width: int, *, temperature: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the likeliest tokens of every row, normalised over the whole vocabulary.

    The order is that of the raw logits; a temperature changes the probabilities only. Of equal logits the lower
    token id comes first. A row with fewer tokens above -inf than ``width`` ends in log-probabilities of -inf,
    whose tokens are in range but mean nothing. A row that holds NaN or +inf has no log-probability but NaN.

    Args:
        logits: ``(rows, vocabulary)`` floating point.
        width: Candidates per row.
        temperature: 0 for the distribution of the logits as they are; above, they are divided by it.

    Returns:
        Token ids ``(rows, width)`` int64 and log-probabilities ``(rows, width)`` float32, best first.
    """
    is_within_reach = 0 < width <= LARGEST_KERNEL_WIDTH and logits.numel() > 0
    if is_within_reach and availability.takes_triton(logits):
        from caddtree.kernels.candidates import triton_kernel

        return triton_kernel.best_candidates(logits, width, temperature=temperature)
    return reference.best_candidates(logits, width, temperature=temperature)
