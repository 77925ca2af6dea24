"""The target's own choice of the next token: one implementation for trees and for plain decoding.

The randomness of a choice is keyed by (seed, position), never by node or call order, so the text at
temperature > 0 equals plain sampling with that seed for every draft tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from caddtree.core.options import SMALLEST_TEMPERATURE, GenerationOptions
from caddtree.kernels.target_choice import gumbel_noise

__all__ = ["Sampler", "Processor", "gumbel_noise", "keep_top_k", "keep_top_p"]

Processor = Callable[[Tensor, Tensor], Tensor]
"""``(rows, length)`` int64 token ids and ``(rows, vocabulary)`` scores -> scores, as in Transformers."""


@attrs.frozen(eq=False)
class Sampler:
    """Chooses ``argmax(processed logits + noise)``; temperature 0 leaves out the noise (Gumbel-max).

    The order is Transformers' own: processors, temperature, top-k, top-p.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    processors: Sequence[Processor] = ()

    @classmethod
    def from_options(cls, options: GenerationOptions) -> Sampler:
        """Return the sampler of a request."""
        return cls(options.temperature, options.top_k, options.top_p, options.seed)

    @property
    def is_argmax(self) -> bool:
        """Whether the choice is the arg-max of the raw logits, so that all nodes can be chosen at once."""
        return self.temperature == 0 and not self.processors

    @property
    def is_keyed(self) -> bool:
        """Whether the choice follows from one row of logits, the options and the keyed noise, as a kernel makes it."""
        return not self.processors

    def scores(self, logits: Tensor, prefix: Sequence[int] = ()) -> Tensor:
        """Return the processed scores of one row: the distribution that is sampled, as unnormalised logs.

        Args:
            logits: ``(vocabulary,)``.
            prefix: Token ids up to and including the node, read by ``processors`` only.
        """
        scores = logits.float()[None]
        if self.processors:
            tokens = torch.tensor([list(prefix)], dtype=torch.int64, device=logits.device)
            for processor in self.processors:
                scores = processor(tokens, scores)
        return self.tempered(scores)[0]

    def tempered(self, scores: Tensor) -> Tensor:
        """Return ``(rows, vocabulary)`` float32 scores behind temperature, top-k and top-p; the best of a row is 0."""
        if self.temperature == 0:
            return scores
        # from the best score down: a tiny temperature must not overflow it
        scores = (scores - scores.amax(dim=-1, keepdim=True)) / max(self.temperature, SMALLEST_TEMPERATURE)
        if self.top_k is not None:
            scores = keep_top_k(scores, self.top_k)
        if self.filters_by_mass:
            assert self.top_p is not None
            scores = keep_top_p(scores, self.top_p)
        return scores

    @property
    def filters_by_mass(self) -> bool:
        """Whether top-p leaves anything out."""
        return self.top_p is not None and self.top_p < 1

    def choose(self, logits: Tensor, position: int, prefix: Sequence[int] = ()) -> int:
        """Return the target's choice after the node at ``position``; ``logits`` is ``(vocabulary,)``."""
        scores = self.scores(logits, prefix)
        if self.temperature > 0:
            scores = scores + gumbel_noise(self.seed, [position], scores.shape[-1], scores.device)[0]
        return int(scores.argmax())  # host sync: one token id


def keep_top_k(scores: Tensor, top_k: int) -> Tensor:
    """Return scores with everything below the ``top_k``-th best of its row at -inf; ties of it stay."""
    threshold = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[..., -1:]
    return scores.masked_fill(scores < threshold, -torch.inf)


def keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """Return scores with the tail beyond probability mass ``top_p`` at -inf; the best token always stays."""
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    # a token goes when the mass before it already reaches top_p; the first has no mass before it
    beyond = probabilities.cumsum(dim=-1) - probabilities >= top_p
    beyond[..., 0] = False
    return scores.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
