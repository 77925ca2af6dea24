"""Per-position draft distributions, kept as the best candidates of every position."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import attrs
import numpy as np
import torch
from torch import Tensor

from caddtree.core.errors import InputError
from caddtree.core.options import SMALLEST_TEMPERATURE
from caddtree.kernels import availability
from caddtree.kernels.candidates import best_candidates

DEFAULT_WIDTH = 16
"""Candidates kept per position before a builder asks for more: enough in nearly every round."""

LARGEST_LOG_PROB = 1e-4
"""Rounding may leave the log-probability of a certain token this much above 0."""


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
    _found_usable: list[bool] = attrs.field(factory=list, repr=False)
    """What was found out once, here or by a reader of device marginals on its way; nobody waits for it twice."""

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
        if availability.takes_triton(logits):
            return _best_on_device(logits, width, temperature)
        logits = logits.float()
        if temperature > 0:
            # from the best logit down: a tiny temperature must not overflow it
            logits = (logits - logits.amax(dim=-1, keepdim=True)) / max(temperature, SMALLEST_TEMPERATURE)
        # on a CPU this takes half the time of logsumexp
        return _best(logits, torch.log_softmax(logits, dim=-1), width)

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
            self._found_usable,
        )

    @property
    def is_ranked_on_device(self) -> bool:
        """Whether builders rank these on the device, where every number is looked at: asking before would only wait."""
        return availability.takes_triton(self.log_probs)

    def note_usable(self, is_usable: bool) -> None:
        """Remember what :meth:`is_usable` shall say."""
        self._found_usable[:] = [is_usable]

    def is_usable(self) -> bool:
        """Tell whether every number is a log-probability: no NaN, nothing above zero."""
        if not self._found_usable:
            # host sync: one flag, asked for once; a NaN compares false
            self.note_usable(bool((self.log_probs <= LARGEST_LOG_PROB).all()))
        return self._found_usable[0]


def _best(logits: Tensor, log_probs: Tensor, width: int) -> Marginals:
    vocabulary = logits.shape[-1]
    width = min(width, vocabulary)
    if logits.device.type == "cpu" and (found := _best_untied(logits, log_probs, width)) is not None:
        return found
    # one more than asked shows whether equal logits straddle the cut, where topk's own choice is arbitrary
    values, tokens = _largest(logits, min(width + 1, vocabulary))
    last = values[:, width - 1 : width]
    straddles = width < vocabulary and bool((last == values[:, width:]).any())  # host sync: one flag
    values, tokens = values[:, :width], tokens[:, :width]
    if straddles:
        tokens = _lowest_equals(logits, values, tokens, last)
    if straddles or bool((values[:, 1:] == values[:, :-1]).any()):  # host sync: one flag
        by_token = tokens.argsort(dim=-1)
        values, tokens = values.gather(1, by_token), tokens.gather(1, by_token)
        values, order = values.sort(dim=-1, descending=True, stable=True)
        tokens = tokens.gather(1, order)
    # a row of -inf has no candidates, but its log-softmax is NaN
    chosen = torch.where(values == -torch.inf, values, log_probs.gather(1, tokens))
    wider = (lambda more: _best(logits, log_probs, more)) if width < vocabulary else None
    return Marginals(tokens, chosen, wider)


def _best_on_device(logits: Tensor, width: int, temperature: float) -> Marginals:
    vocabulary = logits.shape[-1]
    tokens, log_probs = best_candidates(logits, min(width, vocabulary), temperature=temperature)
    wider = (lambda more: _best_on_device(logits, more, temperature)) if width < vocabulary else None
    return Marginals(tokens, log_probs, wider)


def _best_untied(logits: Tensor, log_probs: Tensor, width: int) -> Marginals | None:
    """Return what :func:`_best` does where no two of the largest logits are equal and none is -inf, else None.

    On a CPU nearly every block is such a one, and NumPy looks at so few numbers faster than torch.
    """
    vocabulary = logits.shape[-1]
    values, tokens = _largest(logits, min(width + 1, vocabulary))
    found = values.numpy()
    # a NaN compares false, and is for the caller to find
    if not ((found[:, 1:] < found[:, :-1]).all() and (found[:, -1] > -np.inf).all()):
        return None
    tokens = tokens[:, :width].contiguous()
    wider = (lambda more: _best(logits, log_probs, more)) if width < vocabulary else None
    return Marginals(tokens, log_probs.gather(1, tokens), wider)


@lru_cache(maxsize=16)
def _column_places(depth: int, vocabulary: int, height: int) -> tuple[Tensor, Tensor]:
    """Return where the rows of the columns start, and the tokens behind the last whole column, ``(depth, rest)``."""
    num_columns = vocabulary // height
    starts = torch.arange(0, num_columns * height, num_columns)
    return starts, torch.arange(num_columns * height, vocabulary).expand(depth, -1)


def _largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the values and indices of the ``count`` largest of every row, best first; ties are arbitrary."""
    depth, vocabulary = logits.shape
    # measured from 4 k to 152 k tokens: columns pay while there are several times as many as are looked for
    height = next((tall for tall in (16, 8) if vocabulary >= 6 * tall * count), 4)
    if logits.device.type != "cpu" or vocabulary < 2 * height * count:
        values, tokens = logits.topk(count, dim=-1)
        return values, tokens
    # the largest lie in the columns with the largest maxima; maxima vectorise, a selection does not
    num_columns = vocabulary // height
    columns = logits[:, : num_columns * height].view(depth, height, num_columns)
    best = columns.amax(dim=1).topk(count, dim=-1, sorted=False).indices
    starts, behind = _column_places(depth, vocabulary, height)
    tokens = (best[:, None, :] + starts[:, None]).flatten(1)
    if behind.shape[1]:
        tokens = torch.cat((tokens, behind), dim=1)
    values, order = logits.gather(1, tokens).topk(count, dim=-1)
    return values, tokens.gather(1, order)


def _lowest_equals(logits: Tensor, values: Tensor, tokens: Tensor, last: Tensor) -> Tensor:
    """Return ``tokens`` with those whose logit equals ``last`` replaced by the lowest such token ids."""
    vocabulary, width = logits.shape[-1], values.shape[-1]
    # logits of 16 bits tie in most rounds: one more selection, not a sort of the vocabulary
    ids = torch.arange(vocabulary, dtype=torch.int32, device=logits.device)
    lowest = _largest(torch.where(logits == last, -ids, -vocabulary), width)[0].neg()
    is_equal = values == last
    place = is_equal.cumsum(dim=-1) - 1
    return torch.where(is_equal, lowest.gather(1, place.clamp(min=0)).long(), tokens)
