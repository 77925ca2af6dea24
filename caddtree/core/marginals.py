"""Per-position draft distributions, kept as the best candidates of every position."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from caddtree.core.errors import InputError

DEFAULT_WIDTH = 16
"""Candidates kept per position before a builder asks for more: enough in nearly every round."""


@attrs.frozen(eq=False)
class Marginals:
    """Candidates of one draft block, best first, normalised over the whole vocabulary.

    Row ``d`` belongs to depth ``d + 1``. Equal probabilities are ordered by token id, so that a result is
    reproducible. Where a row has fewer candidates than ``width``, ``log_probs`` is ``-inf`` and the token
    means nothing.
    """

    tokens: Tensor  # (depth, width) int64
    log_probs: Tensor  # (depth, width) float32, non-increasing along a row
    wider: Callable[[int], Marginals] | None = None

    def __attrs_post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.tokens.shape != self.log_probs.shape:
            raise InputError(
                f"marginals need tokens and log_probs of one (depth, width) shape, "
                f"found {tuple(self.tokens.shape)} and {tuple(self.log_probs.shape)}"
            )

    @classmethod
    def from_logits(cls, logits: Tensor, width: int = DEFAULT_WIDTH, *, temperature: float = 0.0) -> Marginals:
        """Return the best candidates of every row.

        Args:
            logits: ``(depth, vocabulary)`` floating point; the marginals can widen while it lives.
            width: Candidates per row; clipped to the vocabulary.
            temperature: Sampling temperature of the request; above zero the drafter is tempered alike.
        """
        logits = logits.float()
        if temperature > 0:
            logits = logits / temperature
        log_normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
        return _best(logits, log_normaliser, width)

    @property
    def depth(self) -> int:
        """Number of drafted positions."""
        return self.tokens.shape[0]

    @property
    def width(self) -> int:
        """Number of candidates kept per position."""
        return self.tokens.shape[1]

    def widen(self, width: int) -> Marginals:
        """Return marginals with ``width`` candidates per position, or the same ones if there are no more."""
        if width <= self.width or self.wider is None:
            return self
        return self.wider(width)

    def clip(self, depth: int) -> Marginals:
        """Return the marginals of the first ``depth`` positions."""
        if depth >= self.depth:
            return self
        wider = self.wider
        return Marginals(
            self.tokens[:depth],
            self.log_probs[:depth],
            None if wider is None else lambda width: wider(width).clip(depth),
        )

    def is_usable(self) -> bool:
        """Tell whether every number is a log-probability: no NaN, nothing above zero."""
        # host sync: one flag; a NaN compares false
        return bool((self.log_probs <= 1e-4).all())


def _best(logits: Tensor, log_normaliser: Tensor, width: int) -> Marginals:
    vocabulary = logits.shape[-1]
    width = min(width, vocabulary)
    # one more than asked shows whether equal logits straddle the cut, where topk's own choice is arbitrary
    values, tokens = logits.topk(min(width + 1, vocabulary), dim=-1)
    if width < vocabulary and bool((values[:, -2] == values[:, -1]).any()):  # host sync: one flag
        values, tokens = logits.sort(dim=-1, descending=True, stable=True)
    values, tokens = values[:, :width], tokens[:, :width]
    if bool((values[:, 1:] == values[:, :-1]).any()):  # host sync: one flag
        by_token = tokens.argsort(dim=-1)
        values, tokens = values.gather(1, by_token), tokens.gather(1, by_token)
        values, order = values.sort(dim=-1, descending=True, stable=True)
        tokens = tokens.gather(1, order)
    # a row of -inf has no candidates: -inf minus its -inf normaliser would be NaN
    log_probs = torch.where(values == -torch.inf, values, values - log_normaliser)
    wider = (lambda more: _best(logits, log_normaliser, more)) if width < vocabulary else None
    return Marginals(tokens, log_probs, wider)
