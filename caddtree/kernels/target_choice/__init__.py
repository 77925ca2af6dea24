"""What the target chooses at every node of a tree: arg-max, or sampling by keyed noise, where the logits are."""

from __future__ import annotations

from torch import Tensor

from caddtree.kernels import availability
from caddtree.kernels.target_choice import reference
from caddtree.kernels.target_choice.reference import gumbel_noise

__all__ = ["gumbel_noise", "target_choices"]


def target_choices(
    logits: Tensor,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    depths: Tensor | None = None,
    root_position: int | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what the target chooses after every row, and the row's largest logit.

    The choice is the arg-max of the raw logits, at a temperature above 0 that of the tempered logits plus noise
    keyed by (seed, position). Of equal scores the lowest token id wins. Where the largest logit is not finite, the
    choice is in range but means nothing.

    A row's result depends on the row alone, not on how many there are: a tree and plain decoding choose alike.

    Args:
        logits: ``(rows, vocabulary)`` floating point.
        temperature: 0 for the arg-max; the other options are read above 0 only.
        seed: 0 to 2**64 - 1.
        depths: ``(rows,)`` int64, how far each row is from the root; None where all rows are roots.
        root_position: Position of the root in the sequence; ``(1,)`` int64 where only the device knows it.

    Returns:
        Token ids ``(rows,)`` int64, and the largest logits ``(rows,)`` float32, NaN where a row holds NaN.

    Raises:
        ValueError: If a temperature above 0 comes without a position, which would repeat the noise.
    """
    if temperature > 0 and root_position is None:
        raise ValueError("choices at a temperature above 0 need root_position: the noise is keyed by position")
    choose = reference.target_choices
    if logits.numel() > 0 and availability.takes_triton(logits):
        from caddtree.kernels.target_choice import triton_kernel

        choose = triton_kernel.target_choices
    return choose(logits, temperature=temperature, seed=seed, depths=depths, root_position=root_position)
