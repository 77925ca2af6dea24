"""The best candidates of every row in plain torch: the definition."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_TEMPERATURE = 1e-37
"""Scores are float32: a smaller temperature would be rounded to 0."""


def best_candidates(logits: Tensor, width: int, *, temperature: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return token ids and log-probabilities, ``(rows, width)``, as the door promises them."""
    vocabulary = logits.shape[-1]
    # a vocabulary below the width is filled up with tokens that cannot occur
    logits = F.pad(logits.float(), (0, max(width - vocabulary, 0)), value=-torch.inf)
    scores = logits
    if temperature > 0:
        # from the best logit down: a tiny temperature must not overflow it
        scores = (logits - logits.amax(dim=-1, keepdim=True)) / max(temperature, SMALLEST_TEMPERATURE)
    log_probs = torch.log_softmax(scores, dim=-1)
    # a row of -inf has no candidates, but its log-softmax is NaN
    log_probs = torch.where((logits == -torch.inf).all(dim=-1, keepdim=True), -torch.inf, log_probs)
    tokens = logits.sort(dim=-1, descending=True, stable=True).indices[:, :width]
    return torch.where(tokens < vocabulary, tokens, 0), log_probs.gather(1, tokens)
